import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Alarm, ManualClock } from './clock.js';
import { deadLetterOf, parkInDeadLetter } from './dead-letter.js';
import type { BusMessage } from './message-bus.js';
import { partitionOf, stableHash } from './partition.js';
import { fromStoredText, toStoredText } from './stored-text.js';

describe('the partition of a key', () => {
  it('is the same in every release', () => {
    expect(['', 'a', '!room:example.org', 'matrix.org', 'Ü𝄞'].map(stableHash)).toEqual(expectedHashes);
  });

  it('is one that exists', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.integer({ min: 1, max: 1_000 }), (key, partitions) => {
        const partition = partitionOf(key, partitions);
        expect(Number.isInteger(partition) && partition >= 0 && partition < partitions).toBe(true);
      }),
    );
  });

  it('is spread evenly over server names', () => {
    const counts = Array.from({ length: 16 }, () => 0);
    for (let n = 0; n < 16_000; n += 1) {
      const partition = stableHash(`matrix${n}.example.org`) % 16;
      counts[partition] = (counts[partition] ?? 0) + 1;
    }
    expect(Math.min(...counts)).toBeGreaterThan(850);
    expect(Math.max(...counts)).toBeLessThan(1_150);
  });
});

const expectedHashes = [2872998923, 2448022055, 97374516, 1222890837, 1915357105];

describe('a text in a PostgreSQL column', () => {
  it('comes back as it was, whatever it holds, and never has a NUL or half a surrogate pair', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.nat(0xffff), fc.nat(2), fc.integer({ min: 0xd7ff, max: 0xe000 }))),
        (units) => {
          const text = String.fromCharCode(...units);
          const stored = toStoredText(text);
          expect(fromStoredText(stored)).toBe(text);
          expect(stored.includes('\0')).toBe(false);
          expect(stored.isWellFormed()).toBe(true);
        },
      ),
    );
  });
});

describe('a dead letter', () => {
  it('holds the message, the reason and the consumer, under the key of the message', async () => {
    const published: BusMessage[] = [];
    const message = {
      topic: 't',
      partition: 2,
      offset: '7',
      key: '!a:x',
      headers: { ce_id: 'x' },
      value: 'not JSON \0',
    };
    const bus = { publish: async (messages: readonly BusMessage[]) => void published.push(...messages) };
    await parkInDeadLetter(bus, message, 'the value is not JSON', 'ingest', 0);
    expect(published).toHaveLength(1);
    expect(published[0]).toMatchObject({
      topic: 'exeunt.dead-letter.v1',
      key: '!a:x',
      headers: { ce_id: 'ingest/t/2/7', ce_type: 'exeunt.dead-letter.v1', ce_specversion: '1.0' },
    });
    expect(JSON.parse(published[0]?.value ?? '')).toEqual({
      reason: 'the value is not JSON',
      consumer: 'ingest',
      message,
    });
  });
});

describe('the dead letter of a message that is as large as a broker takes', () => {
  const huge = 'x"'.repeat(500_000);
  const message = {
    topic: 't',
    partition: 2,
    offset: '7',
    key: '!a:x',
    headers: { ce_id: 'x' },
    value: huge,
  };
  const valueOf = (letter: BusMessage) => {
    expect(Buffer.byteLength(letter.value)).toBeLessThan(1_000_000);
    return JSON.parse(letter.value) as object;
  };

  it('leaves out the value, which is where it says', () => {
    expect(valueOf(deadLetterOf(message, 'no', 'ingest', 0))).toEqual({
      reason: 'no',
      consumer: 'ingest',
      message: { ...message, value: '' },
      left_out: ['value'],
    });
  });

  it('leaves out more where that is not enough', () => {
    const monstrous = { ...message, key: huge, headers: { huge } };
    expect(valueOf(deadLetterOf(monstrous, huge, 'ingest', 0))).toMatchObject({
      message: { offset: '7', headers: {} },
      left_out: ['headers', 'value'],
    });
  });
});

describe('an alarm', () => {
  it('ends a wait, or the next one where nobody waits', async () => {
    const clock = new ManualClock();
    const alarm = new Alarm();
    alarm.ring();
    await alarm.wait(clock, 1_000);
    const wait = alarm.wait(clock, 1_000);
    alarm.ring();
    await wait;
    let over = false;
    const timed = alarm.wait(clock, 1_000).then(() => (over = true));
    clock.advance(999);
    await Promise.resolve();
    expect(over).toBe(false);
    clock.advance(1);
    await timed;
  });
});
