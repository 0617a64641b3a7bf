import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fullAllowance, grown, limitOf, mayBegin, rewarded, untilWorthALook, used } from './lanes.js';

const now = 1_700_000_000_000;
const full = { untried: fullAllowance(now), failing: fullAllowance(now) };
const none = { proven: 0, untried: 0, failing: 0 };

describe('how many attempts may be begun', () => {
  it.each([
    ['nothing is under way', none, { all: 100, doubtful: 75, untried: 50, failing: 50 }],
    [
      'half hang at failing ones',
      { ...none, failing: 50 },
      { all: 50, doubtful: 25, untried: 25, failing: 0 },
    ],
    [
      'half hang at untried ones',
      { ...none, untried: 50 },
      { all: 50, doubtful: 25, untried: 0, failing: 25 },
    ],
    [
      'three quarters hang at doubtful ones',
      { proven: 0, untried: 40, failing: 35 },
      { all: 25, doubtful: 0, untried: 0, failing: 0 },
    ],
    ['proven ones have nearly all', { ...none, proven: 97 }, { all: 3, doubtful: 3, untried: 3, failing: 3 }],
    ['there is no worker left', { ...none, proven: 100 }, { all: 0, doubtful: 0, untried: 0, failing: 0 }],
  ])('where %s', (_, active, limits) => {
    expect(mayBegin({ concurrency: 100, active, allowed: full, isCrowded: false })).toEqual(limits);
  });

  it.each([
    [1, { all: 1, doubtful: 1, untried: 1, failing: 1 }],
    [2, { all: 2, doubtful: 2, untried: 1, failing: 1 }],
    [4, { all: 4, doubtful: 3, untried: 2, failing: 2 }],
  ])('of %i workers', (concurrency, limits) => {
    expect(mayBegin({ concurrency, active: none, allowed: full, isCrowded: false })).toEqual(limits);
  });

  it('at a doubtful lane is no more than is allowed, and another has what it is allowed', () => {
    const allowed = { ...full, failing: { attempts: 2.9, at: now, isOpen: true } };
    expect(mayBegin({ concurrency: 100, active: none, allowed, isCrowded: false })).toMatchObject({
      untried: 50,
      failing: 2,
    });
  });

  it('at a doubtful lane is nothing before its allowance is worth a look', () => {
    const allowed = { ...full, failing: { attempts: 9, at: now, isOpen: false } };
    expect(mayBegin({ concurrency: 100, active: none, allowed, isCrowded: false })).toMatchObject({
      untried: 50,
      failing: 0,
    });
  });

  it.each([
    [100, 25],
    [32, 8],
    [20, 5],
    [3, 1],
    [1, 1],
    [0, 0],
  ])('where proven ones wait for %i free workers is one in four for the doubtful', (free, doubtful) => {
    const active = { ...none, proven: 100 - free };
    const limits = mayBegin({ concurrency: 100, active, allowed: full, isCrowded: true });
    expect(limits).toEqual({ all: free, doubtful, untried: doubtful, failing: doubtful });
  });

  it('leaves a quarter of the workers to proven ones, whatever has happened', () => {
    const count = fc.nat(200);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 200 }),
        fc.record({ proven: count, untried: count, failing: count }),
        (concurrency, active) => {
          const limits = mayBegin({ concurrency, active, allowed: full, isCrowded: false });
          const doubtful = active.untried + active.failing + limits.doubtful;
          expect(doubtful).toBeLessThanOrEqual(
            Math.max(active.untried + active.failing, Math.ceil((concurrency * 3) / 4)),
          );
          for (const limit of [limits.doubtful, limits.untried, limits.failing]) {
            expect(limit).toBeGreaterThanOrEqual(0);
            expect(limit).toBeLessThanOrEqual(limits.all);
          }
          expect(limitOf('proven', limits)).toBe(limits.all);
        },
      ),
    );
  });
});

describe('the allowance of a doubtful lane', () => {
  it('is used up by what goes nowhere, and grows again with time, up to a bound', () => {
    const empty = used(fullAllowance(now), 100);
    expect(empty.attempts).toBe(0);
    expect(grown(empty, now + 1_000).attempts).toBe(50);
    expect(grown(empty, now + 3_600_000)).toEqual(fullAllowance(now + 3_600_000));
  });

  it('takes more than there was for all there was', () => {
    expect(used({ attempts: 3, at: now, isOpen: true }, 5)).toEqual({ attempts: 0, at: now, isOpen: false });
  });

  it('loses nothing to a clock that goes back', () => {
    const allowance = { attempts: 3, at: now, isOpen: false };
    expect(grown(allowance, now - 5_000)).toEqual({ ...allowance, at: now - 5_000 });
  });

  it('is spent to its end, and then not again before it is worth a look', () => {
    let allowance = used(fullAllowance(now), 98);
    expect(allowance).toMatchObject({ attempts: 2, isOpen: true });
    allowance = used(allowance, 2);
    expect(allowance.isOpen).toBe(false);
    expect(grown(allowance, now + 199).isOpen).toBe(false);
    expect(grown(allowance, now + 200)).toMatchObject({ attempts: 10, isOpen: true });
  });

  it('goes on at once with what deliveries have added', () => {
    let allowance = used(fullAllowance(now), 100);
    for (let delivery = 0; delivery < 5; delivery += 1) allowance = rewarded(allowance);
    expect(grown(allowance, now)).toMatchObject({ attempts: 10, isOpen: true });
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
    const allowance = grown({ attempts, at: now, isOpen: false }, now);
    expect(untilWorthALook(allowance)).toBe(waitMs);
    expect(grown(allowance, now + waitMs).isOpen).toBe(true);
  });

  it('that is being spent is worth a look now', () => {
    expect(untilWorthALook({ attempts: 1, at: now, isOpen: true })).toBe(0);
  });
});
