import { setImmediate } from 'node:timers/promises';
import type { Outbox, OutboxEntry } from '@exeunt/event-store';
import {
  InMemoryMessageBus,
  InMemoryMessageLog,
  ManualClock,
  OUTBOUND_PDUS_TOPIC,
  partitionOf,
  ROOM_EVENTS_TOPIC,
  type BusMessage,
} from '@exeunt/message-bus';
import type { EventId, RoomId, ServerName } from '@exeunt/pdu';
import { JsonNumber, parseJson, type JsonObject } from '@exeunt/signing';
import { describe, expect, it } from 'vitest';
import { messagesFor } from './messages-for.js';
import { OutboxRelay } from './outbox-relay.js';

const names = (count: number) => Array.from({ length: count }, (_, n) => `s${n}.test` as ServerName);

function entry(position: number, destinations: readonly ServerName[] = [], room = '!a:us.test'): OutboxEntry {
  return {
    id: `${room}-${position}`,
    roomId: room as RoomId,
    roomVersion: '5',
    position,
    destinations,
    domainEvent: {
      type: 'PduAccepted',
      eventId: `$${position}` as EventId,
      pdu: { type: 'm.room.member', depth: new JsonNumber('9223372036854775807'), content: {} },
      origin: 'leaver.test' as ServerName,
      decidedAt: 1_700_000_000_123,
      place: 'graph',
      stateAfter: 'current',
      changes: [],
    },
  };
}

const valueOf = (message: BusMessage | undefined) => parseJson(message?.value ?? '') as JsonObject;

describe('the messages for an accepted PDU', () => {
  it('are one room event in CloudEvents binary mode, keyed by the room, with the PDU without loss', () => {
    const [message, ...rest] = messagesFor(entry(7), () => 4);
    expect(rest).toEqual([]);
    expect(message).toMatchObject({
      topic: ROOM_EVENTS_TOPIC,
      key: '!a:us.test',
      headers: {
        ce_specversion: '1.0',
        ce_id: '!a:us.test/7',
        ce_source: '/exeunt/room-log',
        ce_type: 'exeunt.pdu-accepted.v1',
        ce_subject: '$7',
        ce_time: '2023-11-14T22:13:20.123Z',
      },
    });
    expect(valueOf(message)).toEqual({
      room_id: '!a:us.test',
      room_version: '5',
      event_id: '$7',
      position: 7,
      origin: 'leaver.test',
      pdu: { type: 'm.room.member', depth: new JsonNumber('9223372036854775807'), content: {} },
    });
  });

  it('name the servers whose last member went with it', () => {
    const one = entry(7);
    const serversLeft = names(2);
    const [message] = messagesFor({ ...one, domainEvent: { ...one.domainEvent, serversLeft } }, () => 4);
    expect(valueOf(message).servers_left).toEqual(serversLeft);
  });

  it('name every destination once, in at most as many messages as there are partitions', () => {
    const outbound = messagesFor(entry(7, names(1_000)), () => 8).slice(1);
    expect(outbound).toHaveLength(8);
    expect(outbound.every((message) => message.topic === OUTBOUND_PDUS_TOPIC)).toBe(true);
    const all = outbound.flatMap((message) => valueOf(message).destinations as string[]);
    expect([...all].sort()).toEqual([...names(1_000)].sort());
    expect(new Set(outbound.map((message) => partitionOf(message.key, 8))).size).toBe(8);
  });

  it('put a destination into the same partition whatever the room and its other destinations are', () => {
    const keyOf = (messages: BusMessage[]) =>
      messages.find(
        (message) =>
          message.topic === OUTBOUND_PDUS_TOPIC &&
          (valueOf(message).destinations as string[]).includes('s3.test'),
      )?.key;
    const alone = keyOf(messagesFor(entry(1, ['s3.test' as ServerName], '!b:x'), () => 8));
    expect(alone).toBe(keyOf(messagesFor(entry(9, names(50)), () => 8)));
  });

  it('leave empty buckets out', () => {
    expect(messagesFor(entry(7, names(1)), () => 64)).toHaveLength(2);
  });

  it('stay below a megabyte, however many destinations there are', () => {
    const long = Array.from({ length: 5_000 }, (_, n) => `${'x'.repeat(245)}${n}.test` as ServerName);
    const messages = messagesFor(entry(7, long), () => 1).slice(1);
    expect(messages).toHaveLength(3);
    expect(Math.max(...messages.map((message) => message.value.length))).toBeLessThan(900_000);
    expect(messages.flatMap((message) => valueOf(message).destinations)).toEqual(long);
  });

  it('all name the trace of the request that brought it, and none where it was not traced', () => {
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    const headersOf = (one: OutboxEntry) => messagesFor(one, () => 4).map(({ headers }) => headers);
    const traced = headersOf({ ...entry(7, names(50)), traceparent });
    expect(traced.map((headers) => headers['ce_traceparent'])).toEqual(Array(5).fill(traceparent));
    for (const headers of headersOf(entry(7, names(50))))
      expect(headers).not.toHaveProperty('ce_traceparent');
  });

  it('are the same for the same entry, and each has an ID of its own', () => {
    const first = messagesFor(entry(7, names(5_000)), () => 2);
    expect(messagesFor(entry(7, names(5_000)), () => 2)).toEqual(first);
    expect(new Set(first.map((message) => message.headers.ce_id)).size).toBe(first.length);
  });
});

class FakeOutbox implements Outbox {
  entries: OutboxEntry[] = [];
  failures = 0;
  readonly #listeners = new Set<() => void>();

  async take(limit: number) {
    if (this.failures > 0) {
      this.failures -= 1;
      throw new Error('the database is away');
    }
    return this.entries.slice(0, limit);
  }

