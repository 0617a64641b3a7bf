import { describe, expect, it } from 'vitest';
import { missingTitles, namedTests, readText } from '../harness/named-tests.js';

/** docs/user-pain.md: every complaint has an answer with a test, or says why it is not ours. */

const rows = readText('docs/user-pain.md')
  .split('\n')
  .filter((line) => /^\| \d+ \|/.test(line))
  .map((line) => {
    const [, number, where = '', hurts = '', answer = '', tests = '', ...more] = line
      .split('|')
      .map((cell) => cell.trim());
    return { number: Number(number), where, hurts, answer, ...namedTests(tests), more: more.join('') };
  });

describe('what hurts people who leave', () => {
  it('is forty-one complaints, each once and in order', () => {
    expect(rows.map(({ number }) => number)).toEqual(Array.from({ length: 41 }, (_, at) => at + 1));
  });

  it.each(rows.map((row) => [row.number, row] as const))('%i has an answer that a test shows', (_, row) => {
    expect([row.where, row.hurts, row.more].map(Boolean)).toEqual([true, true, false]);
    expect(row.tests.flatMap(missingTitles)).toEqual([]);
    if (row.tests.length === 0) expect(row.remark).toMatch(/^— Not ours to answer: .{20}/);
    else expect(row.answer).toMatch(/\w/);
  });
});
