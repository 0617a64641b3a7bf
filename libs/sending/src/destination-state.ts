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
 * - `sending`: a transaction is under way; `before` is how it had fared until then. With `parkedAt` an operator has
 *   parked it meanwhile, and it is parked when that transaction has ended.
 * - `backing-off`: it failed, and is tried again at `retryAt`.
 * - `parked` by its failures: it has failed for days; at `retryAt` there is one probe. Nothing is dropped.
 * - `parked` by an operator, at `parkedAt`: not even a probe. Nothing is dropped.
 *
 * Times are milliseconds since the epoch.
 */
export type DestinationState =
  | { readonly kind: 'idle' }
  | { readonly kind: 'sending'; readonly before: Failing | undefined; readonly parkedAt?: number }
  | BackingOff
  | Parked;

export type BackingOff = { readonly kind: 'backing-off'; readonly retryAt: number } & Failing;

export type Parked =
  | ({ readonly kind: 'parked'; readonly by: 'failures'; readonly retryAt: number } & Failing)
  | {
      readonly kind: 'parked';
      readonly by: 'operator';
      readonly parkedAt: number;
      readonly before: Failing | undefined;
    };

/** What can happen to a destination. */
export type Happening =
  /** A worker sends it a transaction, for the first time or again. */
  | { readonly kind: 'attempt' }
  /** It answered the transaction with 200. */
  | { readonly kind: 'delivered' }
  /** It answered anything else, or not at all. */
  | { readonly kind: 'failed'; readonly failure: Failure }
  /** It made an authenticated request to us, or an operator wants it tried now. (TX-05) */
  | { readonly kind: 'contact' }
  /** An operator wants nothing sent to it for now. */
  | { readonly kind: 'park' }
  /** An operator takes that back, or ends the parking that its failures brought about. */
  | { readonly kind: 'unpark' };

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

/**
 * What a 4xx says of a whole transaction, and why each is waited out: none of them is about a PDU (that would be an
 * error inside a 200), so none of them goes away by leaving a PDU out, and all of them go away when someone puts the
 * other side right. So nothing is dropped, and the backoff is the same as for a server that is down: seconds at first,
 * then hours, then parked with a probe a day. (TX-03, TX-05, TX-06)
 */
const REFUSALS: Readonly<Record<number, string>> = {
  400: 'it cannot read our transaction, or does not take us for what we are: an old or faulty server',
  401: 'it cannot check our signature: it may not reach our keys, or its clock is wrong',
  403: 'it does not federate with us, for now',
  404: 'no Matrix federation there: it has moved, or a proxy in between does not pass it on',
  405: 'a proxy in between does not let PUT through',
  408: 'it was too slow to read our transaction',
  410: 'it was taken down',
  413: 'a proxy in between takes less than 50 PDUs at a time; it has to take them, for a transaction stays as it is',
  421: 'another server answers at its address',
  425: 'it is not ready for us yet',
  431: 'a proxy in between takes no headers as long as ours',
};

/** Why it may be that a whole transaction was answered with this status, for people; undefined for others than 4xx. */
export function refusalReason(status: number): string | undefined {
  if (status < 400 || status >= 500 || status === 429) return undefined;
  return REFUSALS[status] ?? 'it refuses our transactions, for now';
}

/** The state after a happening at `now`. Pure: `random` (at least 0, less than 1) and the time are given. */
export function nextState(
  state: DestinationState,
  happening: Happening,
  facts: { readonly now: number; readonly random: number; readonly bounds: BackoffBounds },
): DestinationState {
  switch (happening.kind) {
    case 'attempt':
      // Whoever comes upon one that an operator has parked leaves it alone.
      if (isParkedByHand(state)) return state;
      return { kind: 'sending', before: failingOf(state) };
    case 'delivered':
      return parkedOr({ kind: 'idle' }, state);
    case 'contact':
      // What is under way goes on, but its failure will count as the first.
      return state.kind === 'sending' ? { kind: 'sending', before: undefined } : { kind: 'idle' };
    case 'failed':
      return parkedOr(afterFailure(failingOf(state), happening.failure, facts), state);
    case 'park':
      if (isParkedByHand(state)) return state;
      return state.kind === 'sending'
        ? { parkedAt: facts.now, ...state }
        : { kind: 'parked', by: 'operator', parkedAt: facts.now, before: failingOf(state) };
    case 'unpark':
      if (state.kind === 'sending') return { kind: 'sending', before: state.before };
      return state.kind === 'parked' ? { kind: 'idle' } : state;
    default:
      return happening satisfies never;
  }
}

function isParkedByHand(state: DestinationState): state is Extract<Parked, { by: 'operator' }> {
  return state.kind === 'parked' && state.by === 'operator';
}

/** How a transaction ended does not end a parking by hand; it only counts for what comes after. */
function parkedOr(otherwise: DestinationState, state: DestinationState): DestinationState {
  const parkedAt = state.kind === 'sending' || isParkedByHand(state) ? state.parkedAt : undefined;
  if (parkedAt === undefined) return otherwise;
  return { kind: 'parked', by: 'operator', parkedAt, before: failingOf(otherwise) };
}

function failingOf(state: DestinationState): Failing | undefined {
  switch (state.kind) {
    case 'idle':
      return undefined;
    case 'sending':
      return state.before;
    case 'backing-off':
      return failingIn(state);
    case 'parked':
      return state.by === 'operator' ? state.before : failingIn(state);
    default:
      return state satisfies never;
  }
}

function failingIn({ failures, failingSince }: Failing): Failing {
  return { failures, failingSince };
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
      by: 'failures',
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