  async done(entries: readonly OutboxEntry[]) {
    const ids = new Set(entries.map((done) => done.id));
    this.entries = this.entries.filter((kept) => !ids.has(kept.id));
  }

  onEntry(listener: () => void) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  put(...entries: OutboxEntry[]) {
    this.entries.push(...entries);
    for (const listener of this.#listeners) listener();
  }
}

async function until(condition: () => boolean): Promise<void> {
  for (let turn = 0; !condition(); turn += 1) {
    if (turn > 10_000) throw new Error('the condition did not come true');
    await setImmediate();
  }
}

function given(overrides: Partial<ConstructorParameters<typeof OutboxRelay>[0]> = {}) {
  const clock = new ManualClock();
  const outbox = new FakeOutbox();
  const published: BusMessage[] = [];
  const problems: string[] = [];
  const bus = new InMemoryMessageBus({ log: new InMemoryMessageLog(), clock });
  const relay = new OutboxRelay({
    outbox,
    bus: {
      partitions: (topic) => bus.partitions(topic),
      publish: async (messages) => {
        await bus.publish(messages);
        published.push(...messages);
      },
    },
    clock,
    random: () => 0.5,
    onProblem: (_, cause) => problems.push((cause as Error).message),
    ...overrides,
  });
  return { clock, outbox, published, problems, relay };
}

const positions = (messages: readonly BusMessage[]) => messages.map((message) => valueOf(message).position);

describe('the outbox relay', () => {
  it('publishes what was there at its start and what comes later, in order', async () => {
    const told: number[][] = [];
    const { outbox, relay, published } = given({
      maxBatch: 3,
      onRelayed: (entries) => told.push(entries.map(({ position }) => position)),
    });
    outbox.put(...[1, 2, 3, 4, 5, 6, 7].map((position) => entry(position)));
    relay.start();
    await until(() => outbox.entries.length === 0);
    outbox.put(entry(8));
    await until(() => outbox.entries.length === 0);
    expect(positions(published)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(told).toEqual([[1, 2, 3], [4, 5, 6], [7], [8]]);
    await relay.stop();
  });

  it('finds by polling what another process has put in', async () => {
    const { clock, outbox, relay, published } = given({ pollMs: 1_000 });
    relay.start();
    await setImmediate();
    outbox.entries.push(entry(1));
    await setImmediate();
    expect(published).toEqual([]);
    clock.advance(1_000);
    await until(() => published.length === 1);
    await relay.stop();
  });

  it('sends what comes alone at once, and what follows it within the pace together', async () => {
    const { clock, outbox, relay, published } = given({ paceMs: 20 });
    relay.start();
    await setImmediate();
    outbox.put(entry(1));
    await until(() => published.length === 1);
    await until(() => outbox.entries.length === 0);
    outbox.put(entry(2));
    await setImmediate();
    outbox.put(entry(3));
    for (let turn = 0; turn < 20; turn += 1) await setImmediate();
    expect(positions(published)).toEqual([1]);
    clock.advance(20);
    await until(() => outbox.entries.length === 0);
    expect(positions(published)).toEqual([1, 2, 3]);
    await relay.stop();
  });

  it('does not wait for the pace after a full batch, nor at stop', async () => {
    const { outbox, relay, published } = given({ maxBatch: 2, paceMs: 20 });
    outbox.put(entry(1), entry(2), entry(3));
    relay.start();
    await until(() => published.length === 3);
    outbox.put(entry(4));
    await setImmediate();
    await relay.stop();
    expect(positions(published).slice(0, 3)).toEqual([1, 2, 3]);
  });

  it('goes on after failures, later each time', async () => {
    const { clock, outbox, relay, problems } = given({ minBackoffMs: 100 });
    outbox.failures = 2;
    relay.start();
    await until(() => problems.length === 1);
    outbox.put(entry(1));
    await setImmediate();
    expect(problems).toHaveLength(1);
    clock.advance(75);
    await until(() => problems.length === 2);
    clock.advance(75);
    await setImmediate();
    expect(outbox.entries).toHaveLength(1);
    clock.advance(75);
    await until(() => outbox.entries.length === 0);
    await relay.stop();
  });

  it('publishes again, with the same ID, what was published but not taken away', async () => {
    const { clock, outbox, relay, published, problems } = given();
    const done = outbox.done.bind(outbox);
    outbox.done = async (entries) => {
      outbox.done = done;
      throw new Error(`died before ${entries.length} were done`);
    };
    outbox.put(entry(1));
    relay.start();
    await until(() => problems.length === 1);
    clock.advance(1_000);
    await until(() => outbox.entries.length === 0);
    expect(published.map((message) => message.headers.ce_id)).toEqual(['!a:us.test/1', '!a:us.test/1']);
    await relay.stop();
  });

  it('takes nothing away that the bus did not take', async () => {
    const { outbox, relay, problems } = given({
      bus: { partitions: () => 1, publish: () => Promise.reject(new Error('no broker')) },
    });
    outbox.put(entry(1));
    relay.start();
    await until(() => problems.length === 1);
    await relay.stop();
    expect(problems).toEqual(['no broker']);
    expect(outbox.entries).toHaveLength(1);
  });

  it('waits at stop for the batch in hand', async () => {
    let release = () => {};
    const { outbox, relay } = given({
      bus: { partitions: () => 1, publish: () => new Promise<void>((resolve) => (release = resolve)) },
    });
    outbox.put(entry(1));
    relay.start();
    await setImmediate();
    let stopped = false;
    const stopping = relay.stop().then(() => (stopped = true));
    await setImmediate();
    expect(stopped).toBe(false);
    release();
    await stopping;
    expect(outbox.entries).toEqual([]);
  });
});
