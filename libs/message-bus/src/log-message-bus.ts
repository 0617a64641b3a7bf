import { setImmediate } from 'node:timers/promises';
import { Alarm, systemClock, type Clock } from './clock.js';
import type { BusMessage, Consumption, MessageBus, ReceivedMessage } from './message-bus.js';
import type { MessageLog, Place } from './message-log.js';
import { partitionOf } from './partition.js';

/** How a bus on a log behaves; every field has a default that suits one process. */
export interface LogBusOptions {
  /** Of every topic. Never lower it while messages are unread: keys would change partition. Default 1. */
  readonly partitions?: number;
  /** How often a consumer looks for what another process has published. Default 1,000. */
  readonly pollMs?: number;
  /** The pause after a handler, or the database, failed. Default 1,000, doubled up to 30,000. */
  readonly retryMs?: number;
  /** When a publish gives up. Its messages may be durable all the same. Default 10,000. */
  readonly publishTimeoutMs?: number;
  readonly clock?: Clock;
  /** Told of everything that went wrong and is tried again. */
  readonly onProblem?: (what: string, cause: unknown) => void;
}

const LONGEST_RETRY_MS = 30_000;

/**
 * The message bus over a log that this process reads itself. One consumer a group and topic in a process. Two
 * processes that consume as the same group both get every message: at least once holds, and a batch is never
 * skipped, but work is done twice.
 */
export class LogMessageBus implements MessageBus {
  readonly #log: MessageLog;
  readonly #partitions: number;
  readonly #options: Required<LogBusOptions>;
  readonly #running = new Map<string, LogConsumption>();
  #closed = false;

  constructor(log: MessageLog, options: LogBusOptions = {}) {
    this.#log = log;
    this.#partitions = options.partitions ?? 1;
    if (!Number.isInteger(this.#partitions) || this.#partitions < 1) {
      throw new RangeError('a topic has at least one partition');
    }
    this.#options = {
      partitions: this.#partitions,
      pollMs: options.pollMs ?? 1_000,
      retryMs: options.retryMs ?? 1_000,
      publishTimeoutMs: options.publishTimeoutMs ?? 10_000,
      clock: options.clock ?? systemClock,
      onProblem: options.onProblem ?? (() => {}),
    };
  }

