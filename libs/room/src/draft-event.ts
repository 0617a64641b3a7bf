import { referenceTo, type EventId, type Pdu, type ServerName, type UserId } from '@exeunt/pdu';
import type { JsonObject, JsonValue } from '@exeunt/signing';
import { JsonNumber } from '@exeunt/signing';
import type { RoomVersion } from '@exeunt/room-version';
import { authEventTypes } from './auth-rules/auth-event-types.js';
import { checkAuthRules } from './auth-rules/check-auth.js';
import { stateThatDecides } from './judge.js';
import type { Refusal } from './refusal.js';
import type { ForwardExtremity } from './room-facts.js';
import type { Room } from './room.js';

/** What somebody wants to say, before the room has given it a place. */
export interface EventWish {
  readonly type: string;
  readonly sender: UserId;
  readonly stateKey?: string;
  readonly content: JsonObject;
  /** Ms since the epoch, by our clock. */
  readonly originServerTs: number;
  /** Written as `origin` in versions 1 to 10, and in every template. (GX-01) */
  readonly origin: ServerName;
}

/** At most this many parents. (EV-05) */
const maxParents = 20;

/**
 * An unsigned event over the room's forward extremities and current state: no hashes, no signatures, and from
 * version 3 on no event ID (in 1 and 2 the caller adds one). (ML-09 to ML-13, EV-06)
 */
export function draftEvent(
  room: Room,
  wish: EventWish,
  options: { readonly alwaysOrigin?: boolean } = {},
): JsonObject {
  const { version } = room;
  const parents = parentsFor(room);
  const current = room.currentState();
  const described = { ...wish, ...(wish.stateKey === undefined ? {} : { stateKey: wish.stateKey }) };
  room.require({ state: stateThatDecides(room, described) });
  const authEvents = authEventTypes(described, version)
    .map(({ type, stateKey }) => room.entry(current, type, stateKey))
    .filter((eventId) => eventId !== undefined);
  const hasOrigin = options.alwaysOrigin === true || !version.redactsInContent;
  return {
    auth_events: references(room, [...new Set(authEvents)]),
    content: wish.content,
    depth: nextDepth(version, parents),
    ...(hasOrigin ? { origin: wish.origin } : {}),
    origin_server_ts: wish.originServerTs,
    prev_events: references(
      room,
      parents.map(({ eventId }) => eventId),
    ),
    room_id: room.id,
    sender: wish.sender,
    ...(wish.stateKey === undefined ? {} : { state_key: wish.stateKey }),
    type: wish.type,
  };
}

/**
 * The template that `make_leave` answers with, or why this user can't leave. The caller has checked that the user is
 * the asking server's, and that this server may ask.
 */
export function leaveTemplate(
  room: Room,
  asked: { readonly userId: UserId; readonly ourName: ServerName; readonly now: number },
): JsonObject | Refusal {
  const wish: EventWish = {
    type: 'm.room.member',
    sender: asked.userId,
    stateKey: asked.userId,
    content: { membership: 'leave' },
    originServerTs: asked.now,
    origin: asked.ourName,
  };
  return checkWish(room, wish) ?? draftEvent(room, wish, { alwaysOrigin: true });
}

/** Whether the auth rules allow an event in the current state, before it exists. (ML-05) */
export function checkWish(room: Room, wish: EventWish): Refusal | undefined {
  const deciding = stateThatDecides(room, wish);
  const current = room.currentState();
  room.require({ state: deciding, events: [room.createEventId] });
  const entries = deciding
    .map((key) => room.entryOf(current, key))
    .filter((eventId) => eventId !== undefined);
  room.require({ events: entries });
  const verdict = checkAuthRules(
    asPdu(room, wish),
    room.version,
    (type, stateKey) => room.statePdu(current, type, stateKey),
    { create: room.create() },
  );
  if (verdict.allowed) return undefined;
  return {
    refused: 'not-authorised',
    rule: verdict.rule,
    detail: verdict.detail,
    events: entries,
    state: 'current-state',
  };
}

/** The wish in the shape the auth rules read; it has no ID and no references yet, and they look at neither. */
function asPdu(room: Room, wish: EventWish): Pdu {
  return {
    roomVersion: room.version,
    eventId: '' as EventId,
    roomId: room.id,
    type: wish.type,
    sender: wish.sender,
    ...(wish.stateKey === undefined ? {} : { stateKey: wish.stateKey }),
    content: wish.content,
    prevEvents: room.forwardExtremities.map(({ eventId }) => eventId),
    authEvents: [],
    depth: 0,
    originServerTs: wish.originServerTs,
    json: { content: wish.content, sender: wish.sender, type: wish.type },
  };
}

/**
 * The deepest forward extremities, as many as an event may cite; of equal depth those that came first. An extremity
 * that is left out is cited by a later event, so that a fork of any width comes down by nineteen with every event.
 */
function parentsFor(room: Room): readonly ForwardExtremity[] {
  const all = room.forwardExtremities;
  if (all.length <= maxParents) return all;
  return all
    .map((extremity) => ({ extremity, depth: BigInt(extremity.depth) }))
    .sort((a, b) => (a.depth === b.depth ? 0 : a.depth < b.depth ? 1 : -1))
    .slice(0, maxParents)
    .map(({ extremity }) => extremity);
}

function nextDepth(version: RoomVersion, parents: readonly ForwardExtremity[]): JsonValue {
  const deepest = parents.map(({ depth }) => BigInt(depth)).reduce((a, b) => (a > b ? a : b), 0n);
  const depth = deepest + 1n < version.maxDepth ? deepest + 1n : version.maxDepth;
  return depth <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(depth) : new JsonNumber(depth.toString());
}

function references(room: Room, eventIds: readonly EventId[]): JsonValue {
  if (!room.version.referencesArePairs) return eventIds;
  room.require({ events: eventIds });
  return eventIds.map((eventId) => referenceTo(room.pdu(eventId)));
}
