import { setImmediate } from 'node:timers/promises';
import type { Database } from '@exeunt/database';
import {
  EmbeddedBus1700000000002,
  EmbeddedMessageBus,
  InMemoryMessageBus,
  InMemoryMessageLog,
  ManualClock,
  ROOM_EVENTS_TOPIC,
} from '@exeunt/message-bus';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { messageBusContract, type BusHarness } from './message-bus.contract.js';
import { pgliteKind, postgresKind, type DatabaseKind } from './message-bus.database.js';

const migrations = [EmbeddedBus1700000000002];

let log = new InMemoryMessageLog();
let memoryPartitions = 1;
const inMemory: BusHarness = {
  async create(partitions) {
    log = new InMemoryMessageLog();
    memoryPartitions = partitions;
    return this.reopen();
  },
  async reopen() {
    const clock = new ManualClock();
    return { clock, bus: new InMemoryMessageBus({ log, clock, partitions: memoryPartitions }) };
  },
  async end() {},
};
messageBusContract('memory', inMemory);

/** Buses on one database of a kind: emptied for a test, really closed and opened again at a kill. */
function embedded(kind: () => DatabaseKind): BusHarness {
  let database: Database | undefined;
  let partitions = 1;
  const bus = (on: Database) => {
    const clock = new ManualClock();
    return { clock, bus: new EmbeddedMessageBus(on, { clock, partitions }) };
  };
  return {
    async create(wanted) {
      partitions = wanted;
      database ??= await kind().open('bus', migrations);
      await database.query('TRUNCATE bus_partitions, bus_messages, bus_cursors');
      return bus(database);
    },
    async reopen() {
      await database?.close();
      database = await kind().open('bus', migrations);
      return bus(database);
    },
    async end() {
      await database?.close();
    },
  };
}

describe('PGlite', () => {
  let kind: DatabaseKind;
  beforeAll(async () => {
    kind = await pgliteKind();
  });
  afterAll(() => kind.end(), 60_000);
  messageBusContract(
    'PGlite',
    embedded(() => kind),
  );

  describe('retention on the embedded bus', () => {
    let database: Database;
    beforeAll(async () => {
      database = await kind.open('retention', migrations);
    });
    afterAll(() => database.close());

    const publish = (bus: EmbeddedMessageBus, topic: string, count: number) =>
      bus.publish(Array.from({ length: count }, (_, n) => ({ topic, key: 'k', headers: {}, value: `${n}` })));
    const left = async (topic: string) =>
      Number(
        (
          await database.query<{ n: string }>(
            'SELECT count(*)::text AS n FROM bus_messages WHERE topic = $1',
            [topic],
          )
        )[0]?.n,
      );
    const consume = async (bus: EmbeddedMessageBus, topic: string, group: string, count: number) => {
      let handled = 0;
      const consumption = await bus.consume({
        topic,
        group,
        maxBatch: count,
        handle: async (batch) => {
          handled += batch.length;
        },
      });
      while (handled < count) await setImmediate();
      await consumption.stop();
    };

    it('keeps what a known group has not read, and deletes the rest in bounded batches', async () => {
      const bus = new EmbeddedMessageBus(database, { clock: new ManualClock(), pruneBatch: 3 });
      await publish(bus, 'two-groups', 10);
      expect(await bus.prune()).toBe(0);
      await consume(bus, 'two-groups', 'a', 10);
      await bus.close();

      const behind = new EmbeddedMessageBus(database, { clock: new ManualClock(), pruneBatch: 3 });
      const stuck = await behind.consume({
        topic: 'two-groups',
        group: 'b',
        maxBatch: 1,
        handle: () => Promise.reject(new Error('stuck')),
      });
      expect(await behind.prune()).toBe(0);
      await stuck.stop();
      await consume(behind, 'two-groups', 'b', 10);
      await behind.close();

      const after = new EmbeddedMessageBus(database, { clock: new ManualClock(), pruneBatch: 3 });
      expect(await after.prune()).toBe(10);
      expect(await left('two-groups')).toBe(0);
      // The counter outlives the messages: an offset is never used twice.
      await publish(after, 'two-groups', 1);
      const [row] = await database.query<{ offset: string }>(
        `SELECT "offset"::text AS "offset" FROM bus_messages WHERE topic = 'two-groups'`,
      );
      expect(row?.offset).toBe('10');
      await after.close();
    });

    it('keeps the newest of a topic that nobody has to read', async () => {
      const bus = new EmbeddedMessageBus(database, {
        clock: new ManualClock(),
        pruneBatch: 4,
        keepUnread: { [ROOM_EVENTS_TOPIC]: 5 },
      });
      await publish(bus, ROOM_EVENTS_TOPIC, 20);
      await publish(bus, 'must-be-read', 20);
      expect(await bus.prune()).toBe(15);
      expect(await left(ROOM_EVENTS_TOPIC)).toBe(5);
      expect(await left('must-be-read')).toBe(20);
      await bus.close();
    });

    it('prunes by itself as time passes', async () => {
      const clock = new ManualClock();
      const bus = new EmbeddedMessageBus(database, { clock, keepUnread: { old: 0 }, pruneEveryMs: 1_000 });
      await publish(bus, 'old', 3);
      clock.advance(1_000);
      while ((await left('old')) > 0) await setImmediate();
      await bus.close();
    });
  });
});

const postgres = await postgresKind();
if (postgres === undefined) {
  console.warn('message bus on PostgreSQL: did not run, there is none on this machine');
  describe.skip('PostgreSQL', () => it('has nothing to run on', () => {}));
} else {
  describe('PostgreSQL', () => {
    afterAll(() => postgres.end());
    messageBusContract(
      'PostgreSQL',
      embedded(() => postgres),
    );

    it('never shows an offset before a lower one that commits later', async () => {
      const database = await postgres.open('race', migrations);
      const bus = new EmbeddedMessageBus(database, { clock: new ManualClock() });
      let overtook = false;
      let fast: Promise<void> = Promise.resolve();
      await database.transaction(async (slow) => {
        const publisher = new EmbeddedMessageBus(slow, { clock: new ManualClock() });
        await publisher.publish([{ topic: 't', key: 'k', headers: {}, value: '"slow"' }]);
        fast = bus.publish([{ topic: 't', key: 'k', headers: {}, value: '"fast"' }]);
        void fast.then(() => (overtook = true));
        for (let turn = 0; turn < 20; turn += 1) await database.query('SELECT 1');
        expect(overtook).toBe(false);
      });
      await fast;
      const rows = await database.query<{ value: string }>(
        'SELECT value FROM bus_messages ORDER BY "offset"',
      );
      expect(rows.map((row) => row.value)).toEqual(['"slow"', '"fast"']);
      await bus.close();
      await database.close();
    });
  });
}
