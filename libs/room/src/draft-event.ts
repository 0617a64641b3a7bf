import { createHash } from 'node:crypto';
import { referenceTo, type EventId, type Pdu, type ServerName, type UserId } from '@exeunt/pdu';
import type { JsonObject, JsonValue } from '@exeunt/signing';
import { JsonNumber } from '@exeunt/signing';
import type { RoomVersion } from '@exeunt/room-version';
import type { OwnMembership } from './accept-leave.js';
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
  const parents = parentsFor(room, wish);
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

/** A user of another server that a template is made for. */
export interface TemplateAsked {
  readonly userId: UserId;
  readonly ourName: ServerName;
  /** Ms since the epoch. */
  readonly now: number;
}

/**
 * The template that `make_leave` or `make_knock` answers with, or why this user can't leave or knock. The caller has
 * checked that the user is the asking server's, and that this server may ask.
 */
export function memberTemplate(
  room: Room,
  membership: OwnMembership,
  asked: TemplateAsked,
): JsonObject | Refusal {
  const wish: EventWish = {
    type: 'm.room.member',
    sender: asked.userId,
    stateKey: asked.userId,
    content: { membership },
    originServerTs: asked.now,
    origin: asked.ourName,
  };
  return checkWish(room, wish) ?? draftEvent(room, wish, { alwaysOrigin: true });
}

/** The template for a leave. */
export function leaveTemplate(room: Room, asked: TemplateAsked): JsonObject | Refusal {
  return memberTemplate(room, 'leave', asked);
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

/** Among how many of the oldest forward extremities events drafted at the same time spread what they cite. */
const spread = 128;

/**
 * Forward extremities for an event to cite. Of more than it may cite: half of them the deepest, which hold what happened
 * last; the others from a place among the oldest that depends on who asks and when, so that many events drafted at the
 * same time cite different ones and the fork comes down while they are on their way. The oldest, because the states of
 * those together are nearly an earlier current state, which makes a short difference.
 */
function parentsFor(room: Room, wish: EventWish): readonly ForwardExtremity[] {
  const all = room.forwardExtremities;
  if (all.length <= maxParents) return all;
  const byDepth = all
    .map((extremity) => ({ extremity, depth: BigInt(extremity.depth) }))
    .sort((a, b) => (a.depth === b.depth ? 0 : a.depth < b.depth ? 1 : -1))
    .map(({ extremity }) => extremity);
  const deepest = byDepth.slice(0, maxParents / 2);
  const others = byDepth.slice(maxParents / 2);
  const start = placeOf(`${wish.sender} ${wish.originServerTs}`, Math.min(others.length, spread));
  const some = Array.from(
    { length: maxParents - deepest.length },
    (_, step) => others[(start + step) % others.length]!,
  );
  return [...deepest, ...some];
}

/** A number below `count` that `text` always gives, and like texts do not. */
function placeOf(text: string, count: number): number {
  return createHash('sha256').update(text).digest().readUInt32BE(0) % count;
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
