/**
 * A number that JavaScript's `number` cannot hold as it was written: out of the safe integer range, with a
 * fraction or an exponent, or negative zero. Its source text is kept, so that events of room versions 1 to 5
 * verify byte for byte. `source` must be a valid JSON number token. (requirements CJ-04, RV-05)
 */
export class JsonNumber {
  constructor(readonly source: string) {}

  /**
   * Makes a stray `JSON.stringify` write the number rather than this object. Lossless only on Node 21 and newer:
   * use `stringifyJson` where the bytes matter. (requirement CJ-04)
   */
  toJSON(): unknown {
    return json.rawJSON === undefined ? Number(this.source) : json.rawJSON(this.source);
  }
}

/** TypeScript's library does not know `JSON.rawJSON` yet. */
const json: typeof JSON & { readonly rawJSON?: (source: string) => unknown } = JSON;

/** A parsed JSON value without loss. Plain `number`s are always safe integers and never `-0`. */
export type JsonValue = null | boolean | number | string | JsonNumber | readonly JsonValue[] | JsonObject;

/** A JSON object; own keys only, `__proto__` is a key like any other. */
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

/** Why a text was refused; everything but `not-json` is JSON by the grammar that we do not take. (CJ-07, CJ-08) */
export type JsonSyntaxReason = 'not-json' | 'too-deep' | 'duplicate-key' | 'lone-surrogate';

/** What `parseJson` throws; `offset` is where in the text, in UTF-16 units. (requirements CJ-07, CJ-08, HT-04) */
export class JsonSyntaxError extends Error {
  override readonly name = 'JsonSyntaxError';

  constructor(
    readonly reason: JsonSyntaxReason,
    readonly offset: number,
    options?: ErrorOptions,
  ) {
    super(`${reason} at offset ${offset}`, options);
  }
}

/** `maxDepth`: how many arrays and objects may be open at once; 100 unless told, never more than 1000. */
export interface JsonLimits {
  readonly maxDepth?: number;
}

const defaultMaxDepth = 100;
/** The parser and the writers recurse: this many frames fit every stack we run on. */
const highestMaxDepth = 1000;

/**
 * The value of one JSON text, without loss: an integer written canonically within ±(2^53-1) is a `number`, every
 * other number a `JsonNumber` with its source. Takes time in proportion to the text, and the strings it gives do
 * not keep the text alive. Objects are ordinary ones, so keys like `"10"` come out first, in numeric order.
 *
 * Throws `JsonSyntaxError` at the first thing that is not RFC 8259, is nested too deep, repeats a key within one
 * object, or is half of a surrogate pair, raw or escaped. (requirements CJ-04, CJ-06, CJ-07, CJ-08)
 */
export function parseJson(text: string, limits: JsonLimits = {}): JsonValue {
  if (!text.isWellFormed()) {
    throw new JsonSyntaxError('lone-surrogate', 0);
  }
  return new Parser(text, Math.min(limits.maxDepth ?? defaultMaxDepth, highestMaxDepth)).document();
}

/**
 * `parseJson` of UTF-8 bytes. Bytes that are not UTF-8, or that begin with a byte order mark, are `not-json`.
 * (requirements HT-01, CJ-08)
 */
export function parseJsonBytes(bytes: Uint8Array, limits: JsonLimits = {}): JsonValue {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new JsonSyntaxError('not-json', 0, { cause });
  }
  return parseJson(text, limits);
}

/**
 * The value as compact JSON, keys in the object's order, each `JsonNumber` as its source: `parseJson` gives an
 * equal value back. Not canonical JSON. (requirement CJ-04)
 */
export function stringifyJson(value: JsonValue): string {
  return holdsJsonNumber(value) ? writeLossless(value) : JSON.stringify(value);
}

/** Whether the value is a JSON object: not null, not an array, not a `JsonNumber`. (requirement CJ-07) */
export function isJsonObject(value: unknown): value is JsonObject {
  return (
    typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof JsonNumber)
  );
}

/**
 * The object's own value for the key, `undefined` without one; an inherited name such as `constructor` is never
 * mistaken for a member. (requirement CJ-07)
 */
export function memberOf(object: JsonObject, key: string): JsonValue | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

/** A shallow copy without the named keys, the others in their order. (requirement CJ-07) */
export function withoutKeys(object: JsonObject, ...keys: readonly string[]): JsonObject {
  const copy: Record<string, JsonValue> = {};
  for (const key of Object.keys(object)) {
    if (!keys.includes(key)) {
      setMember(copy, key, object[key] as JsonValue);
    }
  }
  return copy;
}

