import type { EventId, Pdu } from '@exeunt/pdu';
import { checkAuthEvents, checkAuthRules, type AuthVerdict } from './auth-rules/check-auth.js';
import { authEventTypes } from './auth-rules/auth-event-types.js';
import { checkPolicyServer } from './policy-server.js';
import type { Refusal } from './refusal.js';
import { resolveRefs } from './resolve-refs.js';
import type { Room } from './room.js';
import { stateKeyOf } from './state-resolution/state-key.js';
import type { StateRef } from './state-ref.js';

/** What the checks on receipt say of a PDU, and the state they found before it. (PD-04 to PD-07) */
export type Judgement =
  | { readonly verdict: 'allowed'; readonly before: StateRef }
  | { readonly verdict: 'rejected'; readonly refusal: Refusal; readonly before: StateRef | undefined }
  | { readonly verdict: 'soft-failed'; readonly refusal: Refusal; readonly before: StateRef }
  /** It cites what we don't know: nothing can be said, now; nothing is remembered of it either. */
  | { readonly verdict: 'not-judged'; readonly refusal: Refusal };

/** How far to go: an import describes the past, of which the current state says nothing. */
export type JudgedAgainst = 'history' | 'current-state';

/**
 * Checks 4 to 7 of the checks performed on receipt of a PDU: the auth rules against its own auth events, the state
 * before it, and the current state; and the policy server's signature. The caller has checked format, signatures and content hash.
 *
 * Spec v1.19, server-server-api, Checks performed on receipt of a PDU.
 */
export function judge(room: Room, pdu: Pdu, against: JudgedAgainst): Judgement {
  const deciding = stateThatDecides(room, pdu);
  const references = [...pdu.authEvents, ...pdu.prevEvents, room.createEventId];
  room.require({ events: references, state: deciding });
  const entries = deciding.map((key) => room.entryOf(room.currentState(), key));
  room.require({ events: entries.filter((eventId) => eventId !== undefined) });
  const create = { create: room.create() };

  const unknown = pdu.authEvents.filter((eventId) => !room.hasPdu(eventId));
  if (unknown.length > 0) return notJudged('AE-01', 'auth event', unknown);
  const cited = pdu.authEvents.map((eventId) => ({
    pdu: room.pdu(eventId),
    rejected: room.known(eventId)?.status === 'rejected',
  }));
  const byAuthEvents = firstRefusal(
    () => checkAuthEvents(pdu, room.version, cited, create),
    () =>
      checkAuthRules(
        pdu,
        room.version,
        (type, stateKey) => cited.find((one) => one.pdu.type === type && one.pdu.stateKey === stateKey)?.pdu,
        create,
      ),
  );

  const noPlace = pdu.prevEvents.filter((eventId) => room.known(eventId)?.stateAfter === undefined);
  if (noPlace.length > 0) {
    // What its own auth events refuse stays refused, whatever its parents are.
    if (byAuthEvents !== undefined) {
      return {
        verdict: 'rejected',
        refusal: notAuthorised(byAuthEvents, 'auth-events', pdu.authEvents),
        before: undefined,
      };
    }
    return notJudged('SL-13', 'parent', noPlace);
  }
  const before =
    pdu.prevEvents.length === 0
      ? undefined
      : resolveRefs(
          room,
          pdu.prevEvents.map((eventId) => room.known(eventId)!.stateAfter!),
        );
  if (byAuthEvents !== undefined) {
    return {
      verdict: 'rejected',
      refusal: notAuthorised(byAuthEvents, 'auth-events', pdu.authEvents),
      before,
    };
  }
  if (before === undefined) {
    return {
      verdict: 'rejected',
      refusal: {
        refused: 'not-authorised',
        rule: 'SL-13',
        detail: 'the event has no prev_events, so there is no state before it',
        state: 'state-before',
      },
      before,
    };
  }
  const inState = (ref: StateRef): AuthVerdict =>
    checkAuthRules(pdu, room.version, (type, stateKey) => room.statePdu(ref, type, stateKey), create);

  const byStateBefore = inState(before);
  if (!byStateBefore.allowed) {
    return {
      verdict: 'rejected',
      refusal: notAuthorised(byStateBefore, 'state-before', decidingEvents(room, pdu, before)),
      before,
    };
  }
  const current = room.currentState();
  if (against === 'current-state' && !isSame(current, before)) {
    const byCurrentState = inState(current);
    if (!byCurrentState.allowed) {
      return {
        verdict: 'soft-failed',
        refusal: {
          ...notAuthorised(byCurrentState, 'current-state', decidingEvents(room, pdu, current)),
          refused: 'soft-failed',
        },
        before,
      };
    }
  }
  if (against === 'current-state') {
    const refusal = checkPolicyServer(room, pdu);
    if (refusal !== undefined) return { verdict: 'soft-failed', refusal, before };
  }
  return { verdict: 'allowed', before };
}

/** The entries that the auth rules may look at for this event, each once. */
export function stateThatDecides(
  room: Room,
  event: {
    readonly type: string;
    readonly sender: Pdu['sender'];
    readonly stateKey?: string;
    readonly content: Pdu['content'];
  },
): readonly ReturnType<typeof stateKeyOf>[] {
  const selected = authEventTypes(event, room.version).map(({ type, stateKey }) =>
    stateKeyOf(type, stateKey),
  );
  return [...new Set([stateKeyOf('m.room.create', ''), ...selected])];
}

function decidingEvents(room: Room, pdu: Pdu, ref: StateRef): readonly EventId[] {
  return stateThatDecides(room, pdu)
    .map((key) => room.entryOf(ref, key))
    .filter((eventId) => eventId !== undefined);
}

function isSame(one: StateRef, other: StateRef): boolean {
  return one.base <= other.base && one.overlay.size === 0 && other.overlay.size === 0;
}

function firstRefusal(
  ...checks: readonly (() => AuthVerdict)[]
): (AuthVerdict & { allowed: false }) | undefined {
  for (const check of checks) {
    const verdict = check();
    if (!verdict.allowed) return verdict;
  }
  return undefined;
}

function notAuthorised(
  verdict: AuthVerdict & { allowed: false },
  state: NonNullable<Refusal['state']>,
  events: readonly EventId[],
): Refusal {
  return { refused: 'not-authorised', rule: verdict.rule, detail: verdict.detail, state, events };
}

function notJudged(rule: string, what: string, eventIds: readonly EventId[]): Judgement {
  return {
    verdict: 'not-judged',
    refusal: {
      refused: 'unknown-reference',
      rule,
      detail: `${what} ${eventIds.join(', ')} is not known here`,
      events: eventIds,
    },
  };
}
