import { describe, expect, it } from 'vitest';
import {
  codeSpans,
  fileExists,
  missingTitles,
  namedTests,
  readText,
  type NamedTest,
} from '../harness/named-tests.js';

/** docs/spec-map.md: every row points at files that are there and tests that are in them. */

/** The requirements that the spec makes, or that follow from it, in what this service is for. */
const required: Readonly<Record<string, string>> = {
  TOP: '01-03',
  RV: '01-09',
  EV: '01-12',
  CJ: '01-08',
  B6: '01 03-04',
  SG: '01-13',
  ID: '01-12',
  HT: '01-05',
  RA: '01-06 09-11 14-18',
  KY: '01-03 05-07 09-15',
  ML: '01-15',
  LV: '01-02 04-09 11-16 18-19',
  SL: '01-03 05-11 13-14 17-18',
  PD: '01-11',
  PS: '01 03',
  AE: '01-08',
  AU: '01-07 20-25 30-34',
  PL: '01-04',
  KN: '01-04',
  TX: '01-04 06-09',
  BR: '01-05 07',
  FE: '01-10',
  AC: '01-08',
  SR: '01-02 10-11 20-28 30-32',
};

/** Of these, what is not done: a row says so, and what follows is told at the end of the page. */
const notDone = ['KY-05 KY-06 KY-07', 'PS-03 LV-19'].flatMap((some) => some.split(' '));

function idsOf(prefix: string, ranges: string): readonly string[] {
  return ranges.split(' ').flatMap((range) => {
    const [first, last = first] = range.split('-').map(Number);
    return Array.from(
      { length: last! - first! + 1 },
      (_, at) => `${prefix}-${String(first! + at).padStart(2, '0')}`,
    );
  });
}

interface Row {
  readonly id: string;
  readonly strength: string;
  readonly asks: string;
  readonly sources: readonly string[];
  readonly tests: readonly NamedTest[];
  /** What is said besides: why there is no test, or what is missing. */
  readonly remark: string;
}

function rowOf(line: string): Row | undefined {
  const [, label, asks, where, tests, ...more] = line.split('|').map((cell) => cell.trim());
  const [, id, strength] = /^([A-Z][A-Z0-9]+-\d\d) \[([A-Z])\]$/.exec(label ?? '') ?? [];
  if (id === undefined || strength === undefined) return undefined;
  if (asks === undefined || where === undefined || tests === undefined || more.join('') !== '')
    throw new Error(`${id}: a row has four cells`);
  return { id, strength, asks, sources: codeSpans(where), ...namedTests(tests) };
}

const page = readText('docs/spec-map.md');
const rows = page.split('\n').flatMap((line) => rowOf(line) ?? []);

describe('the map of the spec', () => {
  it('has a row for each requirement, and each once', () => {
    const ids = rows.map(({ id }) => id);
    const wanted = Object.entries(required).flatMap(([prefix, ranges]) => idsOf(prefix, ranges));
    expect(wanted.filter((id) => !ids.includes(id))).toEqual([]);
    expect(ids.filter((id, at) => ids.indexOf(id) !== at)).toEqual([]);
  });

  it('has a source and a test in each row, but for those that say why not', () => {
    const without = rows.filter(({ sources, tests }) => sources.length === 0 || tests.length === 0);
    expect(without.map(({ id }) => id).sort()).toEqual([...notDone].sort());
    for (const { id, remark } of without) expect(remark, id).toMatch(/^— .{10}/);
  });

  it('tells what follows from all that is not done', () => {
    const [, told = ''] = page.split('\n## What we do not do\n');
    const ids = [...told.matchAll(/([A-Z][A-Z0-9]+)-(\d\d)(?: to \1-(\d\d))?/g)].flatMap(
      ([, prefix, first, last = first]) => idsOf(prefix!, `${first}-${last}`),
    );
    const inPart = rows.filter(({ remark }) => remark.startsWith('In part')).map(({ id }) => id);
    expect([...notDone, ...inPart].filter((id) => !ids.includes(id))).toEqual([]);
  });

  it.each(rows.map((row) => [row.id, row] as const))('%s is where it says', (_, { asks, sources, tests }) => {
    expect(asks).not.toBe('');
    for (const source of sources) {
      expect(source).not.toContain('.spec.');
      expect(fileExists(source), source).toBe(true);
    }
    expect(tests.flatMap(missingTitles)).toEqual([]);
  });
});
