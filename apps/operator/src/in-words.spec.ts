import { describe, expect, it } from 'vitest';
import { countInWords, pdusInWords, printable, spanInWords, timeInWords } from './in-words.js';

const [second, minute, hour, day] = [1_000, 60_000, 3_600_000, 86_400_000];

describe('in words', () => {
  it.each([
    [0, '0 s'],
    [999, '0 s'],
    [minute - 1, '59 s'],
    [minute, '1 min'],
    [hour - 1, '59 min'],
    [hour, '1 h'],
    [2 * day - 1, '47 h'],
    [2 * day, '2 d'],
    [400 * day, '400 d'],
  ])('%i ms are %s', (ms, words) => {
    expect(spanInWords(ms)).toBe(words);
  });

  it.each([
    [3 * minute, 'in 3 min'],
    [-3 * minute, '3 min ago'],
    [second - 1, 'now'],
    [0, 'now'],
    [1 - second, 'now'],
    [second, 'in 1 s'],
  ])('what is %i ms from now is %s', (ms, words) => {
    expect(timeInWords(1_700_000_000_000 + ms, 1_700_000_000_000)).toBe(words);
  });

  it('counts are grouped, and one is one', () => {
    expect([countInWords(1_234_567), pdusInWords(1), pdusInWords(0)]).toEqual([
      '1,234,567',
      '1 PDU',
      '0 PDUs',
    ]);
  });

  it.each([
    ['plain words – näive ☃', 'plain words – näive ☃'],
    ['\u001b[31m', '\ufffd[31m'],
    ['\u009b31m', '\ufffd31m'],
    ['a\r\nb\tc\u0007', 'a\ufffd\ufffdb\ufffdc\ufffd'],
    ['\u202etfel\u2066', '\ufffdtfel\ufffd'],
    ['a\u2028b', 'a\ufffdb'],
  ])('%j is printed as %j', (text, printed) => {
    expect(printable(text)).toBe(printed);
  });
});
