import type { EventStore } from '@exeunt/event-store';
import type { RoomId } from '@exeunt/pdu';
import { deciding, initialRoom, Room, type Facts } from '@exeunt/room';

/** More rounds of asking for facts than any look needs; a walk of a hundred events asks for each by itself. */
const maxRounds = 1_000;

/**
 * Looks at a room's past as it durably is. Neither waits for the room's commands nor keeps them waiting, and nothing
 * that it loads stays in memory; so for whoever reads much, and decides nothing. An unknown room has `isKnown` false.
 * Rejects with what `read` throws. `read` is pure and runs again whenever something was loaded.
 */
export async function lookBack<T>(store: EventStore, roomId: RoomId, read: (room: Room) => T): Promise<T> {
  const header = await store.header(roomId);
  const room = header === undefined ? initialRoom() : Room.fromHeader(header);
  for (let round = 0; round < maxRounds; round++) {
    const looked = deciding(() => read(room));
    if (looked.decided) return looked.outcome;
    room.learn(looked.needed, upTo(room.position, await store.latestFacts(roomId, looked.needed)));
  }
  throw new Error(`${roomId}: a look back found no end`);
}

/** Without events that came after the room was looked at: of what they changed it knows nothing. */
function upTo(position: number, facts: Facts): Facts {
  return {
    ...facts,
    state: facts.state.filter((entry) => entry.position <= position),
    events: facts.events.filter((event) => event.position <= position),
  };
}
