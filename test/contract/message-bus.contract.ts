import { setImmediate } from 'node:timers/promises';
import type { BusMessage, ManualClock, MessageBus, ReceivedMessage } from '@exeunt/message-bus';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ticking, until as untilTrue } from '../harness/settle.js';

/** A bus under test on a store that outlives it. */
export interface BusUnderTest {
  readonly bus: MessageBus;
  /** Stands still by itself; the adapters poll and pause by it. */
  readonly clock: ManualClock;
}

/** What an adapter brings to the suite. */
export interface BusHarness {
  /** A bus on an empty store with this many partitions a topic. */
  create(partitions: number): Promise<BusUnderTest>;
  /** As after a kill: another bus on the store of the last one, which is given up without being closed. */
  reopen(): Promise<BusUnderTest>;
  /** After the last test: closes what is still open. */
  end(): Promise<void>;
}

const TOPIC = 'exeunt.test.v1';

function message(key: string, value: string, topic = TOPIC): BusMessage {
  const ce_traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  return {
    topic,
    key,
    headers: { ce_id: value, ce_type: 'test', ce_traceparent },
    value: JSON.stringify(value),
  };
}

/** Moves the clock while it waits, so that polls and pauses pass. */
async function until(clock: ManualClock, condition: () => boolean): Promise<void> {
  await untilTrue('the condition comes true', condition, undefined, ticking(clock));
}

/** Gives the adapter ample opportunity to do what it must not do. */
async function lapse(clock: ManualClock): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) {
    await setImmediate();
    clock.advance(200);
  }
}

