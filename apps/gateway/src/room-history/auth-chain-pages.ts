import type { EventStore } from '@exeunt/event-store';
import type { EventId, RoomId } from '@exeunt/pdu';
import { LRUCache } from 'lru-cache';

const pageSize = 1_000;

/**
 * The events of `cited`, which some others cite as auth events, and all that can be reached from them by auth edges:
 * each once, in no order, in pages of at most a thousand. In memory are a bit for each position of the room's log and
 * a page, however long the chain is. (FE-06, FE-10)
 */
export async function* authChainPages(
  store: EventStore,
  roomId: RoomId,
  cited: AsyncIterable<readonly EventId[]>,
): AsyncGenerator<readonly EventId[]> {
  const given = new Positions();
  // Nearly every event cites the same few; these aren't looked up a thousand times.
  const recent = new LRUCache<EventId, true>({ max: 10_000 });
  for await (const page of cited) {
    const waiting = [...page];
    while (waiting.length > 0) {
      const some = new Set(waiting.splice(-pageSize).filter((eventId) => !recent.has(eventId)));
      if (some.size === 0) continue;
      const edges = await store.authEventsOf(roomId, [...some]);
      const found = edges.filter(({ position }) => given.add(position));
      for (const { eventId } of edges) recent.set(eventId, true);
      for (const { authEvents } of found)
        waiting.push(...authEvents.filter((eventId) => !recent.has(eventId)));
      if (found.length > 0) yield found.map(({ eventId }) => eventId);
    }
  }
}

/** A set of positions of a log, a bit each. */
class Positions {
  #bits = new Uint8Array(1_024);

  /** Whether it is new. */
  add(position: number): boolean {
    const at = position >> 3;
    if (at >= this.#bits.length) {
      const more = new Uint8Array(Math.max(at + 1, 2 * this.#bits.length));
      more.set(this.#bits);
      this.#bits = more;
    }
    const bit = 1 << (position & 7);
    const isNew = (this.#bits[at]! & bit) === 0;
    this.#bits[at]! |= bit;
    return isNew;
  }
}
