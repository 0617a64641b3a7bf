import type { EventId, Pdu } from '@exeunt/pdu';
import { depthOf, membershipOf, type Room } from './room.js';
import { compareEventIds } from './state-resolution/event-id-order.js';
import { stateKeyOf, typeAndStateKeyOf, type StateKey } from './state-resolution/state-key.js';
import { trunkAt, type StateRef } from './state-ref.js';

/*
 * Leave storms. A thousand users take a template each and then leave: a fork of a thousand siblings, where the
 * plain algorithm resolves a thousand states for every leave. This file holds the argument that makes such a fork
 * cheap; docs/decisions/0003-forks-of-leaves.md gives it in full, and a property test holds it against the plain
 * algorithm.
 *
 * Let B be the current state at some position (the fork base), and let every forward extremity's state, and the
 * current state ever since, be B with the memberships of some users replaced by a calm leave. Then the resolution of any of these states is B with the
 * union of their leaves.
 *
 * A leave L of user u is calm over B when
 *   - it is u's own (SR-22: not a power event), and cites exactly B's create event, power levels and u's member
 *     event m, where m is an invite, a join or a knock that u may take back;
 *   - it sorts after m however the two are compared: later (origin_server_ts, event_id), and greater depth in v1;
 *   - v2.1 only: no other leaver's auth chain holds m, and L's holds no other leaver's member event.
 *
 * Why: only member keys of leavers are conflicted, each with the candidates m and L. All auth chains agree but for
 * those m, since every leave cites the same B. So the full conflicted set is these pairs (v2.1: no path joins two
 * pairs, by the third condition; the power levels may be in it, whose result the unconflicted state overwrites). L
 * is checked after m, finds m (or nothing, then m among its auth events) as u's membership, and is allowed: a
 * self-leave depends on nothing else (AU-20).
 */

/** Whether `ref` is a state of the room's present fork: its base, with nothing but the fork's leaves over it. */
export function isInFork(room: Room, ref: StateRef): boolean {
  return room.forkBase !== undefined && isStateOfFork(room, ref, room.forkBase);
}

/** Whether all that `ref` puts over its base is a leave of the current state, or takes one back. */
function isStateOfFork(room: Room, ref: StateRef, forkBase: number): boolean {
  if (ref.base < forkBase) return false;
  const now = room.currentState();
  const begun = trunkAt(forkBase);
  room.require({ state: [...ref.overlay.keys()] });
  return [...ref.overlay].every(
    ([key, eventId]) => room.entryOf(now, key) === eventId || room.entryOf(begun, key) === eventId,
  );
}

/**
 * The resolution of states of which {@link isInFork} holds. Its difference is kept small, for a fork that goes on for
 * a thousand leaves would otherwise hand each of them on to all later ones: it rests on a late current state, and
 * says which leaves are there besides, or which are not there yet, whatever is less.
 */
export function unionInFork(room: Room, refs: readonly StateRef[]): StateRef {
  const begun = trunkAt(room.forkBase ?? 0);
  const now = room.currentState();
  // Since the fork began the current state has only gained leaves, so the latest of the bases has those of all.
  const base = Math.max(...refs.map((ref) => ref.base));
  const gained = new Map<StateKey, EventId>();
  const missing = new Map<StateKey, EventId | null>();
  let latest = base;
  for (const key of new Set(refs.flatMap((ref) => [...ref.overlay.keys()]))) {
    const leave = room.entryOf(now, key);
    if (leave === undefined || leave === room.entryOf(begun, key)) continue;
    const isThere = refs.some((ref) => room.entryOf(ref, key) === leave);
    if (isThere === (room.entryOf(trunkAt(base), key) === leave)) continue;
    if (isThere) {
      gained.set(key, leave);
      latest = Math.max(latest, ...room.changedAt(key, base));
    } else {
      missing.set(key, room.entryOf(begun, key) ?? null);
    }
  }
  const since = room.changesBetween(base, latest);
  if (since.length - gained.size >= gained.size) return { base, overlay: new Map([...missing, ...gained]) };
  room.require({ state: since });
  for (const key of since) if (!gained.has(key)) missing.set(key, room.entryOf(begun, key) ?? null);
  return { base: latest, overlay: missing };
}

/**
 * The base of the fork that the room is in once `leave`, with the state `before` it, is one more forward extremity;
 * `undefined` where the argument above doesn't hold and the plain algorithm must decide. An event that is no state
 * event is one more extremity with the state of its parents, which the argument covers as well.
 */
export function forkBaseWith(room: Room, leave: Pdu, before: StateRef): number | undefined {
  const base = forkBaseOf(room, before);
  if (base === undefined || leave.stateKey === undefined) return base;
  if (room.entry(room.currentState(), leave.type, leave.stateKey) !== memberAt(room, base, leave)) {
    return undefined;
  }
  if (!isCalm(room, leave, base)) return undefined;
  if (room.version.stateResolution === 'v2.1' && !isUnentangled(room, leave, base)) return undefined;
  return base;
}

/** Where the fork begins that an event with the state `before` it belongs to or opens. */
function forkBaseOf(room: Room, before: StateRef): number | undefined {
  // A fork that the argument does not cover stays one until it has closed.
  if (room.forkBase === undefined && room.forwardExtremityCount > 1) return undefined;
  // One that it covers may begin earlier than was known, if all that changed since then are calm leaves too.
  const base =
    room.forkBase !== undefined && room.forkBase <= before.base
      ? room.forkBase
      : calmBase(room, Math.min(before.base, room.stateChangedAt));
  // Its parents must be states of the fork as well: nothing but the base and calm leaves.
  return base !== undefined && isStateOfFork(room, before, base) ? base : undefined;
}