/** What every {@link MessageBus} must keep, whatever is below it. */
export function messageBusContract(name: string, harness: BusHarness): void {
  describe(`the message bus on ${name}`, () => {
    let bus: MessageBus;
    let clock: ManualClock;
    let seen: ReceivedMessage[];
    const values = () => seen.map((received) => JSON.parse(received.value) as string);

    const open = async (partitions: number) => {
      ({ bus, clock } = await harness.create(partitions));
    };
    const collect = (group = 'g', maxBatch = 10, topic = TOPIC) =>
      bus.consume({
        topic,
        group,
        maxBatch,
        handle: async (batch) => {
          seen.push(...batch);
        },
      });

    beforeEach(() => {
      seen = [];
    });
    afterEach(() => bus.close());
    afterAll(() => harness.end());

    it('hands out key, headers and value as they were published, with where they stand', async () => {
      await open(1);
      await bus.publish([message('!a:x', 'one'), message('!a:x', 'two')]);
      await collect();
      await until(clock, () => seen.length === 2);
      expect(seen[0]).toEqual({ ...message('!a:x', 'one'), partition: 0, offset: seen[0]?.offset });
      expect(BigInt(seen[1]?.offset ?? '') > BigInt(seen[0]?.offset ?? '')).toBe(true);
    });

    it('takes an empty list of messages', async () => {
      await open(1);
      await bus.publish([]);
      await bus.check();
    });

    it('hands the messages of one key out in the order they were published', async () => {
      await open(3);
      await collect();
      const keys = ['!a:x', '!b:x', '!c:x', '!d:x', '!e:x'];
      for (let round = 0; round < 10; round += 1) {
        await bus.publish(keys.map((key) => message(key, `${key} ${round}`)));
      }
      await until(clock, () => seen.length === 50);
      for (const key of keys) {
        const ofKey = seen.filter((received) => received.key === key);
        expect(ofKey.map((received) => JSON.parse(received.value))).toEqual(
          Array.from({ length: 10 }, (_, round) => `${key} ${round}`),
        );
        expect(new Set(ofKey.map((received) => received.partition)).size).toBe(1);
      }
    });

    it('sends the key that is the number of a partition to that partition', async () => {
      await open(3);
      expect(bus.partitions(TOPIC)).toBe(3);
      await collect();
      await bus.publish(['0', '1', '2'].map((key) => message(key, key)));
      await until(clock, () => seen.length === 3);
      expect(seen.map((received) => `${received.partition}`).sort()).toEqual(['0', '1', '2']);
      expect(seen.every((received) => received.key === `${received.partition}`)).toBe(true);
    });

    it('loses, repeats and reorders nothing when many publish at once', async () => {
      await open(1);
      await collect('g', 7);
      await Promise.all(
        Array.from({ length: 8 }, async (_, publisher) => {
          for (let count = 0; count < 15; count += 1) {
            await bus.publish([message(`!p${publisher}:x`, `${publisher}-${count}`)]);
          }
        }),
      );
      await until(clock, () => seen.length >= 120);
      expect(new Set(values()).size).toBe(120);
      expect(seen).toHaveLength(120);
      for (let publisher = 0; publisher < 8; publisher += 1) {
        expect(values().filter((value) => value.startsWith(`${publisher}-`))).toEqual(
          Array.from({ length: 15 }, (_, count) => `${publisher}-${count}`),
        );
      }
      const offsets = seen.map((received) => Number(received.offset));
      expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
    });

    it('hands out at most maxBatch messages, of one topic and partition', async () => {
      await open(2);
      const sizes: number[] = [];
      await bus.publish(Array.from({ length: 25 }, (_, count) => message(`!k${count}:x`, `${count}`)));
      await bus.publish([message('!k:x', 'other', 'exeunt.other.v1')]);
      await bus.consume({
        topic: TOPIC,
        group: 'g',
        maxBatch: 4,
        handle: async (batch) => {
          sizes.push(batch.length);
          expect(new Set(batch.map((received) => `${received.topic}/${received.partition}`)).size).toBe(1);
          seen.push(...batch);
        },
      });
      await until(clock, () => seen.length === 25);
      expect(Math.max(...sizes)).toBeLessThanOrEqual(4);
      expect(values()).not.toContain('other');
    });

    it('hands a batch out again until its handler resolves, and nothing after it before', async () => {
      await open(1);
      await bus.publish([message('!a:x', '1'), message('!a:x', '2'), message('!a:x', '3')]);
      const batches: string[][] = [];
      await bus.consume({
        topic: TOPIC,
        group: 'g',
        maxBatch: 2,
        handle: async (batch) => {
          batches.push(batch.map((received) => JSON.parse(received.value) as string));
          if (batches.length <= 2) throw new Error('not yet');
        },
      });
      await until(clock, () => batches.length === 4);
      expect(batches).toEqual([['1', '2'], ['1', '2'], ['1', '2'], ['3']]);
    });

    it('gives each of two groups everything, whenever it comes', async () => {
      await open(1);
      await collect('early');
      await bus.publish([message('!a:x', '1')]);
      await until(clock, () => seen.length === 1);
      const late: string[] = [];
      await bus.consume({
        topic: TOPIC,
        group: 'late',
        maxBatch: 10,
        handle: async (batch) => {
          late.push(...batch.map((received) => JSON.parse(received.value) as string));
        },
      });
      await bus.publish([message('!a:x', '2')]);
      await until(clock, () => seen.length === 2 && late.length === 2);
      expect(late).toEqual(['1', '2']);
    });

    it('hands out nothing while paused', async () => {
      await open(1);
      const consumption = await collect();
      consumption.pause();
      await bus.publish([message('!a:x', '1')]);
      await lapse(clock);
      expect(seen).toEqual([]);
      consumption.resume();
      await until(clock, () => seen.length === 1);
    });

    it('hands a batch that failed out again only after a resume', async () => {
      await open(1);
      let attempts = 0;
      const consumption = await bus.consume({
        topic: TOPIC,
        group: 'g',
        maxBatch: 1,
        handle: async () => {
          attempts += 1;
          if (attempts === 1) {
            consumption.pause();
            throw new Error('pause first');
          }
        },
      });
      await bus.publish([message('!a:x', '1')]);
      await until(clock, () => attempts === 1);
      await lapse(clock);
      expect(attempts).toBe(1);
      consumption.resume();
      await until(clock, () => attempts === 2);
    });

    it('waits at stop for the batch in hand and commits it', async () => {
      await open(1);
      await bus.publish([message('!a:x', '1'), message('!a:x', '2')]);
      let release = () => {};
      const consumption = await bus.consume({
        topic: TOPIC,
        group: 'g',
        maxBatch: 1,
        handle: async (batch) => {
          seen.push(...batch);
          await new Promise<void>((resolve) => (release = resolve));
        },
      });
      await until(clock, () => seen.length === 1);
      let stopped = false;
      const stopping = consumption.stop().then(() => (stopped = true));
      await lapse(clock);
      expect(stopped).toBe(false);
      release();
      await stopping;
      expect(values()).toEqual(['1']);
      await collect();
      await until(clock, () => seen.length === 2);
      expect(values()).toEqual(['1', '2']);
    });

    it('survives a kill: what was published is there, what was handled but not committed comes again', async () => {
      await open(1);
      await bus.publish(['1', '2', '3', '4'].map((value) => message('!a:x', value)));
      let hang = false;
      await bus.consume({
        topic: TOPIC,
        group: 'g',
        maxBatch: 2,
        handle: async (batch) => {
          if (hang) await new Promise(() => {});
          seen.push(...batch);
          hang = true;
        },
      });
      await until(clock, () => hang);
      await lapse(clock);
      seen = [];
      ({ bus, clock } = await harness.reopen());
      await bus.publish([message('!a:x', '5')]);
      await collect('g');
      await until(clock, () => values().includes('5'));
      expect(values().slice(-3)).toEqual(['3', '4', '5']);
    });

    it('goes on after a restart where its group had got to', async () => {
      await open(1);
      await bus.publish(['1', '2'].map((value) => message('!a:x', value)));
      const consumption = await collect();
      await until(clock, () => seen.length === 2);
      await consumption.stop();
      ({ bus, clock } = await harness.reopen());
      await bus.publish([message('!a:x', '3')]);
      await collect();
      await until(clock, () => seen.length >= 3);
      await lapse(clock);
      expect(values()).toEqual(['1', '2', '3']);
    });

    it('carries NUL, text beyond the basic plane and big values', async () => {
      await open(1);
      const big = 'Ü𝄞"\\'.repeat(60_000);
      const odd: BusMessage[] = [
        { topic: TOPIC, key: '!nul\0key:x', headers: { ce_id: 'a\0b', ce_subject: '𝄞' }, value: '"\\u0000"' },
        { topic: TOPIC, key: '', headers: {}, value: JSON.stringify(big) },
        { topic: TOPIC, key: '\u0001"mark"', headers: {}, value: 'null' },
      ];
      await bus.publish(odd);
      await collect();
      await until(clock, () => seen.length === 3);
      expect(seen.map(({ topic, key, headers, value }) => ({ topic, key, headers, value }))).toEqual(odd);
    });

    it('refuses to publish, to consume and to be healthy once it is closed', async () => {
      await open(1);
      await bus.check();
      await bus.close();
      await expect(bus.publish([message('!a:x', '1')])).rejects.toThrow();
      await expect(bus.check()).rejects.toThrow();
      await expect(collect()).rejects.toThrow();
    });
  });
}
