import type { EventId, Pdu } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { comparePower, PowerLevels, type Power } from '../auth-rules/power-levels.js';
import { citedEvent, type AuthEdges, type EventGraph } from './event-graph.js';
import { compareEventIds } from './event-id-order.js';

/** What two events are compared by in the reverse topological power ordering. */
export interface PowerRank {
  /** Of the event's sender, as its own auth events tell. */
  readonly power: Power;
  /** Milliseconds since the epoch. */
  readonly originServerTs: number;
  readonly eventId: EventId;
}

/**
 * Whether the event might take away someone's ability to do something: a state event that sets power levels or
 * join rules, or with which one user removes or bans another. A leave by the user's own hand is not one.
 *
 * SR-22; rooms/v2, State resolution: Definitions, "Power events".
 */
export function isPowerEvent(pdu: Pdu): boolean {
  if (pdu.stateKey === undefined) return false;
  switch (pdu.type) {
    case 'm.room.power_levels':
    case 'm.room.join_rules':
      return true;
    case 'm.room.member': {
      const membership = Object.hasOwn(pdu.content, 'membership') ? pdu.content['membership'] : undefined;
      return (membership === 'leave' || membership === 'ban') && pdu.sender !== pdu.stateKey;
    }
    default:
      return false;
  }
}

/** The {@link PowerRank} of an event. In version 12 its auth events do not name the creators; the room does. */
export function powerRankOf(pdu: Pdu, version: RoomVersion, graph: EventGraph): PowerRank {
  const levels = new PowerLevels(version, {
    event: citedEvent(pdu, 'm.room.power_levels', '', graph),
    create: version.privilegedCreators ? graph.create() : citedEvent(pdu, 'm.room.create', '', graph),
  });
  return { power: levels.powerOf(pdu.sender), originServerTs: pdu.originServerTs, eventId: pdu.eventId };
}

/**
 * The comparison of the reverse topological power ordering, negative where `x` is less.
 *
 * SR-23; rooms/v2, State resolution: Definitions, "Reverse topological power ordering".
 */
export function comparePowerRank(x: PowerRank, y: PowerRank): number {
  // 1. x's sender has greater power; or
  return (
    comparePower(y.power, x.power) ||
    // 2. the same power, but x is earlier by origin_server_ts; or
    x.originServerTs - y.originServerTs ||
    // 3. the same time too, but x's event_id is less.
    compareEventIds(x.eventId, y.eventId)
  );
}

/**
 * The events in reverse topological power ordering, earliest first: an event comes after all of its auth chain,
 * and among those that could come next the smallest by `compare` does. Events between two of these that are not
 * themselves to be ordered still hold the later one back. Events of a cycle, which only made-up IDs of versions 1
 * and 2 can form, are left out.
 *
 * SR-23; Kahn's algorithm, as rooms/v2 proposes. Time grows with the auth chain and n log n of the events.
 */
export function reverseTopologicalPowerOrder(
  events: Iterable<EventId>,
  authEventsOf: AuthEdges,
  compare: (x: EventId, y: EventId) => number,
): EventId[] {
  const wanted = [...new Set(events)].sort(compare);
  const rankOf = new Map(wanted.map((id, rank) => [id, rank]));

  // The auth graph below the events: how many auth events of each are still to come, and who waits for whom.
  const blockers = new Map<EventId, number>();
  const waiting = new Map<EventId, EventId[]>();
  const pending = [...wanted];
  for (let id = pending.pop(); id !== undefined; id = pending.pop()) {
    if (blockers.has(id)) continue;
    const cited = new Set(authEventsOf(id));
    blockers.set(id, cited.size);
    for (const auth of cited) {
      const waiters = waiting.get(auth);
      if (waiters === undefined) waiting.set(auth, [id]);
      else waiters.push(id);
      if (!blockers.has(auth)) pending.push(auth);
    }
  }

  // Those in between are passed over as soon as they are free; of the wanted ones the smallest goes next.
  const passed: EventId[] = [];
  const free = new RankHeap();
  const release = (id: EventId): void => {
    const rank = rankOf.get(id);
    if (rank === undefined) passed.push(id);
    else free.push(rank);
  };
  for (const [id, count] of blockers) {
    if (count === 0) release(id);
  }

  const ordered: EventId[] = [];
  for (;;) {
    let next = passed.pop();
    if (next === undefined) {
      const rank = free.pop();
      next = rank === undefined ? undefined : wanted[rank];
      if (next === undefined) return ordered;
      ordered.push(next);
    }
    for (const waiter of waiting.get(next) ?? []) {
      const left = (blockers.get(waiter) ?? 0) - 1;
      blockers.set(waiter, left);
      if (left === 0) release(waiter);
    }
  }
}

/** A binary heap of numbers, smallest first. */
class RankHeap {
  readonly #ranks: number[] = [];

  push(rank: number): void {
    const ranks = this.#ranks;
    let at = ranks.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = ranks[parent]!;
      if (above <= rank) break;
      ranks[at] = above;
      at = parent;
    }
    ranks[at] = rank;
  }

  pop(): number | undefined {
    const ranks = this.#ranks;
    const smallest = ranks[0];
    const last = ranks.pop();
    if (last === undefined || ranks.length === 0) return smallest;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= ranks.length) break;
      if (child + 1 < ranks.length && ranks[child + 1]! < ranks[child]!) child += 1;
      if (ranks[child]! >= last) break;
      ranks[at] = ranks[child]!;
      at = child;
    }
    ranks[at] = last;
    return smallest;
  }
}
