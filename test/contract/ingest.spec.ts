import { setImmediate } from 'node:timers/promises';
import { DatabaseUnavailable, type Database } from '@exeunt/database';
import {
  DEAD_LETTER_TOPIC,
  EmbeddedMessageBus,
  INGEST_TOPIC,
  ManualClock,
  type MessageBus,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import type { RoomId, ServerName, UserId } from '@exeunt/pdu';
import { withKeys, type JsonObject } from '@exeunt/signing';
import * as fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ingestPatienceMs } from '../../apps/gateway/src/ingest/ingest-consumer.js';
import {
  alice,
  aRoom,
  asReceived,
  deadLetterBox,
  gatewayOn,
  ingestMigrations,
  keysOf,
  logOf,
  messageOf,
  pat,
  pdusMessage,
  peer,
  roomMessage,
  us,
} from './ingest.harness.js';
import { paperServer, RoomBuilder } from '../harness/room-builder.js';
import { pgliteKind, postgresKind, type DatabaseKind } from './message-bus.database.js';
import { dyingDatabase, until } from './sending.harness.js';
import { jsonMutations, mutated } from '../harness/json-mutations.js';

/** By the time of the built rooms, or keys would not be valid then. */
const aClock = (): ManualClock => new ManualClock(Date.now());

const idsOf = (pdus: readonly { readonly eventId: string }[]): readonly string[] =>
  pdus.map(({ eventId }) => eventId);

/** A database that can't be had while told so. */
function awayDatabase(database: Database): { readonly database: Database; isAway: boolean } {
  const state = { database, isAway: false };
  const unlessAway = <T>(work: () => Promise<T>): Promise<T> =>
    state.isAway ? Promise.reject(new DatabaseUnavailable(new Error('away'))) : work();
  state.database = {
    ...database,
    query: (statement, values) => unlessAway(() => database.query(statement, values)),
    transaction: (work, options) => unlessAway(() => database.transaction(work, options)),
  };
  return state;
}

