import { parseUserId, serverNameOf, type RoomId } from '@exeunt/pdu';
import { InMemoryEventStore } from '@exeunt/event-store';
import { deciding } from './deciding.js';
import type { DomainEvent } from './domain-events.js';
import { Room } from './room.js';

/** A room's log in a store, and decisions on rooms that are loaded from it. */
export class StoredRoom {
  readonly store = new InMemoryEventStore();
  /** How often facts were loaded. */
  loads = 0;

  constructor(readonly roomId: RoomId) {}

  /** Appends what brought `room` to where it is. */
  async append(room: Room, domainEvents: readonly DomainEvent[]): Promise<void> {
    if (domainEvents.length === 0) return;
    const servers = new Set(
      domainEvents
        .flatMap((domainEvent) => (domainEvent.type === 'PduAccepted' ? domainEvent.changes : []))
        .flatMap(({ type, stateKey }) => (type === 'm.room.member' ? (parseUserId(stateKey) ?? []) : []))
        .map(serverNameOf),
    );
    const appended = await this.store.append({
      roomId: this.roomId,
      expectedPosition: room.position - domainEvents.length,
      domainEvents,
      header: room.header(),
      residents: [...servers].map((server) => [server, room.joinedMembersOf(server)]),
      broadcasts: [],
    });
    if (appended !== 'appended') throw new Error(appended);
  }

  /** The room with nothing but its header loaded. */
  async cold(): Promise<Room> {
    return Room.fromHeader((await this.store.header(this.roomId))!);
  }

  /** Decides on a room loaded in part, loading what is asked for. */
  async decide<T>(room: Room, decide: (room: Room) => T): Promise<T> {
    for (let asked = ''; ;) {
      const decided = deciding(() => decide(room));
      if (decided.decided) return decided.outcome;
      const needed = JSON.stringify(decided.needed);
      if (needed === asked) throw new Error(`missing still: ${needed}`);
      asked = needed;
      const facts = await this.store.facts(this.roomId, room.position, decided.needed);
      if (facts === 'moved') throw new Error('the room has moved');
      this.loads += 1;
      room.learn(decided.needed, facts);
    }
  }
}
