import type { StreamableFile } from '@nestjs/common';
import { beforeEach, describe, expect, it } from 'vitest';
import { InMemoryEventStore } from '@exeunt/event-store';
import type { EventId, ServerName } from '@exeunt/pdu';
import { RoomStore } from '@exeunt/room-store';
import { paperServer, RoomBuilder } from '../../../../test/harness/room-builder.js';
import type { FederationSide } from '../federation-side.js';
import { RoomHistory, type HistoryAnswer } from './room-history.js';

const hub = 'hub.example' as ServerName;
const servers = ['a.example', 'b.example', 'c.example', 'd.example', 'e.example'] as ServerName[];

describe('those who ask at once', () => {
  let store: InMemoryEventStore;
  let builder: RoomBuilder;
  let history: RoomHistory;
  let latest: EventId;

  beforeEach(async () => {
    builder = new RoomBuilder({
      version: '11',
      servers: [hub, ...servers].map((name) => paperServer(name)),
      creator: `@alice:${hub}`,
    });
    for (const server of servers) builder.member(`@bob:${server}`, 'join');
    latest = builder.pdus.at(-1)!.eventId;
    store = new InMemoryEventStore();
    await new RoomStore(store).executeAll(
      builder.roomId,
      builder.domainEvents.map((domainEvent) => () => ({ domainEvents: [domainEvent], broadcasts: [] })),
    );
    history = new RoomHistory({ ourName: hub, rooms: { store }, now: () => 1 } as unknown as FederationSide);
  });

  const stateOf = (reader: ServerName) => history.state(reader, builder.roomId, latest, 'ids');
  /** What is there without waiting for anything but the in-memory store. */
  async function now<T>(answer: Promise<T>): Promise<T | 'waits'> {
    const turns = async (): Promise<'waits'> => {
      for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
      return 'waits';
    };
    return Promise.race([answer, turns()]);
  }
  const streamOf = (answer: HistoryAnswer<StreamableFile> | 'waits') =>
    (answer as StreamableFile).getStream();

  it('are answered in turn, and told so beyond what can wait (HT-06)', async () => {
    let letGo!: () => void;
    const held = new Promise<void>((resolve) => (letGo = resolve));
    const roomsOf = store.roomsOf.bind(store);
    store.roomsOf = async (...asked) => held.then(() => roomsOf(...asked));
    const taken = Array.from({ length: 216 }, () => history.event(servers[0]!, latest));
    expect(await history.event(servers[0]!, latest)).toBe('busy');
    letGo();
    for (const answer of await Promise.all(taken)) expect(answer).toMatchObject({ pdus: [{}] });
    expect(await history.event(servers[0]!, latest)).toMatchObject({ pdus: [{}] });
  });

  it('get long answers two at a time a server, each until it was taken or given up', async () => {
    const [a, b] = servers as [ServerName, ServerName];
    const [first, second] = [await now(stateOf(a)), await now(stateOf(a))];
    const third = stateOf(a);
    expect(await now(third)).toBe('waits');
    expect(await now(stateOf(b))).not.toBe('waits');
    let text = '';
    for await (const chunk of streamOf(first)) text += String(chunk);
    expect(Object.keys(JSON.parse(text) as object)).toEqual(['pdu_ids', 'auth_chain_ids']);
    const taken = await now(third);
    expect(taken).not.toBe('waits');
    const fourth = stateOf(a);
    expect(await now(fourth)).toBe('waits');
    streamOf(second).destroy();
    expect(await now(fourth)).not.toBe('waits');
  });

  it('get eight long answers at a time in all', async () => {
    const answers = await Promise.all(
      servers.slice(0, 4).flatMap((server) => [stateOf(server), stateOf(server)]),
    );
    const ninth = stateOf(servers[4]!);
    expect(await now(ninth)).toBe('waits');
    streamOf(answers[0]!).destroy();
    expect(await now(ninth)).not.toBe('waits');
  });

  it('are told so where too many long answers to one server wait (HT-06)', async () => {
    const [a, b] = servers as [ServerName, ServerName];
    await Promise.all([stateOf(a), stateOf(a)]);
    for (let waiting = 0; waiting < 16; waiting++) void stateOf(a);
    expect(await stateOf(a)).toBe('busy');
    expect(await now(stateOf(b))).not.toBe('busy');
  });

  it('hold no turn for a no, or for what broke', async () => {
    const [a] = servers as [ServerName];
    const unknown = '$unknown' as EventId;
    for (let asked = 0; asked < 3; asked++) {
      expect(await history.state(a, builder.roomId, unknown, 'ids')).toMatchObject({
        refused: 'unknown-event',
      });
    }
    const stateAt = store.stateAt.bind(store);
    store.stateAt = () => Promise.reject(new Error('no store'));
    for (let asked = 0; asked < 3; asked++) await expect(stateOf(a)).rejects.toThrow('no store');
    store.stateAt = stateAt;
    expect(await now(stateOf(a))).not.toBe('waits');
  });
});
