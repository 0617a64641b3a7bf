import { describe, expect, it } from 'vitest';
import type { RoomId, ServerName, UserId } from '@exeunt/pdu';
import { InMemoryEventStore } from '@exeunt/event-store';
import { RoomStore } from '@exeunt/room-store';
import { paperServer, RoomBuilder } from '../../../../test/harness/room-builder.js';
import { makingOf, sayLocally } from './local-event.js';

const ourName = 'hub.example' as ServerName;
const ours = paperServer(ourName);
const alice = `@alice:${ourName}` as UserId;
const bob = `@bob:${ourName}` as UserId;

/** A room of alice and bob in a store, nothing of it in memory. */
async function storedRoom(version: string): Promise<{ readonly rooms: RoomStore; readonly roomId: RoomId }> {
  const built = new RoomBuilder({ version, servers: [ours], creator: alice });
  built.member(bob, 'join');
  const store = new InMemoryEventStore();
  const { room, domainEvents, roomId } = built;
  const appended = await store.append({
    roomId,
    expectedPosition: 0,
    domainEvents,
    header: room.header(),
    residents: [[ourName, 2]],
    broadcasts: [],
  });
  expect(appended).not.toBe('conflict');
  return { rooms: new RoomStore(store), roomId };
}

describe('an event of a local user in a room that has to be loaded first', () => {
  it.each(['1', '11'])(
    'is one event, though the decision is run again and again while time goes on (version %s)',
    async (version) => {
      const { rooms, roomId } = await storedRoom(version);
      let ticks = 1_700_000_000_000;
      const side = {
        ourName,
        signingKey: ours.key,
        now: () => ++ticks,
        randomId: () => `id${++ticks}`,
      };
      const making = makingOf(side);
      const wish = {
        type: 'm.room.member',
        sender: bob,
        stateKey: bob,
        content: { membership: 'leave' },
      };
      const made = new Set<string | undefined>();
      let runs = 0;
      const { refusal } = await rooms.execute(roomId, (room) => {
        // Without an end it would go on for ever.
        if (++runs > 50) throw new Error('the decision does not come to an end');
        const decision = sayLocally(room, wish, making, side);
        made.add(decision.pdu?.eventId);
        return decision;
      });
      expect(refusal).toBeUndefined();
      expect(runs).toBeGreaterThan(1);
      expect(made.size).toBe(1);
    },
  );
});
