import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Database } from '@exeunt/database';
import {
  DEAD_LETTER_TOPIC,
  EmbeddedBus1700000000002,
  EmbeddedMessageBus,
  KafkaMessageBus,
  ROOM_EVENTS_TOPIC,
  type BusMessage,
  type MessageBus,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import { roomVersionIds } from '@exeunt/room-version';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { readRoomEvents } from '../../examples/room-leaves/by-kafkajs.js';
import { projectRoomLeaves } from '../../examples/room-leaves/room-leaves.projection.js';
import { findKafka, startKafka } from '../harness/kafka-server.js';
import { buildProgram } from '../harness/leave-process.js';
import { messagesOfARoom, messagesOfLeaves, storedMessages } from '../harness/published-messages.js';
import { pgliteKind, postgresKind } from './message-bus.database.js';
import { renamed } from './renamed-bus.js';
import { until } from '../harness/settle.js';

/* The projection that docs/extending.md shows, on every adapter. */

/** Where the projection runs: an empty bus and an empty database each time. */
interface Platform {
  readonly name: string;
  open(): Promise<{ readonly database: Database; readonly bus: MessageBus; close(): Promise<void> }>;
  end(): Promise<void>;
}

async function embedded(): Promise<Platform> {
  const kind = await pgliteKind();
  const database = await kind.open('room-leaves', [EmbeddedBus1700000000002]);
  return {
    name: 'the embedded bus and PGlite',
    async open() {
      await database.query('TRUNCATE bus_messages, bus_cursors, bus_partitions');
      await database.query('DROP TABLE IF EXISTS room_leaves');
      const bus = new EmbeddedMessageBus(database, { pollMs: 10 });
      return { database, bus, close: () => bus.close() };
    },
    async end() {
      await database.close();
      await kind.end();
    },
  };
}

/** Real servers; `undefined` where one of them is missing. */
async function realServers() {
  const found = findKafka();
  const postgres = found === undefined ? undefined : await postgresKind();
  if (found === undefined || postgres === undefined) return undefined;
  const server = found.kind === 'installed' ? await startKafka() : undefined;
  const brokers = found.kind === 'configured' ? found.brokers : (server?.brokers ?? []);
  return {
    brokers,
    postgres,
    async end() {
      await server?.stop();
      await postgres.end();
    },
  };
}

function onServers({ brokers, postgres }: NonNullable<Awaited<ReturnType<typeof realServers>>>): Platform {
  return {
    name: 'Kafka and PostgreSQL',
    async open() {
      const suffix = `.${randomUUID()}`;
      const partitions = { [ROOM_EVENTS_TOPIC + suffix]: 3, [DEAD_LETTER_TOPIC + suffix]: 1 };
      const bus = await KafkaMessageBus.open({ brokers, partitions });
      const database = await postgres.open(randomUUID(), []);
      return {
        database,
        bus: renamed(bus, suffix),
        async close() {
          await bus.close();
          await database.close();
        },
      };
    },
    end: async () => {},
  };
}

/** Room ID, user ID and when it was decided, of each leave that a room's messages tell of. */
type Row = readonly [roomId: string, userId: string, leftAt: string];

const rowsOf = (messages: readonly BusMessage[]): readonly Row[] =>
  messages.flatMap(({ headers, value }) => {
    const { room_id: roomId, pdu } = JSON.parse(value) as {
      room_id: string;
      pdu?: { state_key?: string; content: { membership?: string } };
    };
    return headers['ce_type'] === 'exeunt.pdu-accepted.v1' && pdu?.content.membership === 'leave'
      ? [[roomId, pdu.state_key ?? '', headers['ce_time'] ?? ''] as const]
      : [];
  });

const rooms = await Promise.all(roomVersionIds.map(messagesOfARoom));
const told = [...rooms.flat(), ...messagesOfLeaves()].filter(({ topic }) => topic === ROOM_EVENTS_TOPIC);

/** What the room's log would say next: that a user left, under a position of its own. */
function aLaterLeave(room: readonly BusMessage[], position: number): BusMessage {
  const leave = room.find((message) => rowsOf([message]).length > 0)!;
  const value = JSON.parse(leave.value) as { position: number };
  return { ...leave, value: JSON.stringify({ ...value, position }) };
}

/** The message as if it came from another room: what it holds besides is as it was. */
function inAnotherRoom(message: BusMessage): BusMessage {
  const value = JSON.parse(message.value) as { room_id: string };
  const roomId = `!once-${value.room_id.slice(1, 20).replaceAll(/[^a-zA-Z0-9]/g, '')}:old.example`;
  return { ...message, key: roomId, value: JSON.stringify({ ...value, room_id: roomId }) };
}

function roomLeaves(platform: Platform): void {
  describe(`who has left which room, on ${platform.name}`, () => {
    let database: Database;
    let bus: MessageBus;
    let close: () => Promise<void>;

    const table = async (): Promise<readonly Row[]> => {
      const rows = await database.query<{ room_id: string; user_id: string; left_at: Date }>(
        'SELECT room_id, user_id, left_at FROM room_leaves ORDER BY room_id, position',
      );
      return rows.map((row) => [row.room_id, row.user_id, row.left_at.toISOString()]);
    };
    const holds = (count: number) =>
      until(`there are ${count} rows`, async () => (await table()).length === count);

    beforeEach(async () => {
      ({ database, bus, close } = await platform.open());
      await bus.publish(told);
    });
    afterEach(() => close());
    afterAll(() => platform.end(), 60_000);

    it('is what the room events tell, of every room version', async () => {
      await projectRoomLeaves(bus, database);
      await holds(3 * rooms.length);
      expect(new Set(await table())).toEqual(new Set(rowsOf(told)));
    });

    it('is the same after a repeat of everything', async () => {
      await projectRoomLeaves(bus, database);
      await holds(3 * rooms.length);
      const before = await table();
      // What each room says last is new: when it is there, the repeat before it has been handled.
      await bus.publish([...told, ...rooms.map((room) => aLaterLeave(room, 1_000))]);
      await holds(4 * rooms.length);
      await database.query('DELETE FROM room_leaves WHERE position = 1000');
      expect(await table()).toEqual(before);
    });

    it('goes on after a restart where it had got to', async () => {
      const first = await projectRoomLeaves(bus, database);
      await holds(3 * rooms.length);
      await first.stop();
      await database.query('TRUNCATE room_leaves');
      await bus.publish(rooms.map((room) => aLaterLeave(room, 1_000)));
      await projectRoomLeaves(bus, database);
      await holds(rooms.length);
    });

    it('is the same when it is made anew from zero, by a group that is new', async () => {
      const first = await projectRoomLeaves(bus, database);
      await holds(3 * rooms.length);
      await first.stop();
      const before = await table();
      await database.query('DROP TABLE room_leaves');
      await projectRoomLeaves(bus, database, 'room-leaves-2');
      await holds(3 * rooms.length);
      expect(await table()).toEqual(before);
    });

    it('is made of room events as they were published once', async () => {
      const stored = storedMessages().filter(({ topic }) => topic === ROOM_EVENTS_TOPIC);
      const ofOtherRooms = stored.map((message) => inAnotherRoom(message));
      await bus.publish(ofOtherRooms);
      await projectRoomLeaves(bus, database);
      const wanted = rowsOf(ofOtherRooms);
      expect(wanted).not.toEqual([]);
      await holds(3 * rooms.length + wanted.length);
      expect(await table()).toEqual(expect.arrayContaining([...wanted]));
    });

    it('parks what it can’t read, and goes on', async () => {
      const leave = aLaterLeave(rooms[0]!, 1_000);
      const value = JSON.parse(leave.value) as Record<string, unknown>;
      const odd = [
        { ...leave, value: 'no JSON' },
        { ...leave, value: 'null' },
        { ...leave, value: JSON.stringify({ ...value, position: '7' }) },
        { ...leave, value: JSON.stringify({ ...value, room_id: '!a\0:b' }) },
        { ...leave, headers: { ...leave.headers, ce_time: 'yesterday' } },
      ];
      const parked: ReceivedMessage[] = [];
      await bus.consume({
        topic: DEAD_LETTER_TOPIC,
        group: 'a-test',
        maxBatch: 10,
        handle: async (batch) => void parked.push(...batch),
      });
      await bus.publish([...odd, leave]);
      await projectRoomLeaves(bus, database);
      await holds(3 * rooms.length + 1);
      await until('all are parked', () => parked.length === odd.length);
      const messages = parked.map((letter) => (JSON.parse(letter.value) as { message: BusMessage }).message);
      expect(messages.map((message) => message.value)).toEqual(odd.map((message) => message.value));
    });
  });
}

roomLeaves(await embedded());

const servers = await realServers();
if (servers === undefined) {
  console.warn('the example projection on Kafka and PostgreSQL: did not run, one of them is not here');
  describe.skip('Kafka and PostgreSQL', () => it('has nothing to run on', () => {}));
} else {
  const { brokers, postgres } = servers;
  afterAll(() => servers.end(), 60_000);
  roomLeaves(onServers(servers));

  describe('beside this repository', () => {
    let child: ChildProcess | undefined;
    afterAll(() => {
      child?.kill('SIGKILL');
      vi.unstubAllEnvs();
    });

    it('the projection is kept by a program of its own, which ends when it is asked to', async () => {
      await buildProgram();
      const id = randomUUID();
      const database = await postgres.open(id, []);
      const bus = await KafkaMessageBus.open({ brokers });
      await bus.publish(told);
      const root = fileURLToPath(new URL('../../', import.meta.url));
      const program = [`${root}dist/examples/room-leaves/main.js`, brokers.join(), await postgres.urlOf(id)];
      child = spawn(`${root}node_modules/.bin/node`, program, { stdio: 'inherit' });
      const exit = once(child, 'exit');
      await until('the table is full', async () => {
        const [made] = await database.query<{ is: boolean }>(
          `SELECT to_regclass('room_leaves') IS NOT NULL AS is`,
        );
        if (made?.is !== true) return false;
        const rows = await database.query<{ room_id: string }>('SELECT DISTINCT room_id FROM room_leaves');
        return rows.length >= rooms.length;
      });
      child.kill('SIGTERM');
      expect(await exit).toEqual([0, null]);
      await bus.close();
      await database.close();
    });

    it('room events are read with kafkajs alone, and one that failed comes again', async () => {
      vi.stubEnv('KAFKAJS_LOG_LEVEL', 'nothing');
      const topic = `${ROOM_EVENTS_TOPIC}.${randomUUID()}`;
      const bus = await KafkaMessageBus.open({ brokers, partitions: { [topic]: 3 } });
      await bus.publish(told.map((message) => ({ ...message, topic })));
      const wanted = told
        .filter(({ headers }) => headers['ce_type'] === 'exeunt.pdu-accepted.v1')
        .map(({ headers }) => headers['ce_id']);
      const seen = new Set<string>();
      let fails = 0;
      const onPdu: Parameters<typeof readRoomEvents>[2] = async ({ room_id: roomId, position }) => {
        if (seen.size === 5 && fails === 0) {
          fails += 1;
          throw new Error('not yet');
        }
        seen.add(`${roomId}/${position}`);
      };
      const consumer = await readRoomEvents(brokers, randomUUID(), onPdu, topic);
      await until('all are read', () => seen.size === wanted.length);
      expect(seen).toEqual(new Set(wanted));
      await consumer.disconnect();
      await bus.close();
    });
  });
}
