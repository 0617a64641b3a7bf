import { randomUUID } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import {
  KafkaMessageBus,
  ManualClock,
  PartitionCountMismatch,
  type BusMessage,
  type KafkaBusOptions,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findKafka, startKafka, type KafkaServer } from '../harness/kafka-server.js';
import { messageBusContract, type BusHarness } from './message-bus.contract.js';
import { renamed } from './renamed-bus.js';
import { until } from '../harness/settle.js';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const found = findKafka();
const server = found === undefined || found.kind === 'configured' ? undefined : await startKafka();
const brokers = found?.kind === 'configured' ? found.brokers : (server?.brokers ?? []);

/** Quick to notice that a member is gone, or that a batch is to be handed out again. */
const QUICK = {
  brokers,
  sessionTimeoutMs: found?.kind === 'configured' ? 6_000 : 1_500,
  heartbeatMs: 300,
  retryMs: 50,
};

function message(topic: string, key: string, value: string): BusMessage {
  return { topic, key, headers: {}, value: JSON.stringify(value) };
}

const valueOf = (received: ReceivedMessage) => JSON.parse(received.value) as string;

/** Repeats are allowed; what comes for the first time is in order. */
function firsts(values: readonly string[]): string[] {
  return [...new Set(values)];
}

/** What is reachable, in bytes: garbage that waits for its collection is not held. */
function heldBytes(): number {
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** A bus that can be killed: its sockets break, and it opens no more. */
async function killable(options: KafkaBusOptions) {
  const sockets = new Set<Socket>();
  let isDead = false;
  const bus = await KafkaMessageBus.open({
    ...options,
    socketFactory: ({ host, port, onConnect }) => {
      if (isDead) throw new Error('killed');
      const socket = connect({ host, port }, onConnect);
      sockets.add(socket);
      return socket.on('close', () => sockets.delete(socket));
    },
  });
  return {
    bus,
    kill() {
      isDead = true;
      for (const socket of sockets) socket.destroy();
      // Nothing of it reaches a broker any more; this ends its attempts.
      void bus.close();
    },
  };
}

function contractHarness(): BusHarness {
  let suffix = '';
  let partitions = 1;
  let last: Awaited<ReturnType<typeof killable>> | undefined;
  const open = async () => {
    const topics = ['exeunt.test.v1', 'exeunt.other.v1'];
    last = await killable({
      ...QUICK,
      partitions: Object.fromEntries(topics.map((topic) => [topic + suffix, partitions])),
    });
    return { bus: renamed(last.bus, suffix), clock: new ManualClock() };
  };
  return {
    create(wanted) {
      suffix = `.${randomUUID()}`;
      partitions = wanted;
      return open();
    },
    reopen() {
      last?.kill();
      return open();
    },
    async end() {},
  };
}

if (found === undefined) {
  console.warn('message bus on Kafka: did not run, there is none here (scripts/services/install-kafka.sh)');
  describe.skip('Kafka', () => it('has nothing to run on', () => {}));
} else {
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => void warnings.push(warning);
  beforeAll(() => {
    process.on('warning', onWarning);
  });
  afterAll(async () => {
    process.off('warning', onWarning);
    await server?.stop();
    expect(warnings.map((warning) => warning.name)).not.toContain('TimeoutNegativeWarning');
  });
  messageBusContract('Kafka', contractHarness());

  describe('Kafka', () => {
    const open = (topic: string, partitions: number, options: Partial<KafkaBusOptions> = {}) =>
      KafkaMessageBus.open({ ...QUICK, partitions: { [topic]: partitions }, ...options });
    const newTopic = () => `exeunt.kafka-test.${randomUUID()}`;

    /** The whole log of a topic, partition by partition. */
    async function logOf(
      topic: string,
      partitions: number,
      isAll: (log: readonly ReceivedMessage[]) => boolean,
    ) {
      const bus = await open(topic, partitions);
      const log: ReceivedMessage[] = [];
      await bus.consume({
        topic,
        group: randomUUID(),
        maxBatch: 1_000,
        handle: async (batch) => void log.push(...batch),
      });
      await until('the log is read', () => isAll(log));
      await bus.close();
      return log;
    }

    it('refuses to start where a topic has another number of partitions, and says the way out', async () => {
      const topic = newTopic();
      await (await open(topic, 3)).close();
      await (await open(topic, 3)).close();
      const refused = open(topic, 4);
      await expect(refused).rejects.toThrow(PartitionCountMismatch);
      await expect(refused).rejects.toThrow(/has 3 partitions, but 4 are configured.*configure 3/);
    });

    it('lets two processes create the topics at the same time', async () => {
      const topic = newTopic();
      const buses = await Promise.all([open(topic, 3), open(topic, 3), open(topic, 3)]);
      await Promise.all(buses.map((bus) => bus.close()));
    });

    it('says which brokers it could not reach', async () => {
      const nobody = open(newTopic(), 1, { brokers: ['127.0.0.1:1'], openTimeoutMs: 300 });
      await expect(nobody).rejects.toThrow(/Kafka at 127\.0\.0\.1:1 can't be used: .*ECONNREFUSED/);
    });

    it('takes more at once than fits into a batch of a partition', async () => {
      const topic = newTopic();
      const bus = await open(topic, 1);
      const big = 'x'.repeat(300_000);
      const values = Array.from({ length: 12 }, (_, n) => `${n} ${big}`);
      await bus.publish(values.map((value) => message(topic, 'k', value)));
      const log = await logOf(topic, 1, (read) => read.length >= 12);
      expect(log.map(valueOf)).toEqual(values);
      await bus.close();
    });

    it('refuses at once what no broker takes, alone, and loses nothing that was published beside it', async () => {
      const topic = newTopic();
      const bus = await open(topic, 2);
      const tooBig = bus.publish([message(topic, '1', 'a'), message(topic, '0', 'x'.repeat(2_000_000))]);
      const beside = ['b', 'c', 'd'].map((value) => bus.publish([message(topic, '1', value)]));
      await expect(tooBig).rejects.toThrow(/refuses the message/);
      await Promise.all(beside);
      await bus.publish([message(topic, '1', 'e')]);
      const log = await logOf(topic, 2, (read) => read.map(valueOf).includes('e'));
      const ofOne = firsts(log.map(valueOf)).filter((value) => value !== 'a');
      expect(ofOne).toEqual(['b', 'c', 'd', 'e']);
      await bus.close();
    });

    it('keeps its partition while a handler takes longer than the session lasts', async () => {
      const topic = newTopic();
      const bus = await open(topic, 1, { sessionTimeoutMs: QUICK.sessionTimeoutMs });
      const seen: string[] = [];
      await bus.consume({
        topic,
        group: randomUUID(),
        maxBatch: 1,
        handle: async (batch) => {
          seen.push(...batch.map(valueOf));
          if (seen.length === 1) await delay(2 * QUICK.sessionTimeoutMs);
        },
      });
      await bus.publish(['1', '2', '3'].map((value) => message(topic, 'k', value)));
      await until('all are handled', () => seen.length >= 3);
      expect(seen).toEqual(['1', '2', '3']);
      await bus.close();
    });

    it('goes on with other partitions while the batch of one fails', async () => {
      const topic = newTopic();
      const bus = await open(topic, 2, { retryMs: 200 });
      const seen: string[] = [];
      let mends = false;
      await bus.consume({
        topic,
        group: randomUUID(),
        maxBatch: 2,
        handle: async (batch) => {
          if (batch[0]?.partition === 0 && !mends) throw new Error('not yet');
          seen.push(...batch.map(valueOf));
        },
      });
      for (let n = 0; n < 10; n += 1) {
        await bus.publish([message(topic, '0', `stuck ${n}`), message(topic, '1', `free ${n}`)]);
      }
      await until('the other partition is handled', () => seen.length >= 10);
      expect(seen.every((value) => value.startsWith('free'))).toBe(true);
      mends = true;
      await until('the failed one is handled', () => seen.length >= 20);
      expect(seen.slice(10)).toEqual(Array.from({ length: 10 }, (_, n) => `stuck ${n}`));
      await bus.close();
    });

    it('hands nothing out lost, out of order or to two at once when a group grows and shrinks', async () => {
      const topic = newTopic();
      const group = randomUUID();
      const keys = ['0', '1', '2', '3', '4', '5'];
      const perKey = 400;
      const seen = new Map(keys.map((key) => [key, [] as string[]]));
      const handledBy = new Map<string, number>();
      const atOnce = new Map<number, number>();
      let mostAtOnce = 0;
      const member = async (name: string) => {
        const bus = await open(topic, 6);
        await bus.consume({
          topic,
          group,
          maxBatch: 5,
          handle: async (batch) => {
            const partition = batch[0]?.partition ?? -1;
            atOnce.set(partition, (atOnce.get(partition) ?? 0) + 1);
            mostAtOnce = Math.max(mostAtOnce, atOnce.get(partition) ?? 0);
            await delay(5);
            for (const each of batch) seen.get(each.key)?.push(valueOf(each));
            handledBy.set(name, (handledBy.get(name) ?? 0) + batch.length);
            atOnce.set(partition, (atOnce.get(partition) ?? 0) - 1);
          },
        });
        return bus;
      };
      const publisher = await open(topic, 6);
      const publishing = (async () => {
        for (let n = 0; n < perKey; n += 1) {
          await publisher.publish(keys.map((key) => message(topic, key, `${n}`)));
          await delay(5);
        }
      })();
      const handled = () => [...seen.values()].reduce((sum, values) => sum + new Set(values).size, 0);
      const total = keys.length * perKey;
      const first = await member('first');
      await until('the first is at work', () => handled() > total / 8);
      const second = await member('second');
      await until('both are at work', () => handled() > total / 3 && (handledBy.get('second') ?? 0) > 0);
      await first.close();
      const third = await member('third');
      await publishing;
      await until('all is handled', () => handled() === total);
      for (const values of seen.values()) {
        expect(firsts(values)).toEqual(Array.from({ length: perKey }, (_, n) => `${n}`));
      }
      expect(mostAtOnce).toBe(1);
      expect([...seen.values()].flat()).toHaveLength(total);
      expect([...handledBy.keys()].sort()).toEqual(['first', 'second', 'third']);
      await Promise.all([second, third, publisher].map((bus) => bus.close()));
    });

    it('holds little of a backlog of 50,000 messages at a time', async () => {
      const topic = newTopic();
      const bus = await open(topic, 4);
      const text = 'x'.repeat(1_000);
      for (let n = 0; n < 50_000; n += 1_000) {
        await bus.publish(
          Array.from({ length: 1_000 }, (_, m) => message(topic, `${m % 4}`, `${n + m} ${text}`)),
        );
      }
      // What earlier tests left may go meanwhile: the least of all is what there is without this backlog.
      const before = heldBytes();
      const samples: number[] = [];
      let handled = 0;
      let batches = 0;
      await bus.consume({
        topic,
        group: randomUUID(),
        maxBatch: 100,
        handle: async (batch) => {
          handled += batch.length;
          batches += 1;
          if (batches % 20 === 0) samples.push(heldBytes());
        },
      });
      await until('the backlog is handled', () => handled === 50_000, 50_000);
      const most = Math.max(...samples) - Math.min(before, ...samples);
      process.stdout.write(`backlog: held at most ${(most / 1e6).toFixed(1)} MB of 50 MB\n`);
      expect(batches).toBeGreaterThanOrEqual(500);
      expect(most).toBeLessThan(20_000_000);
      await bus.close();
    });

    describe.skipIf(server === undefined)('when the broker is killed', () => {
      const broker = server as KafkaServer;

      it('rejects a publish at its deadline, is not healthy, and recovers by itself', async () => {
        const topic = newTopic();
        const bus = await open(topic, 1, { publishTimeoutMs: 1_000 });
        await bus.publish([message(topic, 'k', 'before')]);
        await bus.check();
        await broker.kill9();
        // The broker stays dead until this is rejected.
        await expect(bus.publish([message(topic, 'k', 'during')])).rejects.toThrow(
          /no answer of Kafka within 1000 ms: .+/,
        );
        await expect(bus.check()).rejects.toThrow();
        await broker.start();
        for (let healthy = false; !healthy;) {
          healthy = await bus.check().then(
            () => true,
            () => false,
          );
        }
        const late = async () => {
          await bus.publish([message(topic, 'k', 'after')]);
        };
        await late().catch(late).catch(late);
        const log = await logOf(topic, 1, (read) => read.map(valueOf).includes('after'));
        // The rejected one may have become durable or not; it was asked for earlier, so it stands before then.
        expect(['before,after', 'before,during,after']).toContain(firsts(log.map(valueOf)).join());
        await bus.close();
      });

      it('lets nothing overtake what it rejected, and repeats nothing by itself', async () => {
        const topic = newTopic();
        const bus = await open(topic, 2, { publishTimeoutMs: 700 });
        const outcomes: Promise<'durable' | 'rejected'>[] = [];
        for (let n = 0; n < 600; n += 1) {
          outcomes.push(
            bus.publish([message(topic, '0', `${n}`), message(topic, '1', `${n}`)]).then(
              () => 'durable' as const,
              () => 'rejected' as const,
            ),
          );
          if (n === 200) await broker.kill9();
          if (n === 400) await broker.start();
          await delay(5);
        }
        const settled = await Promise.all(outcomes);
        expect(settled).toContain('rejected');
        expect(settled.at(-1)).toBe('durable');
        const log = await logOf(
          topic,
          2,
          (read) => read.filter((each) => valueOf(each) === '599').length === 2,
        );
        for (const key of ['0', '1']) {
          const numbers = log.filter((each) => each.key === key).map((each) => Number(valueOf(each)));
          expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
          const durable = settled.flatMap((outcome, n) => (outcome === 'durable' ? [n] : []));
          expect(durable.filter((n) => !numbers.includes(n))).toEqual([]);
        }
        await bus.close();
      });

      it('loses nothing and keeps the order of each key, for publishers that try again', async () => {
        const topic = newTopic();
        const keys = ['0', '1', '2', '!a:x', '!b:x'];
        const perKey = 300;
        const seen = new Map(keys.map((key) => [key, [] as string[]]));
        const problems: string[] = [];
        const bus = await open(topic, 3, {
          publishTimeoutMs: 1_000,
          onProblem: (what, cause) => problems.push(`${what}: ${String(cause)}`),
        });
        await bus.consume({
          topic,
          group: randomUUID(),
          maxBatch: 10,
          handle: async (batch) => {
            for (const each of batch) seen.get(each.key)?.push(valueOf(each));
          },
        });
        let published = 0;
        const publishing = (async () => {
          while (published < perKey) {
            try {
              await bus.publish(keys.map((key) => message(topic, key, `${published}`)));
              published += 1;
              await delay(5);
            } catch {
              // As the relay does: the same again.
            }
          }
        })();
        for (const at of [perKey / 4, perKey / 2]) {
          await until('it is in the middle', () => published >= at);
          await broker.kill9();
          await delay(500);
          await broker.start();
        }
        await publishing;
        const inOrder = Array.from({ length: perKey }, (_, n) => `${n}`);
        await until('all is handled', () =>
          [...seen.values()].every((values) => new Set(values).size === perKey),
        );
        for (const values of seen.values()) expect(firsts(values)).toEqual(inOrder);
        expect(problems.length).toBeGreaterThan(0);
        expect(problems.length).toBeLessThan(100);
        await bus.close();
      });

      it('stops and closes while it is down', async () => {
        const topic = newTopic();
        const bus = await open(topic, 1, { publishTimeoutMs: 500, requestTimeoutMs: 1_000 });
        const consumption = await bus.consume({
          topic,
          group: randomUUID(),
          maxBatch: 10,
          handle: async () => {},
        });
        await broker.kill9();
        const publishing = expect(bus.publish([message(topic, 'k', '1')])).rejects.toThrow();
        await consumption.stop();
        await bus.close();
        await publishing;
        await broker.start();
      });
    });
  });
}
