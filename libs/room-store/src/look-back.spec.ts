import { describe, expect, it } from 'vitest';
import { InMemoryEventStore } from '@exeunt/event-store';
import type { RoomId, ServerName } from '@exeunt/pdu';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { lookBack } from './look-back.js';
import { RoomStore } from './room-store.js';

const hub = 'hub.example' as ServerName;
const alice = '@alice:hub.example';

async function stored() {
  const builder = new RoomBuilder({ version: '11', servers: [paperServer(hub)], creator: alice });
  const store = new InMemoryEventStore();
  const rooms = new RoomStore(store);
  let appended = 0;
  const append = async (): Promise<void> => {
    const domainEvents = builder.domainEvents.slice(appended);
    appended = builder.domainEvents.length;
    await rooms.executeAll(
      builder.roomId,
      domainEvents.map((domainEvent) => () => ({ domainEvents: [domainEvent], broadcasts: [] })),
    );
  };
  await append();
  return { builder, store, rooms, append };
}

describe('a look back', () => {
  it('finds what the room finds, and nothing in a room that is not known', async () => {
    const { builder, store } = await stored();
    const ids = builder.pdus.map(({ eventId }) => eventId);
    expect(await lookBack(store, builder.roomId, (room) => ids.map((id) => room.pdu(id).json))).toEqual(
      builder.pdus.map(({ json }) => json),
    );
    expect(await lookBack(store, '!nowhere:hub.example' as RoomId, (room) => room.isKnown)).toBe(false);
  });

  it('does not wait for a command that waits for its append', async () => {
    const { builder, store, rooms } = await stored();
    let letGo!: () => void;
    const held = new Promise<void>((resolve) => (letGo = resolve));
    const append = store.append.bind(store);
    store.append = async (what) => held.then(() => append(what));
    builder.say({ sender: alice, content: { body: 'held' } });
    const domainEvents = builder.domainEvents.slice(-1);
    const command = rooms.execute(builder.roomId, () => ({ domainEvents, broadcasts: [] }));
    expect(await lookBack(store, builder.roomId, (room) => room.position)).toBe(
      builder.domainEvents.length - 1,
    );
    letGo();
    await command;
  });

  it('stays where it began: what is appended meanwhile is not seen', async () => {
    const { builder, store, append } = await stored();
    const later = builder.make({ sender: alice, content: { body: 'later' } });
    const latestFacts = store.latestFacts.bind(store);
    store.latestFacts = async (...asked) => {
      store.latestFacts = latestFacts;
      builder.receive(later);
      await append();
      return latestFacts(...asked);
    };
    expect(await lookBack(store, builder.roomId, (room) => room.known(later.eventId))).toBeUndefined();
    expect(await lookBack(store, builder.roomId, (room) => room.known(later.eventId)?.status)).toBe(
      'accepted',
    );
  });

  it('rejects with what the look throws, or the store', async () => {
    const { builder, store } = await stored();
    const broken = lookBack(store, builder.roomId, () => {
      throw new RangeError('a bug');
    });
    await expect(broken).rejects.toThrow('a bug');
    store.latestFacts = () => Promise.reject(new Error('no store'));
    const lost = lookBack(store, builder.roomId, (room) => room.joinedMembersOf(hub));
    await expect(lost).rejects.toThrow('no store');
  });
});
