import { parseUserId, serverNameOf, type Pdu, type ServerName } from '@exeunt/pdu';
import type { Broadcast, DomainEvent, Membership, PduAccepted, StateChange } from './domain-events.js';
import { forkBaseWith } from './fork.js';
import { judge, type JudgedAgainst } from './judge.js';
import type { Refusal } from './refusal.js';
import { differences, resolvePlainly } from './resolve-refs.js';
import { membershipOf, storeStateRef, type Room } from './room.js';
import { typeAndStateKeyOf } from './state-resolution/state-key.js';
import { withEntry, type StateRef } from './state-ref.js';
import { serversThatLeave } from './what-follows.js';

/** What a command brings about: facts for the log, and who must hear of them. */
export interface Decision {
  /** Empty where nothing changes: a repeat, or a no that leaves no trace. */
  readonly domainEvents: readonly DomainEvent[];
  readonly broadcasts: readonly Broadcast[];
  /** Set where the answer is no; the domain events then record it, or are none. */
  readonly refusal?: Refusal;
}

/** A PDU that has passed format, signature and hash checks, and the circumstances of its arrival. */
export interface ReceivedPdu {
  readonly pdu: Pdu;
  /** The server that handed it in; ours for an event that we made. */
  readonly origin: ServerName;
  readonly ourName: ServerName;
  /** Ms since the epoch. */
  readonly now: number;
  readonly against: JudgedAgainst;
}

/** What was decided on this PDU before, if anything was: the same answer, without a new fact. (SL-15) */
export function earlierDecision(room: Room, pdu: Pdu): Decision | undefined {
  room.require({ events: [pdu.eventId] });
  const known = room.known(pdu.eventId);
  if (known === undefined || (known.status === 'accepted' && known.place !== 'graph')) return undefined;
  const nothing = { domainEvents: [], broadcasts: [] };
  if (!pdu.roomVersion.eventIdFormat.includes('hash') && !isSamePdu(room.pdu(pdu.eventId), pdu)) {
    return {
      ...nothing,
      refusal: {
        refused: 'wrong-parameter',
        rule: 'SL-15',
        detail: `${pdu.eventId} is known with other content`,
        events: [pdu.eventId],
      },
    };
  }
  if (known.status === 'accepted') return nothing;
  return {
    ...nothing,
    refusal: {
      refused: known.status === 'rejected' ? 'not-authorised' : 'soft-failed',
      rule: known.rule ?? 'PD-04',
      detail: known.detail ?? '',
      events: [pdu.eventId],
    },
  };
}

/** In versions 1 and 2 the ID is no hash; the content hash and what it covers must agree. */
function isSamePdu(one: Pdu, other: Pdu): boolean {
  return (
    JSON.stringify(one.json['hashes']) === JSON.stringify(other.json['hashes']) && one.sender === other.sender
  );
}

/**
 * Judges a PDU and makes it part of the room, or records why it is not.
 *
 * Answers without a domain event where the PDU is known already, or cites what we don't know.
 */
export function acceptPdu(room: Room, received: ReceivedPdu): Decision {
  const { pdu, origin, ourName, now } = received;
  const earlier = earlierDecision(room, pdu);
  if (earlier !== undefined) return earlier;

  const judged = judge(room, pdu, received.against);
  const fact = { eventId: pdu.eventId, pdu: pdu.json, origin, decidedAt: now };
  switch (judged.verdict) {
    case 'not-judged':
      return { domainEvents: [], broadcasts: [], refusal: judged.refusal };
    case 'rejected':
      return {
        domainEvents: [
          {
            ...fact,
            type: 'PduRejected',
            rule: judged.refusal.rule,
            detail: judged.refusal.detail,
            stateAfter: judged.before === undefined ? 'none' : storeStateRef(judged.before),
          },
        ],
        broadcasts: [],
        refusal: judged.refusal,
      };
    case 'soft-failed':
      return {
        domainEvents: [
          {
            ...fact,
            type: 'PduSoftFailed',
            rule: judged.refusal.rule,
            detail: judged.refusal.detail,
            stateAfter: storeStateRef(stateAfter(pdu, judged.before)),
          },
        ],
        broadcasts: [],
        refusal: judged.refusal,
      };
    case 'allowed': {
      const what = effects(room, pdu, judged.before);
      const serversLeft = serversThatLeave(room, what.changes);
      const accepted: PduAccepted = {
        ...fact,
        type: 'PduAccepted',
        place: 'graph',
        ...what,
        ...(serversLeft.length === 0 ? {} : { serversLeft }),
      };
      const destinations = destinationsOf(room, accepted, pdu, { origin, ourName });
      return {
        domainEvents: [accepted],
        broadcasts: destinations.length === 0 ? [] : [{ eventId: pdu.eventId, pdu: pdu.json, destinations }],
      };
    }
    default:
      return judged satisfies never;
  }
}

