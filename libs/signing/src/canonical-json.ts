import canonicaljson from 'canonicaljson';
import { holdsJsonNumber, isJsonObject, JsonNumber } from './json.js';
import type { JsonObject, JsonValue } from './json.js';

declare const brand: unique symbol;

/** Canonical JSON as text: made by `encodeCanonicalJson`, or put together from such by `canonicalObjectOf`. */
export type CanonicalJson = string & { readonly [brand]: 'CanonicalJson' };

/**
 * The value as Matrix canonical JSON: no spaces, keys by Unicode code point, only the escapes that JSON demands,
 * with lower-case hex. The UTF-8 of this text is what gets hashed and signed.
 *
 * Canonical JSON has no form for most `JsonNumber`s, yet events of room versions 1 to 5 and signed request bodies
 * hold them and must verify, so they are written as their source. The one exception is an integer without a
 * fraction whose value is in the safe range, that is `-0` and the likes of `1e10`: written as plain digits, as the
 * spec's last example wants. Encoders that turn to exponents do so past 2^53 (Python at 1e16, Go and JavaScript at
 * 1e21), where the source is kept, so the exception costs nobody's signature. Whether a room version allows a
 * `JsonNumber` at all is for `holdsOnlyCanonicalNumbers` to say.
 *
 * Throws `TypeError` for what no parsed value holds: `undefined`, a float or unsafe integer as `number`, a lone
 * surrogate. Recurses once a level, so the depth must be bounded, as `parseJson` does.
 * (Spec v1.19, appendices, Canonical JSON; requirements CJ-01 to CJ-04, CJ-08, RA-18)
 */
export function encodeCanonicalJson(value: JsonValue): CanonicalJson {
  return encode(value) as CanonicalJson;
}

/**
 * The canonical JSON of an object whose members are canonical already, each a text or the texts of an array's items:
 * what `encodeCanonicalJson` gives for the whole, without a look at what is inside. (requirements CJ-01 to CJ-03)
 */
export function canonicalObjectOf(
  members: Readonly<Record<string, CanonicalJson | readonly CanonicalJson[]>>,
): CanonicalJson {
  const texts = sortedKeys(members).map((key) => {
    const member = members[key] as CanonicalJson | readonly CanonicalJson[];
    return `${encodeString(key)}:${typeof member === 'string' ? member : `[${member.join(',')}]`}`;
  });
  return `{${texts.join(',')}}` as CanonicalJson;
}

function encode(value: JsonValue): string {
  switch (typeof value) {
    case 'string':
      return encodeString(value);
    case 'number':
      return encodeInteger(value);
    case 'boolean':
      return value ? 'true' : 'false';
    case 'object':
      if (value === null) {
        return 'null';
      }
      if (Array.isArray(value)) {
        return encodeArray(value);
      }
      return value instanceof JsonNumber ? encodeJsonNumber(value) : encodeObject(value as JsonObject);
    default:
      throw new TypeError(`no canonical JSON for ${typeof value}`);
  }
}

/**
 * Whether every number inside was written as canonical JSON demands, which room versions 6 and newer enforce:
 * false when a fraction, an exponent, `-0` or an integer past ±(2^53-1) is anywhere inside.
 * (rooms/v6, canonical JSON; requirements CJ-02, CJ-05, CJ-06)
 */
export function holdsOnlyCanonicalNumbers(value: JsonValue): boolean {
  return !holdsJsonNumber(value);
}

/**
 * The same text by the `canonicaljson` package: the independent oracle that a property test holds
 * `encodeCanonicalJson` byte-equal to. Ten times slower, so not for the request path.
 *
 * The package is made for another canonical form. It writes control characters in upper-case hex, which is
 * repaired here. Throws `TypeError` for what it would write wrongly or trip over: floats, unsafe integers,
 * `JsonNumber`, lone surrogates, `undefined`, more than 1000 levels, and objects whose member `constructor` it
 * mistakes for their class. (requirements CJ-01 to CJ-03, CJ-08)
 */
export function encodeWithCanonicaljsonPackage(value: JsonValue): string {
  refuseWhatThePackageGetsWrong(value, 0);
  // A pair at a time, so that the second backslash of an escaped one never starts an escape.
  return canonicaljson
    .stringify(value)
    .replace(/\\(?:u[0-9A-F]{4}|.)/gu, (escape) => (escape.length === 6 ? escape.toLowerCase() : escape));
}

function encodeString(value: string): string {
  if (!value.isWellFormed()) {
    throw new TypeError('no canonical JSON for a lone surrogate');
  }
  // For well-formed text, JSON.stringify escapes just what CJ-03 lists, in lower-case hex.
  return JSON.stringify(value);
}

function encodeInteger(value: number): string {
  if (!Number.isSafeInteger(value)) {
    throw new TypeError(`no canonical JSON for the number ${value}`);
  }
  return String(value);
}

const integerToken = /^-?[0-9]+(?:[eE]\+?[0-9]+)?$/;
/** No safe integer without leading zeros needs more; keeps the pattern away from absurd tokens. */
const longestSafeIntegerToken = 32;

function encodeJsonNumber({ source }: JsonNumber): string {
  if (source.length <= longestSafeIntegerToken && integerToken.test(source)) {
    const value = Number(source);
    if (Number.isSafeInteger(value)) {
      return String(value);
    }
  }
  return source;
}

function encodeArray(array: readonly JsonValue[]): string {
  let text = '[';
  for (let index = 0; index < array.length; index += 1) {
    if (index > 0) {
      text += ',';
    }
    text += encode(array[index] as JsonValue);
  }
  return `${text}]`;
}

function encodeObject(object: JsonObject): string {
  let text = '{';
  for (const key of sortedKeys(object)) {
    if (text.length > 1) {
      text += ',';
    }
    text += `${encodeString(key)}:${encode(object[key] as JsonValue)}`;
  }
  return `${text}}`;
}

/** Only from here on do UTF-16 units, which `sort()` goes by, and code points order differently. */
const firstSurrogateOrBeyond = /[\ud800-\uffff]/;

function sortedKeys(object: object): string[] {
  const keys = Object.keys(object);
  return keys.some((key) => firstSurrogateOrBeyond.test(key)) ? keys.sort(compareCodePoints) : keys.sort();
}

function compareCodePoints(left: string, right: string): number {
  const length = Math.min(left.length, right.length);
  for (let index = 0; index < length; index += 1) {
    // At the first difference within a pair both sides are low surrogates, so units order as code points do.
    if (left.charCodeAt(index) !== right.charCodeAt(index)) {
      return (left.codePointAt(index) as number) - (right.codePointAt(index) as number);
    }
  }
  return left.length - right.length;
}

const deepestForThePackage = 1000;

function refuseWhatThePackageGetsWrong(value: unknown, depth: number): void {
  if (depth > deepestForThePackage) {
    throw new TypeError('too deep for the canonicaljson package');
  }
  if (value === null || typeof value === 'boolean' || Number.isSafeInteger(value)) {
    return;
  }
  if (typeof value === 'string' && value.isWellFormed()) {
    return;
  }
  if (Array.isArray(value)) {
    for (const item of value as readonly unknown[]) {
      refuseWhatThePackageGetsWrong(item, depth + 1);
    }
    return;
  }
  if (!isJsonObject(value) || Object.hasOwn(value, 'constructor')) {
    throw new TypeError('the canonicaljson package has no right form for this value');
  }
  for (const key of Object.keys(value)) {
    refuseWhatThePackageGetsWrong(key, depth + 1);
    refuseWhatThePackageGetsWrong(value[key], depth + 1);
  }
}