  async publish(messages: readonly BusMessage[]): Promise<void> {
    if (this.#closed) throw new Error('the message bus is closed');
    if (messages.length === 0) return;
    const placed = messages.map((message) => ({
      ...message,
      partition: partitionOf(message.key, this.#partitions),
    }));
    await this.#inTime('publish', this.#log.append(placed));
    const topics = new Set(messages.map((message) => message.topic));
    for (const consumption of this.#running.values()) {
      if (topics.has(consumption.topic)) consumption.ring();
    }
  }

  async consume(options: {
    readonly topic: string;
    readonly group: string;
    readonly maxBatch: number;
    readonly handle: (batch: readonly ReceivedMessage[]) => Promise<void>;
  }): Promise<Consumption> {
    if (this.#closed) throw new Error('the message bus is closed');
    if (!Number.isInteger(options.maxBatch) || options.maxBatch < 1) {
      throw new RangeError('a batch holds at least one message');
    }
    const name = JSON.stringify([options.topic, options.group]);
    if (this.#running.has(name)) {
      throw new Error(`group ${options.group} consumes ${options.topic} in this process already`);
    }
    const consumption: LogConsumption = new LogConsumption(this.#log, options, this.#options, () => {
      if (this.#running.get(name) === consumption) this.#running.delete(name);
    });
    this.#running.set(name, consumption);
    try {
      await consumption.start(this.#partitions);
    } catch (cause) {
      this.#running.delete(name);
      throw cause;
    }
    return consumption;
  }

  partitions(_topic: string): number {
    return this.#partitions;
  }

  async check(): Promise<void> {
    if (this.#closed) throw new Error('the message bus is closed');
    await this.#inTime('check', this.#log.check());
  }

  /** Ends every consumption as `stop` does. The database stays open: it is the caller's. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#running.values()].map((consumption) => consumption.stop()));
  }

  async #inTime<T>(what: string, work: Promise<T>): Promise<T> {
    const { clock, publishTimeoutMs } = this.#options;
    let callOff = () => {};
    const deadline = new Promise<never>((_, reject) => {
      callOff = clock.after(publishTimeoutMs, () => {
        reject(new Error(`${what} had no answer within ${publishTimeoutMs} ms`));
      });
    });
    try {
      return await Promise.race([work, deadline]);
    } finally {
      callOff();
    }
  }
}

class LogConsumption implements Consumption {
  readonly topic: string;
  readonly #log: MessageLog;
  readonly #subscription: Parameters<MessageBus['consume']>[0];
  readonly #options: Required<LogBusOptions>;
  readonly #ended: () => void;
  /** An alarm for news and one for the end alone a partition: a publish must not cut the pause after a failure short. */
  readonly #alarms: { readonly news: Alarm; readonly end: Alarm }[] = [];
  #loops: Promise<unknown> = Promise.resolve();
  #paused = false;
  #stopping = false;

  constructor(
    log: MessageLog,
    subscription: Parameters<MessageBus['consume']>[0],
    options: Required<LogBusOptions>,
    ended: () => void,
  ) {
    this.topic = subscription.topic;
    this.#log = log;
    this.#subscription = subscription;
    this.#options = options;
    this.#ended = ended;
  }

  async start(partitions: number): Promise<void> {
    const count = Math.max(partitions, await this.#log.partitionsUsed(this.topic));
    const places = Array.from({ length: count }, (_, partition): Place => {
      return { topic: this.topic, partition, group: this.#subscription.group };
    });
    // The group is known before this resolves: what is published from here on is kept for it.
    const cursors: number[] = [];
    for (const place of places) cursors.push(await this.#log.cursor(place));
    const loops = places.map((place, index) => {
      const alarms = { news: new Alarm(), end: new Alarm() };
      this.#alarms.push(alarms);
      return this.#run(place, cursors[index] ?? 0, alarms);
    });
    this.#loops = Promise.all(loops);
  }

  ring(): void {
    for (const { news } of this.#alarms) news.ring();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.ring();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    for (const { news, end } of this.#alarms) {
      news.ring();
      end.ring();
    }
    await this.#loops;
    this.#ended();
  }

  async #run(place: Place, start: number, alarms: { news: Alarm; end: Alarm }): Promise<void> {
    const { clock, pollMs } = this.#options;
    let cursor = start;
    while (!this.#stopping) {
      if (this.#paused) {
        await alarms.news.wait(clock, pollMs);
        continue;
      }
      const batch = await this.#untilDone(place, alarms.end, 'read', () =>
        this.#log.read(place, cursor, this.#subscription.maxBatch),
      );
      // A pause or a stop that came in during the read holds back what was read.
      if (this.#paused || this.#stopping) continue;
      const last = batch?.at(-1);
      if (batch === undefined || last === undefined) {
        await alarms.news.wait(clock, pollMs);
        continue;
      }
      const handled = await this.#untilDone(place, alarms.end, 'handle', async () => {
        while (this.#paused && !this.#stopping) await alarms.news.wait(clock, pollMs);
        if (this.#stopping) return undefined;
        await this.#subscription.handle(batch);
        return true;
      });
      if (handled === undefined) return;
      const next = Number(last.offset) + 1;
      const from = cursor;
      const moved = await this.#untilDone(place, alarms.end, 'commit', () =>
        this.#log.commit(place, from, next),
      );
      cursor = next;
      // PGlite answers without the event loop turning: everything else would wait for the whole backlog.
      await setImmediate();
      if (moved === false) {
        // Another process of this group is here too, and where it got to is where we go on.
        cursor = (await this.#untilDone(place, alarms.end, 'cursor', () => this.#log.cursor(place))) ?? next;
      }
    }
  }

  /** Tries until it works; `undefined` when the consumption is stopped before it did. */
  async #untilDone<T>(
    place: Place,
    end: Alarm,
    what: string,
    step: () => Promise<T | undefined>,
  ): Promise<T | undefined> {
    let pauseMs = this.#options.retryMs;
    for (;;) {
      try {
        return await step();
      } catch (cause) {
        this.#options.onProblem(`${what} ${place.topic}/${place.partition} as ${place.group}`, cause);
        if (this.#stopping) return undefined;
        await end.wait(this.#options.clock, pauseMs);
        if (this.#stopping) return undefined;
        pauseMs = Math.min(pauseMs * 2, Math.max(LONGEST_RETRY_MS, this.#options.retryMs));
      }
    }
  }
}
