import type { RemoteError } from '@exeunt/federation-client';

/** How often a destination has failed in a row, and since when (ms since the epoch). */
export interface Failing {
  readonly failures: number;
  readonly failingSince: number;
}

/**
 * How a destination fares.
 *
 * - `idle`: nothing speaks against sending to it at once.
 * - `sending`: a transaction is under way; `before` is how it had fared until then.
 * - `backing-off`: it failed, and is tried again at `retryAt`.
 * - `parked`: it has failed for days; at `retryAt` there is one probe. Nothing is dropped.
 */
export type DestinationState =
  | { readonly kind: 'idle' }
  | { readonly kind: 'sending'; readonly before: Failing | undefined }
  | ({ readonly kind: 'backing-off'; readonly retryAt: number } & Failing)
  | ({ readonly kind: 'parked'; readonly retryAt: number } & Failing);

/** What can happen to a destination. */
export type Happening =
  /** A worker sends it a transaction, for the first time or again. */
  | { readonly kind: 'attempt' }
  /** It answered the transaction with 200. */
  | { readonly kind: 'delivered' }
  /** It answered anything else, or not at all. */
  | { readonly kind: 'failed'; readonly failure: Failure }
  /** It made an authenticated request to us, or an operator wants it tried now. (TX-05) */
  | { readonly kind: 'contact' };

/** Why a transaction has to be repeated. Every kind is: a transaction is repeated until its 200. (TX-03) */
export interface Failure {
  /**
   * `unreachable`: no answer; `rate-limited`: 429; `refused`: another 4xx; `server-error`: 5xx;
   * `unexpected`: any other status, or a body we can't read.
   */
  readonly kind: 'unreachable' | 'rate-limited' | 'refused' | 'server-error' | 'unexpected';
  /** How long the destination asked to be left alone. */
  readonly retryAfterMs?: number;
}

/** The bounds of the waiting. */
export interface BackoffBounds {
  /** After the first failure. */
  readonly minMs: number;
  /** After many. */
  readonly maxMs: number;
  /** A destination that has failed for so long is parked. */
  readonly parkAfterMs: number;
  /** Between two probes of a parked destination; at least `maxMs` counts. */
  readonly probeMs: number;
}

export const DEFAULT_BACKOFF: BackoffBounds = {
  minMs: 5_000,
  maxMs: 21_600_000,
  parkAfterMs: 3 * 86_400_000,
  probeMs: 86_400_000,
};

/** A wait is up to this much longer than its due, so that those who failed together don't come back together. */
const JITTER = 0.4;

/**
 * How long to wait after so many failures in a row (1 or more): `minMs` doubled at each further one, jittered by up
 * to two fifths, never below `minMs` nor above `maxMs`. `random`: at least 0, less than 1. (TX-05)
 */
export function backoffMs(
  failures: number,
  random: number,
  bounds: Pick<BackoffBounds, 'minMs' | 'maxMs'>,
): number {
  const { minMs, maxMs } = bounds;
  // The ceiling leaves room for the jitter, or the longest waits would all be the same.
  const ceiling = Math.max(minMs, maxMs / (1 + JITTER));
  const due = Math.min(ceiling, minMs * 2 ** Math.min(failures - 1, 60));
  return Math.round(Math.min(maxMs, due * (1 + JITTER * random)));
}

/** What kind of failure an answer other than 200 is. */
export function failureOf(
  answer: Pick<RemoteError, 'kind' | 'retryAfterMs'> & { readonly status?: number },
): Failure {
  return {
    kind: failureKind(answer),
    ...(answer.retryAfterMs === undefined ? {} : { retryAfterMs: answer.retryAfterMs }),
  };
}

function failureKind({
  kind,
  status,
}: Pick<RemoteError, 'kind'> & { readonly status?: number }): Failure['kind'] {
  switch (kind) {
    case 'unreachable':
    case 'timeout':
    case 'tls':
    case 'refused-network':
      return 'unreachable';
    case 'too-large':
    case 'not-json':
      return 'unexpected';
    case 'http':
      if (status === undefined) return 'unexpected';
      if (status === 429) return 'rate-limited';
      if (status >= 500) return 'server-error';
      return status >= 400 ? 'refused' : 'unexpected';
    default:
      return kind satisfies never;
  }
}

/** The state after a happening at `now`. Pure: `random` (at least 0, less than 1) and the time are given. */
export function nextState(
  state: DestinationState,
  happening: Happening,
  facts: { readonly now: number; readonly random: number; readonly bounds: BackoffBounds },
): DestinationState {
  switch (happening.kind) {
    case 'attempt':
      return { kind: 'sending', before: failingOf(state) };
    case 'delivered':
      return { kind: 'idle' };
    case 'contact':
      // What is under way goes on, but its failure will count as the first.
      return state.kind === 'sending' ? { kind: 'sending', before: undefined } : { kind: 'idle' };
    case 'failed':
      return afterFailure(failingOf(state), happening.failure, facts);
    default:
      return happening satisfies never;
  }
}

function failingOf(state: DestinationState): Failing | undefined {
  switch (state.kind) {
    case 'idle':
      return undefined;
    case 'sending':
      return state.before;
    case 'backing-off':
    case 'parked':
      return { failures: state.failures, failingSince: state.failingSince };
    default:
      return state satisfies never;
  }
}

function afterFailure(
  before: Failing | undefined,
  failure: Failure,
  { now, random, bounds }: { readonly now: number; readonly random: number; readonly bounds: BackoffBounds },
): DestinationState {
  const failures = (before?.failures ?? 0) + 1;
  const failingSince = before?.failingSince ?? now;
  if (now - failingSince >= bounds.parkAfterMs) {
    const probeMs = Math.max(bounds.probeMs, bounds.maxMs);
    return {
      kind: 'parked',
      failures,
      failingSince,
      retryAt: now + Math.round(probeMs * (1 + JITTER * random)),
    };
  }
  // It may ask for a longer wait than ours, but not for one beyond our bounds, or it could silence us for good.
  const asked = Math.min(failure.retryAfterMs ?? 0, bounds.maxMs);
  const retryAt = now + Math.max(asked, backoffMs(failures, random, bounds));
  return { kind: 'backing-off', failures, failingSince, retryAt };
}
