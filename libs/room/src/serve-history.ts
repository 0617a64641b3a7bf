import {
  parseEventId,
  parseUserId,
  serverNameOf,
  type EventId,
  type Pdu,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { memberOf } from '@exeunt/signing';
import { checkServerAcl } from './accept-leave.js';
import { comparePower, PowerLevels } from './auth-rules/power-levels.js';
import type { Membership } from './domain-events.js';
import type { Refusal } from './refusal.js';
import { resolveRefs } from './resolve-refs.js';
import type { MemberEntry } from './room-facts.js';
import { depthOf, membershipOf, type Room } from './room.js';
import { stateKeyOf, typeAndStateKeyOf } from './state-resolution/state-key.js';
import { trunkAt, type StateRef } from './state-ref.js';

/*
 * What other servers may have of a room's past: spec v1.19, server-server-api, Backfilling and retrieving missing
 * events, Retrieving events, Retrieving event authorisation information.
 */

/**
 * Whether `origin` may read the room's past: it has a member joined to the room, as far as we know, and the ACL allows
 * it. It need not be a room that we are in still: what is known of one that our last user has left ends with that
 * leave, and those who were in it then need its ancestors to accept it. See docs/decisions/0013-serving-history.md.
 * (FE-05, AC-05)
 */
export function admitReader(room: Room, origin: ServerName): Refusal | undefined {
  return checkIsInRoom(room, origin) ?? checkServerAcl(room, origin);
}

/** As {@link admitReader}, without the ACL: no ACL is about `GET event`, whose path names no room. (FE-02, AC-05) */
export function checkIsInRoom(room: Room, origin: ServerName): Refusal | undefined {
  if (!room.isKnown) return { refused: 'not-resident', rule: 'ML-16', detail: 'the room is not known here' };
  room.require({ residents: [origin], state: [stateKeyOf('m.room.server_acl', '')] });
  if (room.joinedMembersOf(origin) > 0) return undefined;
  return { refused: 'server-not-in-room', rule: 'FE-05', detail: `no user of ${origin} is in the room` };
}

/** An event that other servers may have: known with its PDU, and not rejected. Soft-failed ones are. (PD-08, PD-10) */
export function servable(room: Room, eventId: EventId): Pdu | undefined {
  room.require({ events: [eventId] });
  return room.known(eventId)?.status !== 'rejected' && room.hasPdu(eventId) ? room.pdu(eventId) : undefined;
}

/**
 * Breadth-first over the parents of `latest`: what of it is neither in `earliest` nor below `minDepth`, at most
 * `limit`, nearest first. Rejected events are passed through and not given. (FE-03)
 */
export function missingEvents(
  room: Room,
  asked: {
    readonly latest: readonly EventId[];
    readonly earliest: readonly EventId[];
    readonly limit: number;
    readonly minDepth: bigint;
  },
): readonly Pdu[] {
  const seen = new Set<EventId>(asked.earliest);
  const found: Pdu[] = [];
  let front = asked.latest.filter((eventId) => !seen.has(eventId));
  for (const eventId of front) seen.add(eventId);
  for (let level = 0; front.length > 0 && found.length < asked.limit && level < maxLevels; level++) {
    room.require({ events: front });
    const next: EventId[] = [];
    for (const eventId of front) {
      if (!room.hasPdu(eventId)) continue;
      const pdu = room.pdu(eventId);
      if (level > 0) {
        if (depthOf(pdu) < asked.minDepth) continue;
        if (found.length < asked.limit && servable(room, eventId) !== undefined) found.push(pdu);
      }
      for (const parent of pdu.prevEvents) {
        if (seen.has(parent)) continue;
        seen.add(parent);
        next.push(parent);
      }
    }
    front = next.slice(0, maxFront);
  }
  return found;
}

/**
 * The PDUs that have parents which neither the room nor the others of `pdus` know: what comes before these is missing
 * here. A parent that was rejected without a place in the graph is known, and will never have one. (FE-09)
 */
export function missingParents(room: Room, pdus: readonly Pdu[]): readonly Pdu[] {
  const among = new Set(pdus.map(({ eventId }) => eventId));
  const besides = (pdu: Pdu): readonly EventId[] => pdu.prevEvents.filter((parent) => !among.has(parent));
  room.require({ events: [...among, ...pdus.flatMap(besides)] });
  const isMissing = (eventId: EventId): boolean => {
    const known = room.known(eventId);
    return known === undefined || (known.status === 'accepted' && known.stateAfter === undefined);
  };
  return pdus.filter((pdu) => isMissing(pdu.eventId) && besides(pdu).some(isMissing));
}

/** A walk through rejected events alone would find nothing, and go on and on, wider and wider. */
const maxLevels = 100;
const maxFront = 400;

/**
 * `from`, as far as the room has them in its graph, and what precedes them: at every step the deepest that is next. At
 * most `limit`, the given ones counted. Rejected events are passed through and not given. (FE-04)
 */
export function eventsUpTo(room: Room, from: readonly EventId[], limit: number): readonly Pdu[] {
  const seen = new Set<EventId>(from);
  const waiting: Pdu[] = [];
  const add = (eventIds: readonly EventId[]): void => {
    room.require({ events: eventIds });
    for (const eventId of eventIds) {
      seen.add(eventId);
      // An event outside the graph is no part of the history.
      if (room.hasPdu(eventId) && room.known(eventId)?.stateAfter !== undefined)
        waiting.push(room.pdu(eventId));
    }
    waiting.sort(shallowerFirst);
  };
  add([...seen]);
  const found: Pdu[] = [];
  let passed = 0;
  for (let pdu = waiting.pop(); pdu !== undefined; pdu = waiting.pop()) {
    if (servable(room, pdu.eventId) === undefined) passed++;
    else found.push(pdu);
    if (found.length === limit || passed === limit) break;
    add(pdu.prevEvents.filter((eventId) => !seen.has(eventId)));
  }
  return found;
}

function shallowerFirst(one: Pdu, other: Pdu): number {
  const [depth, otherDepth] = [depthOf(one), depthOf(other)];
  if (depth !== otherDepth) return depth < otherDepth ? -1 : 1;
  return one.originServerTs - other.originServerTs || (one.eventId < other.eventId ? -1 : 1);
}

/**
 * The state before an event, resolved over its parents; of a create event the empty one. A no where the event is not
 * to be had, or has no place in the graph that we know. (FE-05, SR-01)
 */
export function stateBefore(room: Room, eventId: EventId): StateRef | Refusal {
  const pdu = servable(room, eventId);
  if (pdu === undefined) return unknownEvent(eventId);
  const after = room.known(eventId)?.stateAfter;
  const nowhere: Refusal = {
    refused: 'unknown-event',
    rule: 'FE-05',
    detail: `the state at ${eventId} is not known here`,
    events: [eventId],
  };
  if (after === undefined) return nowhere;
  if (pdu.stateKey === undefined) return after;
  if (pdu.prevEvents.length === 0) return trunkAt(0);
  room.require({ events: pdu.prevEvents });
  const refs = pdu.prevEvents.map((parent) => room.known(parent)?.stateAfter);
  const known = refs.filter((ref) => ref !== undefined);
  return known.length < refs.length ? nowhere : resolveRefs(room, known);
}

/** What is said of an event that is not to be had. */
export function unknownEvent(eventId: EventId): Refusal {
  return {
    refused: 'unknown-event',
    rule: 'FE-05',
    detail: `${eventId} is not known here`,
    events: [eventId],
  };
}

/**
 * Whether one of `redactions`, accepted events that name it, applies to an event. Since version 3 one does where its
 * sender had the power to redact at that point of the graph, or is of the same server as the event's sender; in
 * versions 1 and 2 the auth rules have decided that. A create event is never redacted: it would no longer say which
 * version the room is of. (RV-09, FE-08; rooms/v3, Handling redactions)
 */
export function isRedacted(room: Room, pdu: Pdu, redactions: readonly EventId[]): boolean {
  if (redactions.length === 0 || pdu.type === 'm.room.create') return false;
  room.require({ events: [...redactions, room.createEventId] });
  return redactions.some((eventId) => {
    const known = room.known(eventId);
    if (known?.status !== 'accepted' || known.stateAfter === undefined) return false;
    const redaction = room.pdu(eventId);
    if (redaction.type !== 'm.room.redaction' || redactedBy(redaction) !== pdu.eventId) return false;
    if (room.version.redactionAuthRule) return true;
    if (serverNameOf(redaction.sender) === serverNameOf(pdu.sender)) return true;
    const levels = new PowerLevels(room.version, {
      event: room.statePdu(known.stateAfter, 'm.room.power_levels', ''),
      create: room.create(),
    });
    return comparePower(levels.powerOf(redaction.sender), levels.level('redact')) >= 0;
  });
}

/** The event that a redaction names, where its room version has the name. (RV-06) */
function redactedBy({ roomVersion, content, json }: Pdu): EventId | undefined {
  const named = memberOf(roomVersion.redactsInContent ? content : json, 'redacts');
  return typeof named === 'string' ? parseEventId(named) : undefined;
}

/** Where a server must have been in the room to read an event: with a member of one of these memberships. */
export interface Visibility {
  readonly state: StateRef;
  readonly memberships: readonly Membership[];
}

/**
 * What the history visibility in the state after the event asks of a server that is in the room now; undefined where
 * it asks nothing. Events outside the graph, the state at which isn't known, are open.
 *
 * Spec v1.19, client-server-api, Room History Visibility, says it of users; of servers as Synapse has it.
 */
export function visibilityOf(room: Room, eventId: EventId): Visibility | undefined {
  room.require({ events: [eventId], state: [stateKeyOf('m.room.history_visibility', '')] });
  const state = room.known(eventId)?.stateAfter;
  if (state === undefined) return undefined;
  const content = room.statePdu(state, 'm.room.history_visibility', '')?.content;
  switch (content === undefined ? undefined : memberOf(content, 'history_visibility')) {
    case 'invited':
      return { state, memberships: ['join', 'invite'] };
    case 'joined':
      return { state, memberships: ['join'] };
    default:
      return undefined;
  }
}

/**
 * Whether a server had a member of one of the memberships in the state. `members` are the entries of its users in the
 * current state, through all of its history.
 */
export function wasIn(
  room: Room,
  { state, memberships }: Visibility,
  server: ServerName,
  members: readonly MemberEntry[],
): boolean {
  const held = new Map<UserId, Membership>();
  for (const { userId, position, membership } of members) {
    if (position <= state.base) held.set(userId, membership);
  }
  const besides = [...state.overlay].flatMap(([key, eventId]) => {
    const { type, stateKey } = typeAndStateKeyOf(key);
    const userId = type === 'm.room.member' ? parseUserId(stateKey) : undefined;
    return userId !== undefined && serverNameOf(userId) === server ? [{ userId, eventId }] : [];
  });
  room.require({ events: besides.flatMap(({ eventId }) => eventId ?? []) });
  for (const { userId, eventId } of besides) {
    held.set(userId, eventId === null ? 'none' : membershipOf(room.pdu(eventId).content));
  }
  return [...held.values()].some((membership) => memberships.includes(membership));
}
