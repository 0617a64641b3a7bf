import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  backoffMs,
  DEFAULT_BACKOFF,
  failureOf,
  nextState,
  refusalReason,
  type BackoffBounds,
  type DestinationState,
  type Failure,
  type Happening,
} from './destination-state.js';

const day = 86_400_000;
const now = 1_000 * day;
const bounds: BackoffBounds = { minMs: 1_000, maxMs: 60_000, parkAfterMs: 3 * day, probeMs: day };

const failed = (failure: Failure = { kind: 'unreachable' }): Happening => ({ kind: 'failed', failure });
const sending = (
  failures?: number,
  failingSince = now - 10_000,
): Extract<DestinationState, { kind: 'sending' }> => ({
  kind: 'sending',
  before: failures === undefined ? undefined : { failures, failingSince },
});
const backingOff = (failures: number, waitMs: number, failingSince = now - 10_000): DestinationState => ({
  kind: 'backing-off',
  failures,
  failingSince,
  retryAt: now + waitMs,
});
const parked = (failures: number, waitMs: number, failingSince: number): DestinationState => ({
  kind: 'parked',
  by: 'failures',
  failures,
  failingSince,
  retryAt: now + waitMs,
});
const byHand = (failures?: number, parkedAt = now - 7, failingSince = now - 10_000): DestinationState => ({
  kind: 'parked',
  by: 'operator',
  parkedAt,
  before: failures === undefined ? undefined : { failures, failingSince },
});
const sendingThenParked = (failures?: number): DestinationState => ({
  ...sending(failures),
  parkedAt: now - 7,
});

describe('the next state of a destination', () => {
  const old = now - 3 * day;
  it.each<[string, DestinationState, Happening, DestinationState]>([
    ['idle, attempt', { kind: 'idle' }, { kind: 'attempt' }, sending()],
    ['idle, contact', { kind: 'idle' }, { kind: 'contact' }, { kind: 'idle' }],
    ['sending, delivered', sending(), { kind: 'delivered' }, { kind: 'idle' }],
    ['sending after failures, delivered', sending(7), { kind: 'delivered' }, { kind: 'idle' }],
    ['sending, first failure', sending(), failed(), backingOff(1, 1_000, now)],
    ['sending, second failure', sending(1), failed(), backingOff(2, 2_000)],
    ['sending, fifth failure', sending(4), failed(), backingOff(5, 16_000)],
    ['sending, hundredth failure', sending(99), failed(), backingOff(100, Math.round(60_000 / 1.4))],
    ['sending, contact', sending(7), { kind: 'contact' }, sending()],
    ['backing off, attempt', backingOff(3, 0), { kind: 'attempt' }, sending(3)],
    ['backing off, contact', backingOff(3, 500), { kind: 'contact' }, { kind: 'idle' }],
    ['failing for days', sending(99, old), failed(), parked(100, day, old)],
    ['failing for nearly as long', sending(99, old + 1), failed(), backingOff(100, 42_857, old + 1)],
    ['parked, probe', parked(100, 0, old), { kind: 'attempt' }, sending(100, old)],
    ['parked, probe delivered', sending(100, old), { kind: 'delivered' }, { kind: 'idle' }],
    ['parked, contact', parked(100, day, old), { kind: 'contact' }, { kind: 'idle' }],
    ['idle, park', { kind: 'idle' }, { kind: 'park' }, byHand(undefined, now)],
    ['backing off, park', backingOff(3, 500), { kind: 'park' }, byHand(3, now)],
    ['parked by its failures, park', parked(9, day, old), { kind: 'park' }, byHand(9, now, old)],
    ['parked by hand, park', byHand(3), { kind: 'park' }, byHand(3)],
    ['sending, park', sending(3), { kind: 'park' }, { ...sending(3), parkedAt: now }],
    ['sending then parked, park', sendingThenParked(3), { kind: 'park' }, sendingThenParked(3)],
    ['sending then parked, delivered', sendingThenParked(3), { kind: 'delivered' }, byHand()],
    ['sending then parked, failed', sendingThenParked(3), failed(), byHand(4)],
    ['sending then parked, failed first', sendingThenParked(), failed(), byHand(1, now - 7, now)],
    ['sending then parked, contact', sendingThenParked(3), { kind: 'contact' }, sending()],
    ['sending then parked, unpark', sendingThenParked(3), { kind: 'unpark' }, sending(3)],
    ['parked by hand, attempt', byHand(3), { kind: 'attempt' }, byHand(3)],
    ['parked by hand, contact', byHand(3), { kind: 'contact' }, { kind: 'idle' }],
    ['parked by hand, unpark', byHand(3), { kind: 'unpark' }, { kind: 'idle' }],
    ['parked by its failures, unpark', parked(9, day, old), { kind: 'unpark' }, { kind: 'idle' }],
    ['backing off, unpark', backingOff(3, 500), { kind: 'unpark' }, backingOff(3, 500)],
    ['sending, unpark', sending(3), { kind: 'unpark' }, sending(3)],
    ['idle, unpark', { kind: 'idle' }, { kind: 'unpark' }, { kind: 'idle' }],
    [
      'asked to wait longer',
      sending(),
      failed({ kind: 'rate-limited', retryAfterMs: 5_000 }),
      backingOff(1, 5_000, now),
    ],
    [
      'asked to wait less',
      sending(4),
      failed({ kind: 'rate-limited', retryAfterMs: 1 }),
      backingOff(5, 16_000),
    ],
    [
      'asked to wait beyond the bounds',
      sending(),
      failed({ kind: 'rate-limited', retryAfterMs: 30 * day }),
      backingOff(1, 60_000, now),
    ],
    [
      'a 503 with Retry-After',
      sending(),
      failed({ kind: 'server-error', retryAfterMs: 9_000 }),
      backingOff(1, 9_000, now),
    ],
  ])('%s', (_, state, happening, expected) => {
    expect(nextState(state, happening, { now, random: 0, bounds })).toEqual(expected);
  });
});