/** A shallow copy with the additions on top; a key in both takes the added value. (requirement CJ-07) */
export function withKeys(object: JsonObject, additions: JsonObject): JsonObject {
  // Spread defines own properties and never runs the `__proto__` setter.
  return { ...object, ...additions };
}

/** Whether a `JsonNumber` is anywhere inside. (requirements CJ-05, CJ-06) */
export function holdsJsonNumber(value: JsonValue): boolean {
  if (typeof value !== 'object' || value === null) {
    return false;
  }
  if (value instanceof JsonNumber) {
    return true;
  }
  if (Array.isArray(value)) {
    return value.some(holdsJsonNumber);
  }
  const object = value as JsonObject;
  return Object.keys(object).some((key) => holdsJsonNumber(object[key] as JsonValue));
}

function writeLossless(value: JsonValue): string {
  if (typeof value !== 'object' || value === null) {
    return JSON.stringify(value);
  }
  if (value instanceof JsonNumber) {
    return value.source;
  }
  if (Array.isArray(value)) {
    return `[${value.map(writeLossless).join(',')}]`;
  }
  const object = value as JsonObject;
  const members = Object.keys(object).map(
    (key) => `${JSON.stringify(key)}:${writeLossless(object[key] as JsonValue)}`,
  );
  return `{${members.join(',')}}`;
}

function setMember(object: Record<string, JsonValue>, key: string, value: JsonValue): void {
  if (key === '__proto__') {
    Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
  } else {
    object[key] = value;
  }
}

/** V8 copies shorter slices; a longer one points into the text it was cut from and keeps all of it in memory. */
const shortestRetainingSlice = 13;

const code = {
  tab: 0x09,
  lineFeed: 0x0a,
  carriageReturn: 0x0d,
  space: 0x20,
  quote: 0x22,
  plus: 0x2b,
  comma: 0x2c,
  minus: 0x2d,
  point: 0x2e,
  zero: 0x30,
  nine: 0x39,
  colon: 0x3a,
  upperE: 0x45,
  openBracket: 0x5b,
  backslash: 0x5c,
  closeBracket: 0x5d,
  lowerE: 0x65,
  f: 0x66,
  n: 0x6e,
  t: 0x74,
  openBrace: 0x7b,
  closeBrace: 0x7d,
} as const;

/** One pass over one text, by recursive descent. Past the end, `charCodeAt` gives NaN, which equals nothing. */
class Parser {
  private at = 0;

  constructor(
    private readonly text: string,
    private readonly maxDepth: number,
  ) {}

  document(): JsonValue {
    const value = this.value(0);
    this.skipSpace();
    if (this.at !== this.text.length) {
      this.fail('not-json');
    }
    return value;
  }

  private value(depth: number): JsonValue {
    const first = this.skipSpace();
    switch (first) {
      case code.quote:
        return this.string('value');
      case code.openBrace:
        return this.object(depth + 1);
      case code.openBracket:
        return this.array(depth + 1);
      case code.t:
        return this.literal('true', true);
      case code.f:
        return this.literal('false', false);
      case code.n:
        return this.literal('null', null);
      default:
        return this.number(first);
    }
  }

  private object(depth: number): JsonObject {
    if (depth > this.maxDepth) {
      this.fail('too-deep');
    }
    const object: Record<string, JsonValue> = {};
    this.at += 1;
    let next = this.skipSpace();
    if (next === code.closeBrace) {
      this.at += 1;
      return object;
    }
    for (;;) {
      if (next !== code.quote) {
        this.fail('not-json');
      }
      const key = this.string('key');
      // The first test alone is cheap, and right but for the names every object inherits.
      if (object[key] !== undefined && Object.hasOwn(object, key)) {
        this.fail('duplicate-key');
      }
      if (this.skipSpace() !== code.colon) {
        this.fail('not-json');
      }
      this.at += 1;
      setMember(object, key, this.value(depth));
      next = this.skipSpace();
      this.at += 1;
      if (next === code.closeBrace) {
        return object;
      }
      if (next !== code.comma) {
        this.at -= 1;
        this.fail('not-json');
      }
      next = this.skipSpace();
    }
  }

  private array(depth: number): readonly JsonValue[] {
    if (depth > this.maxDepth) {
      this.fail('too-deep');
    }
    const array: JsonValue[] = [];
    this.at += 1;
    if (this.skipSpace() === code.closeBracket) {
      this.at += 1;
      return array;
    }
    for (;;) {
      array.push(this.value(depth));
      const next = this.skipSpace();
      this.at += 1;
      if (next === code.closeBracket) {
        return array;
      }
      if (next !== code.comma) {
        this.at -= 1;
        this.fail('not-json');
      }
    }
  }