function ingestContract(name: string, open: () => Promise<Database>): void {
  describe(`what is ingested on ${name}`, () => {
    let database: Database;
    beforeAll(async () => {
      database = await open();
    });
    afterAll(() => database?.close());
    // What one test's gateway has learned another's must not know.
    beforeEach(() => database.query('DELETE FROM server_keys'));

    const waitingIn = async (roomId: string): Promise<number> =>
      (await database.query(`SELECT 1 FROM ingest_waiting WHERE room_id = $1`, [roomId])).length;

    it('is in the log once, however often it comes, and whoever takes it in', async () => {
      const clock = aClock();
      const { bus, letters } = deadLetterBox();
      const gateways = [gatewayOn(database, bus, clock), gatewayOn(database, bus, clock)];
      const builder = aRoom();
      const room = roomMessage(builder);
      const said = builder.say({ sender: alice, content: { body: 'x' } });
      const batch = asReceived(room, pdusMessage(builder.roomId, said));
      await Promise.all(gateways.map(({ consumer }) => consumer.handle(batch)));
      await gateways[0]!.consumer.handle(batch);
      expect(await logOf(database, builder.roomId)).toEqual(idsOf(builder.pdus));
      expect([...letters.values()]).toEqual([]);
    });

    it('is handed out again where it was handled and not committed, and changes nothing twice', async () => {
      const builder = aRoom();
      const room = roomMessage(builder);
      const said = builder.say({ sender: alice, content: { body: 'x' } });
      const knock = messageOf('exeunt.ingest-knock.v1', '!far:peer.test', {
        user_id: alice,
        room_id: '!far:peer.test',
        via: ['peer.test'],
      });
      const bad = pdusMessage('!unknown:peer.test', said);
      const cursor = async (): Promise<string | undefined> => {
        const [row] = await database.query<{ offset: string }>(
          `SELECT "offset"::text AS "offset" FROM bus_cursors WHERE topic = $1`,
          [INGEST_TOPIC],
        );
        return row?.offset;
      };
      // The first process gets as far as the commit, and no further.
      const uncommitted: Database = {
        ...database,
        query: (statement, values) =>
          typeof statement === 'string' && statement.startsWith('UPDATE bus_cursors')
            ? Promise.reject(new Error('killed'))
            : database.query(statement, values),
      };
      const clock = aClock();
      const first = new EmbeddedMessageBus(uncommitted, { clock });
      let handled = 0;
      const counting: Pick<MessageBus, 'consume' | 'publish'> = {
        publish: (messages) => first.publish(messages),
        consume: ({ handle, ...options }) =>
          first.consume({
            ...options,
            handle: async (batch) => {
              await handle(batch);
              handled += batch.length;
            },
          }),
      };
      const killed = gatewayOn(database, counting, clock);
      killed.consumer.start();
      await first.publish([room, pdusMessage(builder.roomId, said), knock, bad]);
      await until(() => handled > 0);
      await killed.consumer.stop();
      await first.close();
      expect(killed.problems).toEqual([]);
      expect(await cursor()).toBe('0');

      const second = new EmbeddedMessageBus(database, { clock: aClock() });
      const letters: ReceivedMessage[] = [];
      await second.consume({
        topic: DEAD_LETTER_TOPIC,
        group: 'test',
        maxBatch: 10,
        handle: async (batch) => void letters.push(...batch),
      });
      const next = gatewayOn(database, second, clock);
      next.consumer.start();
      await until(async () => (await cursor()) === '4');
      await next.consumer.stop();
      await until(() => letters.length >= 1);
      await second.close();
      expect(await logOf(database, builder.roomId)).toEqual(idsOf(builder.pdus));
      const store = next.side.leaving.store;
      const key = { userId: alice as UserId, roomId: '!far:peer.test' as RoomId };
      expect((await store.load(key)).events.map(({ type }) => type)).toEqual(['KnockMade']);
      // Told twice at most, and recognisably so.
      expect(new Set(letters.map(({ headers }) => headers['ce_id'])).size).toBe(1);
    });

    it('is whole after a death at any step of it', async () => {
      const clock = aClock();
      for (let step = 1; ; step++) {
        await database.query('DELETE FROM server_keys');
        const builder = aRoom();
        const room = roomMessage(builder);
        const said = builder.say({ sender: alice, content: { body: 'x' } });
        const joined = builder.member(pat, 'join');
        const batch = asReceived(room, pdusMessage(builder.roomId, said, joined));
        const { bus, letters } = deadLetterBox();
        const dying = dyingDatabase(database, step, step % 2 === 0 ? 'after' : 'before');
        let isDead = false;
        const ofTheDead = gatewayOn(
          dying.database,
          // A dead process publishes nothing either.
          { ...bus, publish: () => Promise.reject(new Error('the process has died')) },
          clock,
        );
        await ofTheDead.consumer.handle(batch).catch(() => (isDead = true));
        const after = gatewayOn(database, bus, clock, () => keysOf(peer, clock.now()));
        await after.consumer.handle(batch);
        clock.advance(20_000);
        await after.consumer.tryAgain(10);
        expect(await logOf(database, builder.roomId)).toEqual(idsOf(builder.pdus));
        expect([...letters.values()]).toEqual([]);
        expect(await waitingIn(builder.roomId)).toBe(0);
        if (!isDead && dying.steps < step) break;
        expect(step).toBeLessThan(100);
      }
    });

    it('is handed out again while the database is away, and not lost', async () => {
      const away = awayDatabase(database);
      const { bus, letters } = deadLetterBox();
      const { consumer, problems } = gatewayOn(away.database, bus, aClock());
      const builder = aRoom();
      const batch = asReceived(roomMessage(builder));
      away.isAway = true;
      await expect(consumer.handle(batch)).rejects.toThrow(DatabaseUnavailable);
      away.isAway = false;
      await consumer.handle(batch);
      expect(await logOf(database, builder.roomId)).toEqual(idsOf(builder.pdus));
      expect([[...letters.values()], problems]).toEqual([[], []]);
    });

    it('is taken in when the bus can be had again, and nobody waits for that', async () => {
      const clock = aClock();
      const log = new EmbeddedMessageBus(database, { clock, partitions: 3 });
      let refusals = 2;
      const { consumer, problems } = gatewayOn(
        database,
        {
          publish: (messages) => log.publish(messages),
          consume: (options) =>
            refusals-- > 0 ? Promise.reject(new Error('no broker')) : log.consume(options),
        },
        clock,
      );
      const builder = aRoom();
      consumer.start();
      await log.publish([roomMessage(builder)]);
      await until(
        async () => (await logOf(database, builder.roomId)).length === builder.pdus.length,
        () => clock.advance(5_000),
      );
      await consumer.stop();
      await log.close();
      expect(problems).toEqual([new Error('no broker'), new Error('no broker')]);
    });

    it('does not stop what is behind it where something is broken here', async () => {
      const { bus, letters } = deadLetterBox();
      const { consumer, side, problems } = gatewayOn(database, bus, aClock());
      const builder = aRoom();
      const room = roomMessage(builder);
      const said = builder.say({ sender: alice, content: { body: 'x' } });
      const [first, second] = asReceived(room, pdusMessage(builder.roomId, said));
      const { executeAll } = side.rooms;
      side.rooms.executeAll = () => Promise.reject(new TypeError('a bug'));
      await consumer.handle([first!]);
      side.rooms.executeAll = executeAll;
      await consumer.handle([second!]);
      expect([...letters.values()]).toEqual([
        'something is broken on this server',
        'the room is not known here (ML-16)',
      ]);
      expect(problems).toEqual([new TypeError('a bug')]);
    });

    it('breaks nothing, whatever it says: it is taken, waits, or is a dead letter', async () => {
      const { bus, letters } = deadLetterBox();
      const clock = aClock();
      const { consumer, problems } = gatewayOn(database, bus, clock, () => keysOf(peer, clock.now()));
      const builder = aRoom();
      const { roomId } = builder;
      const known = roomMessage(builder);
      const events = builder.pdus.map(({ json }) => json);
      const pdus = [builder.say({ sender: alice, content: { body: 'x' } }), builder.member(pat, 'join')];
      const knock = builder.make({
        sender: alice,
        type: 'm.room.member',
        stateKey: alice,
        content: { membership: 'knock' },
      });
      const values: readonly (readonly [string, JsonObject])[] = [
        ['exeunt.ingest-room.v1', { room_version: '11', events }],
        [
          'exeunt.ingest-room.v1',
          {
            room_version: '11',
            state: events,
            auth_chain: events,
            forward_extremities: [builder.pdus.at(-3)!.eventId],
            depth: 4,
          },
        ],
        [
          'exeunt.ingest-pdus.v1',
          {
            room_id: roomId,
            pdus: pdus.map(({ json }) => json),
            server_keys: [keysOf(peer, clock.now())],
          },
        ],
        [
          'exeunt.ingest-knock.v1',
          {
            user_id: alice,
            room_id: roomId,
            room_version: '11',
            event: knock.json,
            via: ['peer.test'],
            knock_room_state: events,
          },
        ],
      ];
      await consumer.handle(asReceived(known));
      await fc.assert(
        fc.asyncProperty(
          fc.nat(values.length - 1),
          fc.array(jsonMutations, { maxLength: 3 }),
          async (at, mutations) => {
            const [type, value] = values[at]!;
            await consumer.handle(asReceived(messageOf(type, roomId, mutated(value, mutations))));
            expect(problems).toEqual([]);
          },
        ),
        { numRuns: 300 },
      );
      expect([...letters.values()]).not.toContain('something is broken on this server');
      expect(await logOf(database, roomId)).toEqual(
        expect.arrayContaining([...idsOf(builder.pdus.slice(0, -2))]),
      );
      await database.query(`DELETE FROM ingest_waiting WHERE room_id = $1`, [roomId]);
    });

    describe('and lacks the keys of a server that cannot be reached', () => {
      it('waits as a whole where it is a room, and PDUs of that room behind it', async () => {
        const clock = aClock();
        const { bus, letters } = deadLetterBox();
        let isBack = false;
        const { consumer } = gatewayOn(database, bus, clock, () =>
          isBack ? keysOf(peer, clock.now()) : undefined,
        );
        const builder = aRoom();
        builder.member(pat, 'join');
        const room = roomMessage(builder);
        const said = builder.say({ sender: alice, content: { body: 'x' } });
        const batch = asReceived(room, pdusMessage(builder.roomId, said));
        await consumer.handle(batch);
        expect(await logOf(database, builder.roomId)).toEqual([]);
        // A repeat waits no second time.
        await consumer.handle(batch);
        expect(await waitingIn(builder.roomId)).toBe(2);
        clock.advance(9_999);
        expect(await consumer.tryAgain(10)).toBe(0);
        isBack = true;
        clock.advance(1);
        expect(await consumer.tryAgain(10)).toBe(1);
        expect(await logOf(database, builder.roomId)).toEqual(idsOf(builder.pdus));
        expect(await waitingIn(builder.roomId)).toBe(0);
        expect([...letters.values()]).toEqual([]);
      });

      it('is refused as soon as the server has told its keys and it is by none of them (PD-02)', async () => {
        const clock = aClock();
        const { bus, letters } = deadLetterBox();
        let isBack = false;
        const { consumer } = gatewayOn(database, bus, clock, () =>
          isBack ? keysOf({ ...peer, key: { ...peer.key, keyId: 'ed25519:other' } }, clock.now()) : undefined,
        );
        const builder = aRoom();
        const room = roomMessage(builder);
        const joined = builder.member(pat, 'join');
        await consumer.handle(asReceived(room, pdusMessage(builder.roomId, joined)));
        expect(await waitingIn(builder.roomId)).toBe(1);
        isBack = true;
        clock.advance(10_000);
        await consumer.tryAgain(10);
        expect(await waitingIn(builder.roomId)).toBe(0);
        expect([...letters]).toEqual([
          [expect.stringMatching(/\/attempt-2$/), expect.stringContaining(`${joined.eventId}: PD-02`)],
        ]);
      });

      it('is given up after a day, with what rests on it; what does not was taken long before', async () => {
        const clock = aClock();
        const { bus, letters } = deadLetterBox();
        const { consumer, asked } = gatewayOn(database, bus, clock);
        const builder = aRoom();
        const room = roomMessage(builder);
        const said = builder.say({ sender: alice, content: { body: 'x' } });
        const joined = builder.member(pat, 'join');
        const behind = builder.say({ sender: alice, content: { body: 'y' } });
        const known = idsOf(builder.pdus.slice(0, -2));
        await consumer.handle(
          asReceived(room, pdusMessage(builder.roomId, said, joined), pdusMessage(builder.roomId, behind)),
        );
        expect(await logOf(database, builder.roomId)).toEqual(known);
        for (const end = clock.now() + ingestPatienceMs; clock.now() < end; clock.advance(600_000)) {
          expect(await waitingIn(builder.roomId)).toBe(2);
          await consumer.tryAgain(10);
        }
        for (let hours = 0; hours < 3; hours++) {
          clock.advance(3_600_000);
          await consumer.tryAgain(10);
        }
        expect(await waitingIn(builder.roomId)).toBe(0);
        expect(await logOf(database, builder.roomId)).toEqual(known);
        expect([...letters.values()]).toEqual([
          expect.stringContaining(`${joined.eventId}: PD-02`),
          expect.stringContaining(`${behind.eventId}: SL-13`),
        ]);
        // Not a request an attempt: who fails is asked ever more rarely.
        expect(asked.length).toBeGreaterThan(5);
        expect(asked.length).toBeLessThan(60);
      });

      it('does not wait where too many of the room do', async () => {
        const { bus, letters } = deadLetterBox();
        const clock = aClock();
        const { consumer } = gatewayOn(database, bus, clock);
        const builder = aRoom();
        await consumer.handle(asReceived(roomMessage(builder)));
        await database.query(
          `INSERT INTO ingest_waiting (room_id, place, message, since, attempts, next_at)
            SELECT $1, 'other/' || n, '{}', 0, 1, 9000000000000000 FROM generate_series(1, 1000) AS n`,
          [builder.roomId],
        );
        const joined = builder.member(pat, 'join');
        await consumer.handle(asReceived(pdusMessage(builder.roomId, joined)));
        expect([...letters.values()]).toEqual([expect.stringContaining('too many messages of the room')]);
        await database.query(`DELETE FROM ingest_waiting WHERE room_id = $1`, [builder.roomId]);
      });

      it('holds up its partition for a while and no longer, however slow servers are', async () => {
        const clock = aClock();
        const { bus, letters } = deadLetterBox();
        const servers = Array.from({ length: 40 }, (_, at) => paperServer(`slow${at}.test`));
        let answer = (): void => {};
        const isAnswered = new Promise<void>((resolve) => (answer = resolve));
        const slow = async (name: ServerName) => {
          await isAnswered;
          return keysOf(
            servers.find((server) => server.name === name)!,
            clock.now(),
          );
        };
        const { consumer, asked } = gatewayOn(database, bus, clock, slow, { askForMs: 5 });
        const builder = new RoomBuilder({ version: '11', servers: [us, ...servers], creator: alice });
        const room = roomMessage(builder);
        const joins = servers.map(({ name }) => builder.member(`@u:${name}`, 'join'));
        await consumer.handle(asReceived(room, pdusMessage(builder.roomId, ...joins)));
        expect(await waitingIn(builder.roomId)).toBe(1);
        answer();
        // All of them are asked, though nobody waits for that any more.
        await until(() => asked.length === servers.length);
        await until(async () => {
          clock.advance(10_000);
          await consumer.tryAgain(10);
          return (await waitingIn(builder.roomId)) === 0;
        });
        expect(await logOf(database, builder.roomId)).toEqual(idsOf(builder.pdus));
        expect([...letters.values()]).toEqual([]);
      });

      it('is not confused with a bad signature, which waits for nobody', async () => {
        const { bus, letters } = deadLetterBox();
        const { consumer } = gatewayOn(database, bus, aClock(), () => keysOf(peer, 1_700_000_000_000));
        const builder = aRoom();
        await consumer.handle(asReceived(roomMessage(builder)));
        const joined = builder.member(pat, 'join');
        const forged = { json: withKeys(joined.json, { origin_server_ts: 5 }) };
        await consumer.handle(asReceived(pdusMessage(builder.roomId, forged)));
        await setImmediate();
        expect(await waitingIn(builder.roomId)).toBe(0);
        expect([...letters.values()]).toEqual([expect.stringContaining('PD-02')]);
      });
    });
  });
}

describe('PGlite', () => {
  let kind: DatabaseKind;
  beforeAll(async () => {
    kind = await pgliteKind();
  });
  afterAll(() => kind.end());
  ingestContract('PGlite', () => kind.open('ingest', ingestMigrations));
});

const postgres = await postgresKind();
if (postgres === undefined) {
  console.warn('ingest on PostgreSQL: did not run, there is none on this machine');
  describe.skip('PostgreSQL', () => it('has nothing to run on', () => {}));
} else {
  describe('PostgreSQL', () => {
    afterAll(() => postgres.end());
    ingestContract('PostgreSQL', () => postgres.open('ingest', ingestMigrations));
  });
}
