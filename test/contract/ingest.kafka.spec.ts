import type { Database } from '@exeunt/database';
import {
  DEAD_LETTER_TOPIC,
  INGEST_TOPIC,
  KafkaMessageBus,
  ManualClock,
  type BusMessage,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import type { RoomId, UserId } from '@exeunt/pdu';
import { Kafka, logLevel, Partitioners } from 'kafkajs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findKafka, startKafka } from '../harness/kafka-server.js';
import {
  alice,
  aRoom,
  gatewayOn,
  ingestMigrations,
  keysOf,
  logOf,
  messageOf,
  pat,
  pdusMessage,
  peer,
  roomMessage,
} from './ingest.harness.js';
import { pgliteKind, type DatabaseKind } from './message-bus.database.js';
import { until } from './sending.harness.js';

const found = findKafka();
const server = found?.kind === 'installed' ? await startKafka() : undefined;
const brokers = found?.kind === 'configured' ? found.brokers : (server?.brokers ?? []);

/** Another service of the platform: Kafka's own client, its partitions chosen as it does by default. */
async function published(messages: readonly BusMessage[]): Promise<ReadonlySet<number>> {
  const kafka = new Kafka({ brokers: [...brokers], logLevel: logLevel.NOTHING });
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  const partitions = new Set<number>();
  for (const { topic, ...message } of messages) {
    const [placed] = await producer.send({
      topic,
      messages: [{ ...message, headers: { ...message.headers } }],
    });
    partitions.add(placed!.partition);
  }
  await producer.disconnect();
  return partitions;
}

if (found === undefined) {
  console.warn('ingest on Kafka: did not run, there is none here (scripts/services/install-kafka.sh)');
  describe.skip('ingest on Kafka', () => it('has nothing to run on', () => {}));
} else {
  describe('what another service publishes to Kafka with its own client', () => {
    let kind: DatabaseKind;
    let database: Database;
    beforeAll(async () => {
      kind = await pgliteKind();
      database = await kind.open('ingest', ingestMigrations);
    });
    afterAll(async () => {
      await database?.close();
      await kind?.end();
      await server?.stop();
    });

    it('is taken in, each room in order, by a gateway that starts later, and bad ones are dead letters', async () => {
      const bus = await KafkaMessageBus.open({ brokers });
      const clock = new ManualClock(Date.now());
      const rooms = Array.from({ length: 8 }, () => {
        const builder = aRoom();
        const room = roomMessage(builder);
        const pdus = [
          builder.say({ sender: alice, content: { body: 'first' } }),
          builder.member(pat, 'join'),
          builder.say({ sender: pat, content: { body: 'last' } }),
        ];
        // In this order alone can they be taken: each cites the one before.
        return { builder, messages: [room, ...pdus.map((pdu) => pdusMessage(builder.roomId, pdu))] };
      });
      const knock = messageOf('exeunt.ingest-knock.v1', '!far:peer.test', {
        user_id: alice,
        room_id: '!far:peer.test',
        via: ['peer.test'],
      });
      const bad = { ...messageOf('exeunt.ingest-room.v1', rooms[0]!.builder.roomId, {}), value: 'no JSON' };
      const partitions = await published([
        ...[0, 1, 2, 3].flatMap((nth) => rooms.map(({ messages }) => messages[nth]!)),
        knock,
        bad,
      ]);
      // Not all in one, or their order would prove nothing.
      expect(partitions.size).toBeGreaterThan(1);

      const letters: ReceivedMessage[] = [];
      await bus.consume({
        topic: DEAD_LETTER_TOPIC,
        group: 'the-test',
        maxBatch: 10,
        handle: async (batch) => void letters.push(...batch),
      });
      const { consumer, side, problems } = gatewayOn(database, bus, clock, () => keysOf(peer, clock.now()));
      consumer.start();
      const key = { userId: alice as UserId, roomId: '!far:peer.test' as RoomId };
      await until(async () => {
        const logs = await Promise.all(rooms.map(({ builder }) => logOf(database, builder.roomId)));
        const { position } = await side.leaving.store.load(key);
        return (
          letters.length > 0 &&
          position > 0 &&
          logs.every((log, at) => log.length === rooms[at]!.builder.pdus.length)
        );
      });
      await consumer.stop();
      await bus.close();
      for (const { builder } of rooms) {
        expect(await logOf(database, builder.roomId)).toEqual(builder.pdus.map(({ eventId }) => eventId));
      }
      expect(problems).toEqual([]);
      expect(letters.map(({ value }) => JSON.parse(value) as object)).toMatchObject([
        {
          consumer: 'exeunt-ingest',
          reason: expect.stringContaining('not-json'),
          message: { topic: INGEST_TOPIC, key: bad.key, headers: bad.headers, value: 'no JSON' },
        },
      ]);
    });
  });
}
