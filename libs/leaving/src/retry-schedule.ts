import { backoffMs } from '@exeunt/sending';
import type { Leave, Verdict } from './leaving.js';

/** How long a failed round is followed by the next. */
export interface RetryBounds {
  readonly minMs: number;
  readonly maxMs: number;
}

/**
 * Rounds in a row in which every candidate said no, after which a leave counts as refused. More than one: a server
 * may not yet have the invite itself when our user rejects it. (peers.md, pain 3)
 */
export const maxRefusedRounds = 3;

/** For how long a signed leave is repeated without an answer before another may be made. */
export const signedLeaveLifeMs = 24 * 3_600_000;

/** What follows a round in which every candidate was tried and none took the leave. */
export type AfterRound = { readonly again: true; readonly nextAttemptAt: number } | { readonly again: false };

/**
 * Tried again for ever while anybody may come back, `minMs` after the first failure, doubled each time up to
 * `maxMs`; given up where everybody refuses, at once if it is for good. `random`: at least 0, less than 1. Pure.
 */
export function afterRound(
  leave: Pick<Leave, 'failedRounds' | 'refusedRounds' | 'round'>,
  facts: { readonly now: number; readonly random: number; readonly bounds: RetryBounds },
): AfterRound {
  const verdicts: readonly Verdict[] = [...leave.round.values()];
  if (verdicts.every((verdict) => verdict === 'never')) return { again: false };
  const everybodySaysNo = verdicts.every((verdict) => verdict !== 'later');
  if (everybodySaysNo && leave.refusedRounds + 1 >= maxRefusedRounds) return { again: false };
  const waitMs = backoffMs(leave.failedRounds + 1, facts.random, facts.bounds);
  return { again: true, nextAttemptAt: facts.now + waitMs };
}
