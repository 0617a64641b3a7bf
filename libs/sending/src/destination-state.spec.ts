import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  backoffMs,
  DEFAULT_BACKOFF,
  failureOf,
  nextState,
  type BackoffBounds,
  type DestinationState,
  type Failure,
  type Happening,
} from './destination-state.js';

const day = 86_400_000;
const now = 1_000 * day;
const bounds: BackoffBounds = { minMs: 1_000, maxMs: 60_000, parkAfterMs: 3 * day, probeMs: day };

const failed = (failure: Failure = { kind: 'unreachable' }): Happening => ({ kind: 'failed', failure });
const sending = (failures?: number, failingSince = now - 10_000): DestinationState => ({
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
  failures,
  failingSince,
  retryAt: now + waitMs,
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