/** `base`, where the current state differs from what it was there by calm leaves alone. */
function calmBase(room: Room, base: number): number | undefined {
  const left = leavesSince(room, base);
  if (left === undefined) return undefined;
  for (const leave of left) {
    if (!isCalm(room, leave, base)) return undefined;
    if (room.version.stateResolution === 'v2.1' && !isUnentangled(room, leave, base)) return undefined;
  }
  return base;
}

/**
 * The self-leaves that are all that changed in the current state since `base`; undefined if anything else did, a
 * leaver's own earlier change included: the current state in between would be no state of the fork.
 */
function leavesSince(room: Room, base: number): readonly Pdu[] | undefined {
  const keys = room.changesBetween(base, room.stateChangedAt);
  room.require({ state: keys });
  if (keys.some((key) => room.changedAt(key, base).length > 1)) return undefined;
  const ids = keys.map((key) => room.entryOf(room.currentState(), key));
  const known = ids.filter((eventId) => eventId !== undefined);
  if (
    known.length < ids.length ||
    known.some((_, at) => typeAndStateKeyOf(keys[at]!).type !== 'm.room.member')
  ) {
    return undefined;
  }
  room.require({ events: known });
  const leaves = known.map((eventId) => room.pdu(eventId));
  return leaves.every(isSelfLeave) ? leaves : undefined;
}

function isSelfLeave(pdu: Pdu): boolean {
  return pdu.type === 'm.room.member' && pdu.stateKey === pdu.sender && pdu.content['membership'] === 'leave';
}

function memberAt(room: Room, base: number, leave: Pdu): EventId | undefined {
  return room.entry(trunkAt(base), 'm.room.member', leave.sender);
}

function isCalm(room: Room, leave: Pdu, base: number): boolean {
  if (!isSelfLeave(leave)) return false;
  const at = trunkAt(base);
  room.require({
    state: [
      stateKeyOf('m.room.create', ''),
      stateKeyOf('m.room.power_levels', ''),
      stateKeyOf('m.room.member', leave.sender),
    ],
  });
  const memberId = memberAt(room, base, leave);
  if (memberId === undefined) return false;
  const expected = new Set<EventId>([memberId]);
  const powerLevels = room.entry(at, 'm.room.power_levels', '');
  if (powerLevels !== undefined) expected.add(powerLevels);
  if (!room.version.privilegedCreators) expected.add(room.createEventId);
  if (expected.size !== leave.authEvents.length || !leave.authEvents.every((id) => expected.has(id)))
    return false;

  const member = room.pdu(memberId);
  const membership = membershipOf(member.content);
  if (
    membership !== 'join' &&
    membership !== 'invite' &&
    !(membership === 'knock' && room.version.knocking)
  ) {
    return false;
  }
  return room.version.stateResolution === 'v1' ? depthOf(leave) > depthOf(member) : sortsAfter(leave, member);
}

/** By (origin_server_ts, event_id), the order that settles what the mainline leaves open. (SR-25) */
function sortsAfter(later: Pdu, earlier: Pdu): boolean {
  if (later.originServerTs !== earlier.originServerTs) return later.originServerTs > earlier.originServerTs;
  return compareEventIds(later.eventId, earlier.eventId) > 0;
}

/**
 * Whether no path of the auth graph joins `leave` with another leaver's member event, in either direction, so that
 * the conflicted state subgraph holds nothing but the pairs themselves. (SR-31)
 */
function isUnentangled(room: Room, leave: Pdu, base: number): boolean {
  const others = leaversSince(room, base);
  const own = memberAt(room, base, leave);
  const chain = room.authChainOf(leave.authEvents);
  for (const eventId of chain) if (eventId !== own && others.members.has(eventId)) return false;
  return own === undefined || (others.cited.get(own) ?? 0) <= (others.members.has(own) ? 1 : 0);
}

interface Leavers {
  readonly base: number;
  upTo: number;
  /** The member events that the leavers took back. */
  readonly members: Set<EventId>;
  /** How many leavers' auth chains hold a member event, their own included. */
  readonly cited: Map<EventId, number>;
}

/** Kept between leaves, so that each costs its own auth chain and not all others'. Derived, never stored. */
const leaversOfRoom = new WeakMap<Room, Leavers>();

function leaversSince(room: Room, base: number): Leavers {
  const kept = leaversOfRoom.get(room);
  const leavers =
    kept?.base === base
      ? kept
      : { base, upTo: base, members: new Set<EventId>(), cited: new Map<EventId, number>() };
  const keys = room.changesBetween(leavers.upTo, room.stateChangedAt);
  room.require({ state: keys });
  const found = keys.map((key) => ({
    member: room.entryOf(trunkAt(base), key),
    leave: room.entryOf(room.currentState(), key),
  }));
  room.require({ events: found.flatMap(({ leave }) => (leave === undefined ? [] : [leave])) });
  const chains = found.map(({ leave }) =>
    leave === undefined ? new Set<EventId>() : room.authChainOf(room.pdu(leave).authEvents),
  );
  for (const { member } of found) if (member !== undefined) leavers.members.add(member);
  for (const chain of chains) {
    for (const eventId of chain) {
      if (room.pdu(eventId).type === 'm.room.member')
        leavers.cited.set(eventId, (leavers.cited.get(eventId) ?? 0) + 1);
    }
  }
  leavers.upTo = room.stateChangedAt;
  leaversOfRoom.set(room, leavers);
  return leavers;
}
