import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeBase64, encodeUnpaddedBase64, encodeUrlSafeUnpaddedBase64 } from './base64.js';

const bytes = fc.uint8Array({ maxLength: 100 });

describe('any bytes', () => {
  it('come back from the standard alphabet, padded or not', () => {
    fc.assert(
      fc.property(bytes, (given) => {
        const text = encodeUnpaddedBase64(given);
        expect(text).not.toContain('=');
        expect(decodeBase64(text)).toEqual(given);
        expect(decodeBase64(Buffer.from(given).toString('base64'))).toEqual(given);
      }),
    );
  });

  it('come back from the URL-safe alphabet when it is allowed', () => {
    fc.assert(
      fc.property(bytes, (given) => {
        const text = encodeUrlSafeUnpaddedBase64(given);
        expect(decodeBase64(text, { alphabet: 'either' })).toEqual(given);
      }),
    );
  });

  it('are encoded from a window into a larger buffer', () => {
    expect(encodeUnpaddedBase64(new TextEncoder().encode('xfoox').subarray(1, 4))).toBe('Zm9v');
  });
});

describe('text with unused low bits set (B6-03)', () => {
  it('decodes', () => {
    expect(decodeBase64('Zh')).toEqual(decodeBase64('Zg'));
    expect(decodeBase64('YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1')).toHaveLength(32);
  });
});

describe('junk', () => {
  it.each([
    'Z',
    'Zm9vY',
    'Zg=',
    'Zm8==',
    'Zg===',
    'Z===',
    '=',
    '====',
    'Zg==Zg==',
    'Z g',
    ' Zg',
    'Zg\n',
    'Zm9v!',
    'Zé',
    '-_-_',
    '\u0000',
  ])('%j is not decoded', (text) => {
    expect(decodeBase64(text)).toBeUndefined();
  });

  it('is not decoded when it mixes the alphabets', () => {
    expect(decodeBase64('-_+/', { alphabet: 'either' })).toBeUndefined();
    expect(decodeBase64('-_-_', { alphabet: 'either' })).toHaveLength(3);
    expect(decodeBase64('+/+/', { alphabet: 'either' })).toHaveLength(3);
  });
});
