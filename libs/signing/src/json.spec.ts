import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  isJsonObject,
  JsonNumber,
  JsonSyntaxError,
  memberOf,
  parseJson,
  parseJsonBytes,
  stringifyJson,
  withKeys,
  withoutKeys,
} from './json.js';
import type { JsonObject, JsonSyntaxReason } from './json.js';

function reasonOf(parse: () => unknown): JsonSyntaxReason | 'accepted' {
  try {
    parse();
    return 'accepted';
  } catch (error) {
    if (error instanceof JsonSyntaxError) {
      return error.reason;
    }
    throw error;
  }
}

const utf8 = (text: string) => new TextEncoder().encode(text);

describe('a text that is ordinary JSON', () => {
  /** Values whose numbers JSON.parse and we agree on. */
  const ordinary = fc
    .jsonValue({ stringUnit: 'binary' })
    .map(
      (value) =>
        JSON.parse(
          JSON.stringify(value, (_, part: unknown) =>
            typeof part === 'number' ? Math.round(part) % 2 ** 53 : part,
          ).replace(/-0(?![.\d])/g, '0'),
        ) as unknown,
    );

  it('parses as by JSON.parse, and writes back to the same text', () => {
    fc.assert(
      fc.property(ordinary, fc.constantFrom(undefined, 1, '\t'), (value, space) => {
        const text = JSON.stringify(value, undefined, space);
        const parsed = parseJson(text);
        expect(parsed).toStrictEqual(JSON.parse(text));
        expect(stringifyJson(parsed)).toBe(JSON.stringify(value));
      }),
    );
  });

  it('agrees with JSON.parse on what is JSON, for texts made of JSON fragments', () => {
    const fragment = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"',
      '\\',
      '"a"',
      '"b"',
      '1',
      '-',
      '0',
      '.5',
      'e',
      '+',
      ' ',
      '\n',
      'true',
      'null',
      'fals',
      '\u0001',
      '\\u00',
      '"\\n"',
      '\ufeff',
      '\u00a0',
      '{"a":1}',
      '[1,2]',
    );
    fc.assert(
      fc.property(fc.array(fragment, { maxLength: 12 }), (fragments) => {
        const text = fragments.join('');
        const reason = reasonOf(() => parseJson(text));
        const isJson = reasonOfNative(text);
        expect(reason === 'not-json').toBe(!isJson);
      }),
      { numRuns: 3000 },
    );
  });

  function reasonOfNative(text: string): boolean {
    try {
      JSON.parse(text);
      return true;
    } catch {
      return false;
    }
  }

  it('keeps __proto__ and other inherited names as own keys', () => {
    const parsed = parseJson(
      '{"__proto__":{"a":1},"constructor":2,"toString":3,"hasOwnProperty":4}',
    ) as JsonObject;
    expect(Object.keys(parsed)).toEqual(['__proto__', 'constructor', 'toString', 'hasOwnProperty']);
    expect(Object.getPrototypeOf(parsed)).toBe(Object.prototype);
    expect(memberOf(parsed, '__proto__')).toEqual({ a: 1 });
    expect(stringifyJson(parsed)).toBe(
      '{"__proto__":{"a":1},"constructor":2,"toString":3,"hasOwnProperty":4}',
    );
  });

  it('reads long strings and strings with escapes', () => {
    const long = 'x'.repeat(1000);
    expect(parseJson(`["${long}","${long}\\n\\u00e9\\"\\\\","\\ud83d\\ude00"]`)).toEqual([
      long,
      `${long}\né"\\`,
      '😀',
    ]);
  });
});

describe('numbers (CJ-04, CJ-06)', () => {
  it.each([
    ['0', 0],
    ['-1', -1],
    ['9007199254740991', 9007199254740991],
    ['-9007199254740991', -9007199254740991],
  ])('%s is a number', (text, expected) => {
    expect(parseJson(text)).toBe(expected);
  });

  it.each([
    '-0',
    '0.0',
    '-0.0',
    '1.0',
    '1e3',
    '1E+3',
    '1e-3',
    '5.114698E4',
    '50.57',
    '9007199254740992',
    '9007199254740993',
    '-9007199254740992',
    '9223372036854775807',
    '1e400',
    '123456789012345678901234567890.123456789e-12',
  ])('%s is kept as its source', (source) => {
    expect(parseJson(source)).toStrictEqual(new JsonNumber(source));
    expect(stringifyJson(parseJson(`{"b":[${source}],"a":"\\u0001"}`))).toBe(
      `{"b":[${source}],"a":"\\u0001"}`,
    );
  });

  it('writes the number, not its wrapper, where somebody calls JSON.stringify', () => {
    expect(JSON.stringify({ depth: new JsonNumber('1.50') })).toBe('{"depth":1.50}');
  });

  it.each([
    '01',
    '-',
    '+1',
    '.5',
    '1.',
    '1.e5',
    '1e',
    '1e+',
    '0x10',
    'NaN',
    'Infinity',
    '-Infinity',
    '1 2',
    '--1',
    '1_0',
  ])('%s is not JSON', (text) => {
    expect(reasonOf(() => parseJson(text))).toBe('not-json');
  });
});

