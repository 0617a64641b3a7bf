import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  canonicalObjectOf,
  encodeCanonicalJson,
  encodeWithCanonicaljsonPackage,
  holdsOnlyCanonicalNumbers,
} from './canonical-json.js';
import { JsonNumber, parseJson } from './json.js';
import type { JsonObject, JsonValue } from './json.js';

/** Characters where encoders go wrong: controls, DEL, surrogate pairs, and what sorts between them. */
const trickyUnit = fc.oneof(
  fc.constantFrom(
    'a',
    'A',
    '_',
    '"',
    '\\',
    '/',
    'u001F',
    '\u0000',
    '\u001f',
    '\u007f',
    '\u2028',
    '\ue000',
    '\uffff',
    '😀',
    '𐀀',
  ),
  fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
);
const text = fc.string({ unit: trickyUnit, maxLength: 6 });
const value = fc.letrec<{ value: JsonValue; object: JsonObject }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 5 },
    fc.constantFrom(null, true, false),
    fc.maxSafeInteger(),
    text,
    fc.array(tie('value'), { maxLength: 4 }),
    tie('object'),
  ),
  object: fc.dictionary(
    fc.oneof(text, fc.constantFrom('__proto__', 'toString', '10', '9', '1')),
    tie('value'),
    { maxKeys: 6, noNullPrototype: true },
  ),
})).value;

describe('canonical JSON', () => {
  it('is what the canonicaljson package writes, repaired', () => {
    fc.assert(
      fc.property(value, (given) => {
        expect(encodeCanonicalJson(given)).toBe(encodeWithCanonicaljsonPackage(given));
      }),
      { numRuns: 1000 },
    );
  });

  it('parses back to the same value, and encodes to itself', () => {
    fc.assert(
      fc.property(value, (given) => {
        const encoded = encodeCanonicalJson(given);
        const parsed = parseJson(encoded);
        expect(parsed).toEqual(given);
        expect(encodeCanonicalJson(parsed)).toBe(encoded);
        expect(holdsOnlyCanonicalNumbers(parsed)).toBe(true);
      }),
    );
  });

  it('orders keys as their UTF-8 bytes order', () => {
    fc.assert(
      fc.property(fc.uniqueArray(text, { maxLength: 20 }), (keys) => {
        const object = Object.fromEntries(keys.map((key) => [key, 1]));
        const inOrder = keys.toSorted((left, right) => Buffer.compare(Buffer.from(left), Buffer.from(right)));
        expect(encodeCanonicalJson(object)).toBe(
          `{${inOrder.map((key) => `${JSON.stringify(key)}:1`).join(',')}}`,
        );
      }),
    );
  });

  it('of an object can be put together from that of its members', () => {
    const key = fc.oneof(text, fc.constantFrom('__proto__', 'toString', '10', '9'));
    const members = fc.dictionary(key, fc.oneof(value, fc.array(value)), { noNullPrototype: true });
    fc.assert(
      fc.property(members, (given) => {
        const texts = Object.entries(given).map(([name, member]) => [
          name,
          Array.isArray(member)
            ? member.map((item: JsonValue) => encodeCanonicalJson(item))
            : encodeCanonicalJson(member),
        ]);
        expect(canonicalObjectOf(Object.fromEntries(texts))).toBe(encodeCanonicalJson(given));
      }),
    );
  });
});

describe('numbers that canonical JSON has no form for (CJ-04, RA-18)', () => {
  it.each([
    ['1.0', '1.0'],
    ['1.50', '1.50'],
    ['-0.0', '-0.0'],
    ['1.0e3', '1.0e3'],
    ['1e-3', '1e-3'],
    ['10e-1', '10e-1'],
    ['1e16', '1e16'],
    ['1e400', '1e400'],
    ['9223372036854775807', '9223372036854775807'],
    ['9007199254740993', '9007199254740993'],
  ])('%s keeps its source', (source, expected) => {
    expect(encodeCanonicalJson(parseJson(`[${source}]`))).toBe(`[${expected}]`);
  });

  it.each([
    ['-0', '0'],
    ['-0e5', '0'],
    ['0E0', '0'],
    ['1e10', '10000000000'],
    ['-12E+3', '-12000'],
    ['9e15', '9000000000000000'],
  ])('%s, an integer in the safe range, is written as plain digits', (source, expected) => {
    expect(encodeCanonicalJson(parseJson(`[${source}]`))).toBe(`[${expected}]`);
  });

  it('are found wherever they hide', () => {
    expect(holdsOnlyCanonicalNumbers(parseJson('{"a":[{"b":1.0}]}'))).toBe(false);
    expect(holdsOnlyCanonicalNumbers(parseJson('{"a":[{"b":"1.0"},1,null,true]}'))).toBe(true);
  });
});

describe('values that no parsed text holds', () => {
  it.each<[string, unknown]>([
    ['a float', 1.5],
    ['an unsafe integer', 2 ** 53],
    ['NaN', Number.NaN],
    ['undefined', { a: undefined }],
    ['a bigint', 1n],
    ['a lone surrogate', ['\ud800']],
    ['a lone surrogate as key', { '\udc00': 1 }],
  ])('%s is refused by both encoders', (_, given) => {
    expect(() => encodeCanonicalJson(given as JsonValue)).toThrow(TypeError);
    expect(() => encodeWithCanonicaljsonPackage(given as JsonValue)).toThrow(TypeError);
  });

  it.each<[string, JsonValue]>([
    ['JsonNumber', new JsonNumber('1.5')],
    ['a member that looks like BigNumber', { constructor: { name: 'BigNumber' } }],
    ['a null constructor', { constructor: null }],
    ['too many levels', parseJson('['.repeat(1000) + ']'.repeat(1000), { maxDepth: 1000 })],
  ])('%s is ours alone', (name, given) => {
    expect(() => encodeCanonicalJson(given)).not.toThrow();
    const encode = () => encodeWithCanonicaljsonPackage(name === 'too many levels' ? [[given]] : given);
    expect(encode).toThrow(TypeError);
  });
});