  /** A key is copied by the object that takes it, so only a value needs a copy of its own. */
  private string(role: 'key' | 'value'): string {
    const text = this.text;
    const open = this.at;
    let at = open + 1;
    for (;;) {
      const unit = text.charCodeAt(at);
      if (unit === code.quote) {
        this.at = at + 1;
        return role === 'key' || at - open <= shortestRetainingSlice
          ? text.slice(open + 1, at)
          : (JSON.parse(text.slice(open, at + 1)) as string);
      }
      if (unit === code.backslash) {
        return this.escapedString(open, at);
      }
      // False for NaN too: the text ended within the string.
      if (!(unit >= code.space)) {
        this.at = at;
        this.fail('not-json');
      }
      at += 1;
    }
  }

  /** The string from `open`, of which everything before `at` holds no escape. */
  private escapedString(open: number, at: number): string {
    const text = this.text;
    for (;;) {
      const unit = text.charCodeAt(at);
      if (unit === code.quote) {
        break;
      }
      if (!(unit >= code.space)) {
        this.at = at;
        this.fail('not-json');
      }
      at += unit === code.backslash ? 2 : 1;
    }
    let value: string;
    try {
      value = JSON.parse(text.slice(open, at + 1)) as string;
    } catch (cause) {
      throw new JsonSyntaxError('not-json', open, { cause });
    }
    if (!value.isWellFormed()) {
      this.at = open;
      this.fail('lone-surrogate');
    }
    this.at = at + 1;
    return value;
  }

  private number(first: number): number | JsonNumber {
    const text = this.text;
    const start = this.at;
    const negative = first === code.minus;
    const firstDigit = negative ? start + 1 : start;
    let unit = text.charCodeAt(firstDigit);
    let at = firstDigit;
    let magnitude = 0;
    // RFC 8259: a zero stands alone, so `01` ends here and the 1 is found to be garbage.
    if (unit === code.zero) {
      at += 1;
      unit = text.charCodeAt(at);
    } else {
      while (unit >= code.zero && unit <= code.nine) {
        magnitude = magnitude * 10 + (unit - code.zero);
        at += 1;
        unit = text.charCodeAt(at);
      }
    }
    if (at === firstDigit) {
      this.at = at;
      this.fail('not-json');
    }
    const isInteger = unit !== code.point && unit !== code.lowerE && unit !== code.upperE;
    if (isInteger) {
      this.at = at;
      // Sums and products stay exact up to 2^53, and one that left the safe range never comes back into it.
      if (magnitude <= Number.MAX_SAFE_INTEGER && !(negative && magnitude === 0)) {
        return negative ? -magnitude : magnitude;
      }
      return this.keptNumber(start, at);
    }
    if (unit === code.point) {
      at = this.digits(at + 1);
      unit = text.charCodeAt(at);
    }
    if (unit === code.lowerE || unit === code.upperE) {
      at += 1;
      unit = text.charCodeAt(at);
      at = this.digits(unit === code.plus || unit === code.minus ? at + 1 : at);
    }
    this.at = at;
    return this.keptNumber(start, at);
  }

  /** Where the run of digits that must begin at `from` ends. */
  private digits(from: number): number {
    let at = from;
    for (;;) {
      const unit = this.text.charCodeAt(at);
      if (!(unit >= code.zero && unit <= code.nine)) {
        break;
      }
      at += 1;
    }
    if (at === from) {
      this.at = at;
      this.fail('not-json');
    }
    return at;
  }

  private keptNumber(start: number, end: number): JsonNumber {
    const source = this.text.slice(start, end);
    return new JsonNumber(
      source.length < shortestRetainingSlice ? source : (JSON.parse(`"${source}"`) as string),
    );
  }

  private literal<T>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.at)) {
      this.fail('not-json');
    }
    this.at += word.length;
    return value;
  }

  private skipSpace(): number {
    for (;;) {
      const unit = this.text.charCodeAt(this.at);
      if (
        unit !== code.space &&
        unit !== code.lineFeed &&
        unit !== code.carriageReturn &&
        unit !== code.tab
      ) {
        return unit;
      }
      this.at += 1;
    }
  }

  private fail(reason: JsonSyntaxReason): never {
    throw new JsonSyntaxError(reason, this.at);
  }
}