function stateAfter(pdu: Pdu, before: StateRef): StateRef {
  return pdu.stateKey === undefined ? before : withEntry(before, pdu.type, pdu.stateKey, pdu.eventId);
}

/** What accepting `pdu` does to the room: the state after it, and the current state over all extremities. (SR-01) */
export function effects(
  room: Room,
  pdu: Pdu,
  before: StateRef,
): Pick<PduAccepted, 'stateAfter' | 'changes' | 'forkBase'> {
  const after = stateAfter(pdu, before);
  const parents = new Set(pdu.prevEvents.filter((eventId) => room.isForwardExtremity(eventId)));
  if (parents.size === room.forwardExtremityCount) {
    return { stateAfter: 'current', changes: changesTo(room, after, pdu) };
  }
  const forkBase = forkBaseWith(room, pdu, before);
  if (forkBase !== undefined) {
    const changes =
      pdu.stateKey === undefined ? [] : [changeTo(room, pdu.type, pdu.stateKey, pdu.eventId, pdu)];
    return { stateAfter: storeStateRef(after), changes, forkBase };
  }
  const remaining = room.forwardExtremities.filter(({ eventId }) => !parents.has(eventId));
  room.require({ events: remaining.map(({ eventId }) => eventId) });
  const resolved = resolvePlainly(
    room,
    [...remaining.map(({ eventId }) => room.known(eventId)!.stateAfter!), after],
    pdu,
  );
  return { stateAfter: storeStateRef(after), changes: changesTo(room, resolved, pdu) };
}

/** What has to change in the current state to make it `state`. */
function changesTo(room: Room, state: StateRef, justNow: Pdu): readonly StateChange[] {
  return differences(room, room.currentState(), state).map(({ key, to }) => {
    const { type, stateKey } = typeAndStateKeyOf(key);
    return changeTo(room, type, stateKey, to ?? null, justNow);
  });
}

function changeTo(
  room: Room,
  type: string,
  stateKey: string,
  eventId: StateChange['eventId'],
  justNow: Pdu,
): StateChange {
  if (type !== 'm.room.member') return { type, stateKey, eventId };
  const to: Membership =
    eventId === null
      ? 'none'
      : membershipOf((eventId === justNow.eventId ? justNow : room.pdu(eventId)).content);
  const from = room.membership(room.currentState(), stateKey);
  const user = parseUserId(stateKey);
  if (user !== undefined) room.require({ residents: [serverNameOf(user)] });
  return { type, stateKey, eventId, membership: { from, to } };
}

/**
 * Who must be sent an accepted PDU: the servers with a joined member before it, but neither ourselves nor the one
 * it came from; with the user's server where an invite or a knock is taken back or refused, for that server is not
 * in the room and would never hear of it. (BR-02, BR-06)
 */
function destinationsOf(
  room: Room,
  accepted: PduAccepted,
  pdu: Pdu,
  servers: { readonly origin: ServerName; readonly ourName: ServerName },
): readonly ServerName[] {
  const destinations = new Set(room.residentServers());
  for (const { type, stateKey, membership } of accepted.changes) {
    if (type !== 'm.room.member' || stateKey !== pdu.stateKey || stateKey === pdu.sender) continue;
    const isTakenBack =
      (membership?.from === 'invite' || membership?.from === 'knock') &&
      (membership.to === 'leave' || membership.to === 'ban');
    const user = parseUserId(stateKey);
    if (isTakenBack && user !== undefined) destinations.add(serverNameOf(user));
  }
  destinations.delete(servers.ourName);
  destinations.delete(servers.origin);
  destinations.delete(serverNameOf(pdu.sender));
  return [...destinations].sort();
}
