import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compareStoredText, fromStoredText, toStoredText } from './stored-text.js';

const anyUnits = fc.array(
  fc.oneof(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0xd7f0, max: 0xe810 }), fc.nat(0xffff)),
);
const anyText = anyUnits.map((units) => String.fromCharCode(...units));
const wellFormed = fc.string({ unit: 'binary' });

describe('stored text', () => {
  it('is what PostgreSQL can hold, and gives the text back', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const stored = toStoredText(text);
        expect(stored.includes('\u0000')).toBe(false);
        expect(stored.isWellFormed()).toBe(true);
        expect(fromStoredText(stored)).toBe(text);
      }),
      { numRuns: 2_000 },
    );
  });

  it('is the text itself where nothing has to be escaped', () => {
    expect(toStoredText('@алиса:ex.org 😀')).toBe('@алиса:ex.org 😀');
  });

  it('sorts as the text does by code point', () => {
    fc.assert(
      fc.property(wellFormed, wellFormed, (one, other) => {
        const byCodePoint = Buffer.compare(Buffer.from(one), Buffer.from(other));
        expect(Math.sign(compareStoredText(one, other))).toBe(byCodePoint);
      }),
    );
  });
});