describe('a text we do not take', () => {
  it.each<[string, JsonSyntaxReason]>([
    ['', 'not-json'],
    [' ', 'not-json'],
    ['{"a":1}x', 'not-json'],
    ['{"a":1,}', 'not-json'],
    ['[1,]', 'not-json'],
    ["{'a':1}", 'not-json'],
    ['{a:1}', 'not-json'],
    ['"\u0000"', 'not-json'],
    ['"\n"', 'not-json'],
    ['"\\x"', 'not-json'],
    ['"\\u12"', 'not-json'],
    ['"abc', 'not-json'],
    ['"abc\\', 'not-json'],
    ['"abc\\"', 'not-json'],
    ['\ufeff{}', 'not-json'],
    ['{"a":1,"b":{"a":1},"a":1}', 'duplicate-key'],
    ['{"a":1,"\\u0061":1}', 'duplicate-key'],
    ['{"__proto__":1,"__proto__":2}', 'duplicate-key'],
    ['{"toString":1,"toString":2}', 'duplicate-key'],
    ['{"1":1,"1":2}', 'duplicate-key'],
    ['"\ud800"', 'lone-surrogate'],
    ['{"\udc00":1}', 'lone-surrogate'],
    ['"\\ud800"', 'lone-surrogate'],
    ['"\\udc00\\ud800"', 'lone-surrogate'],
    ['{"\\uD83D":1}', 'lone-surrogate'],
  ])('%j is %s', (text, reason) => {
    expect(reasonOf(() => parseJson(text))).toBe(reason);
  });

  it('is too deep past the limit', () => {
    const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
    expect(reasonOf(() => parseJson(nested(100)))).toBe('accepted');
    expect(reasonOf(() => parseJson(nested(101)))).toBe('too-deep');
    expect(reasonOf(() => parseJson('{"a":{}}', { maxDepth: 1 }))).toBe('too-deep');
    expect(reasonOf(() => parseJson('1', { maxDepth: 0 }))).toBe('accepted');
    expect(reasonOf(() => parseJson('['.repeat(5_000_000), { maxDepth: Infinity }))).toBe('too-deep');
  });

  it.each([
    ['a cut-off sequence', [0x22, 0xc3, 0x22]],
    ['an overlong form', [0x22, 0xc0, 0xaf, 0x22]],
    ['an encoded surrogate', [0x22, 0xed, 0xa0, 0x80, 0x22]],
    ['a byte order mark', [0xef, 0xbb, 0xbf, 0x7b, 0x7d]],
  ])('as bytes, %s is not JSON', (_, bytes) => {
    expect(reasonOf(() => parseJsonBytes(Uint8Array.from(bytes)))).toBe('not-json');
  });
});

describe('bytes', () => {
  it('are read as UTF-8', () => {
    expect(parseJsonBytes(utf8('{"日":"😀"}'))).toEqual({ 日: '😀' });
  });
});

describe('hostile sizes', () => {
  const megabyte = 1024 * 1024;

  it.each([
    ['digits', '1'.repeat(4 * megabyte)],
    ['fraction digits', `0.${'1'.repeat(4 * megabyte)}`],
    ['backslashes', `"${'\\\\'.repeat(2 * megabyte)}"`],
    ['escaped quotes', `"${'\\"'.repeat(2 * megabyte)}"`],
    ['many strings', `[${'"a",'.repeat(megabyte)}1]`],
    ['many keys', `{${Array.from({ length: 200_000 }, (_, index) => `"k${index}":1`).join(',')}}`],
    ['an unfinished string', `"${'\\"'.repeat(2 * megabyte)}`],
    ['spaces', `${' '.repeat(4 * megabyte)}1`],
  ])('%s take time in proportion', (_, text) => {
    const started = performance.now();
    reasonOf(() => parseJson(text));
    expect(performance.now() - started).toBeLessThan(5000);
  });
});

describe('objects', () => {
  const withProto = parseJson('{"__proto__":{"x":1},"a":1,"b":2}') as JsonObject;

  it('are told from all other values', () => {
    expect([{}, withProto].every(isJsonObject)).toBe(true);
    expect([null, [], 'a', 1, true, undefined, new JsonNumber('1.5')].some(isJsonObject)).toBe(false);
  });

  it('are copied without keys', () => {
    expect(stringifyJson(withoutKeys(withProto, 'a'))).toBe('{"__proto__":{"x":1},"b":2}');
    expect(stringifyJson(withoutKeys(withProto, '__proto__', 'missing'))).toBe('{"a":1,"b":2}');
  });

  it('are copied with keys', () => {
    const additions = parseJson('{"__proto__":7,"b":3,"c":4}') as JsonObject;
    expect(stringifyJson(withKeys(withProto, additions))).toBe('{"__proto__":7,"a":1,"b":3,"c":4}');
    expect(stringifyJson(withProto)).toBe('{"__proto__":{"x":1},"a":1,"b":2}');
  });

  it('give their own members only', () => {
    expect(memberOf({}, 'constructor')).toBeUndefined();
    expect(memberOf({}, '__proto__')).toBeUndefined();
    expect(memberOf({ a: null }, 'a')).toBeNull();
  });
});
