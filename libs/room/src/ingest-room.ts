import type { EventId, Pdu, RoomId, ServerName } from '@exeunt/pdu';
import { checkAuthEvents, checkAuthRules } from './auth-rules/check-auth.js';
import { acceptPdu, earlierDecision, effects, type Decision } from './accept-pdu.js';
import type { DomainEvent, PduAccepted, RoomIngested, StateChange } from './domain-events.js';
import type { Refusal } from './refusal.js';
import { membershipOf, type Room } from './room.js';
import { trunkAt } from './state-ref.js';

/** How an import or a creation goes about its PDUs. */
export interface IngestContext {
  readonly origin: ServerName;
  readonly ourName: ServerName;
  readonly now: number;
}

/** The first fact of a room that begins with this create event, or why it can't begin. (AU-01) */
export function beginRoom(create: Pdu, roomId: RoomId, via: RoomIngested['via']): RoomIngested | Refusal {
  const verdict = checkAuthRules(create, create.roomVersion, () => undefined, { create: undefined });
  if (!verdict.allowed) {
    return {
      refused: 'not-authorised',
      rule: verdict.rule,
      detail: verdict.detail,
      events: [create.eventId],
    };
  }
  return {
    type: 'RoomIngested',
    roomId,
    roomVersion: create.roomVersion.id,
    createEventId: create.eventId,
    via,
  };
}

/** The create event as the graph's root; the room has begun with it. */
export function placeCreate(room: Room, create: Pdu, context: IngestContext): DomainEvent {
  return {
    type: 'PduAccepted',
    eventId: create.eventId,
    pdu: create.json,
    origin: context.origin,
    decidedAt: context.now,
    place: 'graph',
    ...effects(room, create, trunkAt(0)),
  };
}

/**
 * The next PDU of an imported graph, parents before children. It is judged by history alone: what the current state
 * says of an event of the past means nothing. Nobody is told of it.
 */
export function ingestPdu(room: Room, pdu: Pdu, context: IngestContext): Decision {
  const decision = acceptPdu(room, { pdu, ...context, against: 'history' });
  return { ...decision, broadcasts: [] };
}

/**
 * A PDU of an imported snapshot: `state` puts it into the room's state, `auth-chain` makes it known. Checked against
 * its own auth events, which must have been ingested before it; there is no state before it to check against.
 */
export function ingestOutlier(
  room: Room,
  pdu: Pdu,
  place: 'state' | 'auth-chain',
  context: IngestContext,
): Decision {
  const earlier = earlierDecision(room, pdu);
  if (earlier?.refusal !== undefined) return earlier;
  const known = room.known(pdu.eventId);
  if (known !== undefined && (known.place !== 'auth-chain' || place === 'auth-chain')) {
    return { domainEvents: [], broadcasts: [] };
  }
  const unknown = pdu.authEvents.filter((eventId) => !room.hasPdu(eventId));
  if (unknown.length > 0) {
    return {
      domainEvents: [],
      broadcasts: [],
      refusal: {
        refused: 'unknown-reference',
        rule: 'AE-01',
        detail: `auth event ${unknown.join(', ')} is not known here`,
        events: unknown,
      },
    };
  }
  if (pdu.eventId !== room.createEventId) {
    const refusal = checkOutlier(room, pdu);
    if (refusal !== undefined) return { domainEvents: [], broadcasts: [], refusal };
  }
  const accepted: PduAccepted = {
    type: 'PduAccepted',
    eventId: pdu.eventId,
    pdu: pdu.json,
    origin: context.origin,
    decidedAt: context.now,
    place,
    stateAfter: 'none',
    changes:
      place === 'state' && pdu.stateKey !== undefined ? [changeOfSnapshot(room, pdu, pdu.stateKey)] : [],
  };
  return { domainEvents: [accepted], broadcasts: [] };
}

function checkOutlier(room: Room, pdu: Pdu): Refusal | undefined {
  const create = { create: room.create() };
  const cited = pdu.authEvents.map((eventId) => ({
    pdu: room.pdu(eventId),
    rejected: room.known(eventId)?.status === 'rejected',
  }));
  const find = (type: string, stateKey: string): Pdu | undefined =>
    cited.find((one) => one.pdu.type === type && one.pdu.stateKey === stateKey)?.pdu;
  for (const verdict of [
    checkAuthEvents(pdu, room.version, cited, create),
    checkAuthRules(pdu, room.version, find, create),
  ]) {
    if (!verdict.allowed) {
      return {
        refused: 'not-authorised',
        rule: verdict.rule,
        detail: verdict.detail,
        events: pdu.authEvents,
        state: 'auth-events',
      };
    }
  }
  return undefined;
}

function changeOfSnapshot(room: Room, pdu: Pdu, stateKey: string): StateChange {
  if (pdu.type !== 'm.room.member') return { type: pdu.type, stateKey, eventId: pdu.eventId };
  const from = room.membership(room.currentState(), stateKey);
  return {
    type: pdu.type,
    stateKey,
    eventId: pdu.eventId,
    membership: { from, to: membershipOf(pdu.content) },
  };
}

/** The end of a snapshot: the point of the graph that its state describes. */
export function placeSnapshot(forwardExtremities: readonly EventId[], depth: number): DomainEvent {
  return { type: 'SnapshotPlaced', forwardExtremities, depth };
}

/**
 * PDUs in an order in which each comes after those it cites, as parents or as auth events, as far as they are among
 * them. Those on a cycle, which no honest server makes, come last. Linear in PDUs and references.
 */
export function inOrderOfReferences(pdus: readonly Pdu[]): readonly Pdu[] {
  const byId = new Map(pdus.map((pdu) => [pdu.eventId, pdu]));
  const waitingFor = new Map<EventId, number>();
  const citedBy = new Map<EventId, EventId[]>();
  for (const pdu of byId.values()) {
    const references = new Set([...pdu.prevEvents, ...pdu.authEvents].filter((id) => byId.has(id)));
    waitingFor.set(pdu.eventId, references.size);
    for (const id of references) {
      const by = citedBy.get(id);
      if (by === undefined) citedBy.set(id, [pdu.eventId]);
      else by.push(pdu.eventId);
    }
  }
  const ordered: Pdu[] = [...byId.values()].filter((pdu) => waitingFor.get(pdu.eventId) === 0);
  for (const pdu of ordered) {
    for (const by of citedBy.get(pdu.eventId) ?? []) {
      const left = waitingFor.get(by)! - 1;
      waitingFor.set(by, left);
      if (left === 0) ordered.push(byId.get(by)!);
    }
  }
  return ordered.length === byId.size
    ? ordered
    : [...ordered, ...[...byId.values()].filter((pdu) => waitingFor.get(pdu.eventId)! > 0)];
}