describe('a destination that refuses whole transactions', () => {
  const statuses = [400, 401, 402, 403, 404, 405, 408, 410, 413, 415, 418, 421, 425, 431, 451, 499];

  it.each(statuses)('with %i waits as one that is down, for a reason, and is never given up', (status) => {
    expect(refusalReason(status)).toMatch(/./);
    const failure = failureOf({ kind: 'http', status });
    let at = now;
    let attempts = 0;
    let state: DestinationState = { kind: 'idle' };
    while (at < now + 30 * day) {
      state = nextState(state, { kind: 'attempt' }, { now: at, random: 0, bounds: DEFAULT_BACKOFF });
      state = nextState(state, { kind: 'failed', failure }, { now: at, random: 0, bounds: DEFAULT_BACKOFF });
      if (state.kind !== 'backing-off' && state.kind !== 'parked') break;
      if (state.kind === 'parked' && state.by === 'operator') break;
      expect(state.retryAt - at).toBeGreaterThanOrEqual(5_000);
      at = state.retryAt;
      attempts += 1;
    }
    expect(state.kind).toBe('parked');
    // Three days of a backoff that ends at hours, then one a day.
    expect(attempts).toBeLessThan(60);
  });

  it.each([200, 302, 429, 500, 502])('is not told by %i', (status) => {
    expect(refusalReason(status)).toBeUndefined();
  });
});

describe('the backoff', () => {
  it('starts at seconds and ends at hours by default', () => {
    expect(backoffMs(1, 0, DEFAULT_BACKOFF)).toBe(5_000);
    expect(backoffMs(1_000, 0.999_999, DEFAULT_BACKOFF)).toBeLessThanOrEqual(21_600_000);
  });

  it('stays within its bounds, and a further failure never shortens it', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 10_000 }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        fc.integer({ min: 1, max: 100_000 }),
        fc.integer({ min: 0, max: 100_000_000 }),
        (failures, random, minMs, above) => {
          const limits = { minMs, maxMs: minMs + above };
          const wait = backoffMs(failures, random, limits);
          expect(wait).toBeGreaterThanOrEqual(limits.minMs);
          expect(wait).toBeLessThanOrEqual(limits.maxMs);
          expect(backoffMs(failures + 1, random, limits)).toBeGreaterThanOrEqual(wait);
        },
      ),
    );
  });

  it('differs among destinations that failed together, however often they did', () => {
    for (const failures of [1, 5, 1_000]) {
      expect(backoffMs(failures, 0.9, DEFAULT_BACKOFF)).toBeGreaterThan(
        backoffMs(failures, 0.1, DEFAULT_BACKOFF),
      );
    }
  });
});

describe('the kind of a failure', () => {
  it.each([
    [{ kind: 'unreachable' }, 'unreachable'],
    [{ kind: 'timeout' }, 'unreachable'],
    [{ kind: 'tls' }, 'unreachable'],
    [{ kind: 'refused-network' }, 'unreachable'],
    [{ kind: 'too-large' }, 'unexpected'],
    [{ kind: 'not-json' }, 'unexpected'],
    [{ kind: 'http', status: 429 }, 'rate-limited'],
    [{ kind: 'http', status: 400 }, 'refused'],
    [{ kind: 'http', status: 401 }, 'refused'],
    [{ kind: 'http', status: 403 }, 'refused'],
    [{ kind: 'http', status: 404 }, 'refused'],
    [{ kind: 'http', status: 500 }, 'server-error'],
    [{ kind: 'http', status: 502 }, 'server-error'],
    [{ kind: 'http', status: 302 }, 'unexpected'],
    [{ kind: 'http', status: 201 }, 'unexpected'],
    [{ kind: 'http' }, 'unexpected'],
  ] as const)('%o is %s', (answer, kind) => {
    expect(failureOf(answer)).toEqual({ kind });
  });

  it('comes with the wait that the peer asked for', () => {
    expect(failureOf({ kind: 'http', status: 429, retryAfterMs: 7 })).toEqual({
      kind: 'rate-limited',
      retryAfterMs: 7,
    });
  });
});
