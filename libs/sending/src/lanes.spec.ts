import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fullAllowance, grown, mayBegin, rewarded, untilWorthALook, used } from './lanes.js';

const now = 1_700_000_000_000;
const full = { untried: fullAllowance(now), failing: fullAllowance(now) };
const none = { proven: 0, untried: 0, failing: 0 };

describe('how many attempts may be begun', () => {
  it.each([
    ['nothing is under way', none, { proven: 100, untried: 50, failing: 50 }],
    [
      'some are under way',
      { proven: 60, untried: 40, failing: 10 },
      { proven: 40, untried: 10, failing: 40 },
    ],
    ['all hang that may', { proven: 0, untried: 50, failing: 50 }, { proven: 100, untried: 0, failing: 0 }],
    ['proven ones have all of theirs', { ...none, proven: 100 }, { proven: 0, untried: 50, failing: 50 }],
    [
      'every worker has one',
      { proven: 100, untried: 50, failing: 50 },
      { proven: 0, untried: 0, failing: 0 },
    ],
    ['more are under way', { proven: 101, untried: 51, failing: 51 }, { proven: 0, untried: 0, failing: 0 }],
  ])('where %s', (_, active, limits) => {
    expect(mayBegin({ concurrency: 100, active, allowed: full })).toEqual(limits);
  });

  it.each([
    [1, { proven: 1, untried: 1, failing: 1 }],
    [2, { proven: 2, untried: 1, failing: 1 }],
    [5, { proven: 5, untried: 3, failing: 3 }],
  ])('with a concurrency of %i', (concurrency, limits) => {
    expect(mayBegin({ concurrency, active: none, allowed: full })).toEqual(limits);
  });

  it('leaves proven ones all of their workers and nobody more than theirs, whatever has happened', () => {
    const count = fc.nat(200);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 200 }),
        fc.record({ proven: count, untried: count, failing: count }),
        (concurrency, active) => {
          const limits = mayBegin({ concurrency, active, allowed: full });
          expect(limits.proven).toBe(Math.max(0, concurrency - active.proven));
          for (const lane of ['untried', 'failing'] as const) {
            expect(limits[lane]).toBeGreaterThanOrEqual(0);
            expect(active[lane] + limits[lane]).toBeLessThanOrEqual(
              Math.max(active[lane], Math.ceil(concurrency / 2)),
            );
          }
        },
      ),
    );
  });

  it('at a doubtful lane is no more than is allowed, and another has what it is allowed', () => {
    const allowed = { ...full, failing: { attempts: 2.9, at: now, isOpen: true } };
    expect(mayBegin({ concurrency: 100, active: none, allowed })).toMatchObject({ untried: 50, failing: 2 });
  });

  it('at a doubtful lane is nothing before its allowance is worth a look', () => {
    const allowed = { ...full, failing: { attempts: 9, at: now, isOpen: false } };
    expect(mayBegin({ concurrency: 100, active: none, allowed })).toMatchObject({ untried: 50, failing: 0 });
  });
});

describe('the allowance of a doubtful lane', () => {
  it('is used up by what goes nowhere, and grows again with time, up to a bound', () => {
    const empty = used(fullAllowance(now), 100);
    expect(empty.attempts).toBe(0);
    expect(grown(empty, now + 1_000, false).attempts).toBe(50);
    expect(grown(empty, now + 3_600_000, false)).toEqual(fullAllowance(now + 3_600_000));
  });

  it('grows more slowly while proven ones wait for a worker', () => {
    const empty = used(fullAllowance(now), 100);
    expect(untilWorthALook(empty, true)).toBe(500);
    expect(grown(empty, now + 499, true).isOpen).toBe(false);
    expect(grown(empty, now + 500, true)).toMatchObject({ attempts: 10, isOpen: true });
  });

  it('takes more than there was for all there was', () => {
    expect(used({ attempts: 3, at: now, isOpen: true }, 5)).toEqual({ attempts: 0, at: now, isOpen: false });
  });

  it('loses nothing to a clock that goes back', () => {
    const allowance = { attempts: 3, at: now, isOpen: false };
    expect(grown(allowance, now - 5_000, false)).toEqual({ ...allowance, at: now - 5_000 });
  });

  it('is spent to its end, and then not again before it is worth a look', () => {
    let allowance = used(fullAllowance(now), 98);
    expect(allowance).toMatchObject({ attempts: 2, isOpen: true });
    allowance = used(allowance, 2);
    expect(allowance.isOpen).toBe(false);
    expect(grown(allowance, now + 199, false).isOpen).toBe(false);
    expect(grown(allowance, now + 200, false)).toMatchObject({ attempts: 10, isOpen: true });
  });

  it('goes on at once with what deliveries have added', () => {
    let allowance = used(fullAllowance(now), 100);
    for (let delivery = 0; delivery < 5; delivery += 1) allowance = rewarded(allowance);
    expect(grown(allowance, now, false)).toMatchObject({ attempts: 10, isOpen: true });
  });

  it('is doubled by servers that all are there', () => {
    let allowance = used(fullAllowance(now), 90);
    for (let delivery = 0; delivery < 10; delivery += 1) allowance = rewarded(used(allowance, 1));
    expect(allowance.attempts).toBe(20);
  });

  it.each([
    [10, 0],
    [0, 200],
    [5, 100],
    [9.99, 1],
  ])('of %d is worth a look in %d ms', (attempts, waitMs) => {
    const allowance = grown({ attempts, at: now, isOpen: false }, now, false);
    expect(untilWorthALook(allowance, false)).toBe(waitMs);
    expect(grown(allowance, now + waitMs, false).isOpen).toBe(true);
  });

  it('that is being spent is worth a look now', () => {
    expect(untilWorthALook({ attempts: 1, at: now, isOpen: true }, false)).toBe(0);
  });
});
