import { setTimeout as delay } from 'node:timers/promises';
import type { Consumer, EachBatchPayload, IHeaders, Kafka, KafkaMessage } from 'kafkajs';
import { rootCause, within, type OnProblem } from './kafka-client.js';
import type { Consumption, MessageBus, ReceivedMessage } from './message-bus.js';

export interface KafkaConsumptionOptions {
  readonly partitions: number;
  /** The pause after a handler failed, doubled up to 30,000. */
  readonly retryMs: number;
  /** When the start gives up. */
  readonly startTimeoutMs: number;
  /** How long the group waits for a member that says nothing before its partitions go to others. */
  readonly sessionTimeoutMs: number;
  /** How long the group waits at a rebalance for the batches in hand. */
  readonly rebalanceTimeoutMs: number;
  readonly heartbeatMs: number;
  readonly maxBytesPerPartition: number;
  readonly maxBytes: number;
  readonly onProblem: OnProblem;
}

const LONGEST_RETRY_MS = 30_000;
/** How long the broker holds a request for messages when there are none. Pauses, ends and heartbeats wait for it. */
const LONG_POLL_MS = 500;
/** A partition that has more gives way to the others after this: nothing is fetched before all have returned. */
const TURN_MS = 2_000;
const COMMIT_ATTEMPTS = 5;
const COMMIT_PAUSE_MS = 200;
const STOP_TIMEOUT_MS = 10_000;

/** The group has gone on without us, or is about to. */
const GROUP_MOVED_ON = [
  'REBALANCE_IN_PROGRESS',
  'ILLEGAL_GENERATION',
  'UNKNOWN_MEMBER_ID',
  'NOT_COORDINATOR_FOR_GROUP',
];

/** A partition whose batch has failed. */
interface Failed {
  /** Offsets of the batch's first and last message: the same batch is handed out again, not a longer one. */
  readonly first: string;
  readonly last: string;
  readonly pauseMs: number;
  timer: NodeJS.Timeout | undefined;
}

/**
 * One consumer of a Kafka group. It takes messages of all its partitions at once, hands each partition's out in
 * batches one after the other, and commits each batch when its handler has resolved. While handlers work a timer keeps
 * up the heartbeats. At a rebalance it finishes and commits the batches in hand before it joins again, so that the next
 * owner of a partition goes on right behind; only where that takes longer than `rebalanceTimeoutMs` are they handled
 * twice.
 */
export class KafkaConsumption implements Consumption {
  readonly #kafka: Kafka;
  readonly #subscription: Parameters<MessageBus['consume']>[0];
  readonly #options: KafkaConsumptionOptions;
  readonly #ended: () => void;
  readonly #inHand = new Map<number, Promise<void>>();
  readonly #failed = new Map<number, Failed>();
  #consumer: Consumer | undefined;
  /** Counts how often the group was joined: a batch of an earlier time may be somebody else's now. */
  #generation = 0;
  /** What a heartbeat was answered when the group had gone on, or was about to. */
  #movedOn: unknown;
  #heartbeat: NodeJS.Timeout | undefined;
  #isPaused = false;
  #isStopping = false;

  constructor(
    kafka: Kafka,
    subscription: Parameters<MessageBus['consume']>[0],
    options: KafkaConsumptionOptions,
    ended: () => void,
  ) {
    this.#kafka = kafka;
    this.#subscription = subscription;
    this.#options = options;
    this.#ended = ended;
  }

  /** Joins the group. Rejects with the cause where that takes too long; it has ended then. */
  async start(): Promise<void> {
    const { startTimeoutMs } = this.#options;
    const { group, topic } = this.#subscription;
    try {
      await within(startTimeoutMs, this.#open(), () => {
        return new Error(`group ${group} could not consume ${topic} within ${startTimeoutMs} ms`);
      });
    } catch (cause) {
      void this.stop();
      throw rootCause(cause);
    }
  }

  pause(): void {
    this.#isPaused = true;
    this.#applyPauses();
  }

  resume(): void {
    this.#isPaused = false;
    this.#applyPauses();
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    for (const { timer } of this.#failed.values()) clearTimeout(timer);
    const consumer = this.#consumer;
    const leaving = consumer === undefined ? Promise.resolve() : this.#end(consumer);
    while (this.#inHand.size > 0) await Promise.all(this.#inHand.values());
    await leaving;
    clearInterval(this.#heartbeat);
    this.#ended();
  }

  async #open(): Promise<void> {
    const { topic, group } = this.#subscription;
    const { sessionTimeoutMs, rebalanceTimeoutMs, heartbeatMs, maxBytes, maxBytesPerPartition } =
      this.#options;
    const consumer = this.#kafka.consumer({
      groupId: group,
      sessionTimeout: sessionTimeoutMs,
      rebalanceTimeout: rebalanceTimeoutMs,
      heartbeatInterval: heartbeatMs,
      maxWaitTimeInMs: LONG_POLL_MS,
      minBytes: 1,
      maxBytes,
      maxBytesPerPartition,
      allowAutoTopicCreation: false,
      retry: { restartOnFailure: async () => !this.#isStopping },
    });
    this.#consumer = consumer;
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      // A restart of kafkajs can outlast its stop.
      if (this.#isStopping) return void this.#end(consumer);
      this.#joined(payload.memberAssignment[topic] ?? []);
    });
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      if (payload.restart || this.#isStopping) return;
      this.#options.onProblem(`consume ${topic} as ${group}`, rootCause(payload.error));
      void this.#openAgain(consumer);
    });
    await consumer.connect();
    await consumer.subscribe({ topics: [topic], fromBeginning: true });
    await consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      partitionsConsumedConcurrently: this.#options.partitions,
      eachBatch: (payload) => this.#takeBatch(payload),
    });
  }

  /** kafkajs gives up on what it takes for final, such as missing rights; an operator may yet mend it. */
  async #openAgain(crashed: Consumer): Promise<void> {
    const { topic, group } = this.#subscription;
    let last = crashed;
    let pauseMs = this.#options.retryMs;
    for (;;) {
      await Promise.all([this.#end(last), delay(pauseMs, undefined, { ref: false })]);
      if (this.#isStopping) return;
      try {
        return await this.#open();
      } catch (cause) {
        this.#options.onProblem(`consume ${topic} as ${group}`, rootCause(cause));
        last = this.#consumer ?? last;
        pauseMs = Math.min(2 * pauseMs, LONGEST_RETRY_MS);
      }
    }
  }

  #joined(partitions: readonly number[]): void {
    this.#generation += 1;
    this.#movedOn = undefined;
    for (const [partition, { timer }] of this.#failed) {
      if (partitions.includes(partition)) continue;
      clearTimeout(timer);
      this.#failed.delete(partition);
    }
    this.#applyPauses();
  }

  /** Says it all every time: kafkajs forgets what is paused when it restarts. */
  #applyPauses(): void {
    const { topic } = this.#subscription;
    if (this.#isStopping) return;
    const all = Array.from({ length: this.#options.partitions }, (_, partition) => partition);
    const isHeld = (partition: number) => this.#isPaused || this.#failed.get(partition)?.timer !== undefined;
    const held = all.filter(isHeld);
    const free = all.filter((partition) => !isHeld(partition));
    try {
      this.#consumer?.pause([{ topic, partitions: held }]);
      this.#consumer?.resume([{ topic, partitions: free }]);
    } catch (cause) {
      // It is between two runs, and asks again when it has joined.
      if (rootCause(cause).name !== 'KafkaJSNonRetriableError') throw cause;
    }
  }

  async #takeBatch(payload: EachBatchPayload): Promise<void> {
    const { partition } = payload.batch;
    const before = this.#inHand.get(partition);
    if (before !== undefined) {
      // Of an earlier generation; what came now is fetched again when that is over.
      await before;
      return;
    }
    if (this.#isPaused || this.#isStopping || this.#failed.get(partition)?.timer !== undefined) {
      this.#applyPauses();
      return;
    }
    const work = this.#work(payload);
    const over = work.then(
      () => {},
      () => {},
    );
    this.#inHand.set(partition, over);
    this.#keepHeartbeats(payload);
    try {
      await work;
      // Out of here kafkajs joins the group again. Left to itself it might not: its own next heartbeat can go well.
      if (this.#movedOn !== undefined && !this.#isStopping) throw this.#movedOn;
    } finally {
      this.#inHand.delete(partition);
      if (this.#inHand.size === 0) {
        clearInterval(this.#heartbeat);
        this.#heartbeat = undefined;
      }
    }
  }

  /** Hands out batch after batch until there is no more, or no more may be handed out. */
  async #work(payload: EachBatchPayload): Promise<void> {
    const { topic, partition, messages } = payload.batch;
    const generation = this.#generation;
    const isOurs = () => generation === this.#generation;
    const turnEnds = performance.now() + TURN_MS;
    for (let at = 0; at < messages.length;) {
      const mayGoOn = !this.#isPaused && !this.#isStopping && this.#movedOn === undefined;
      if (!mayGoOn || !isOurs() || performance.now() > turnEnds) return;
      const batch = messages.slice(at, at + this.#sizeOfBatch(partition, messages, at));
      at += batch.length;
      try {
        await this.#subscription.handle(batch.map((message) => received(topic, partition, message)));
      } catch (cause) {
        this.#options.onProblem(`handle ${topic}/${partition} as ${this.#subscription.group}`, cause);
        if (isOurs()) this.#handOutAgain(partition, batch);
        return;
      }
      this.#failed.delete(partition);
      // Where the group was joined anew meanwhile, the position is the committed one again, and may be another's.
      if (!isOurs()) return;
      const last = batch.at(-1)?.offset ?? '0';
      payload.resolveOffset(last);
      await this.#commit(payload, last, isOurs);
    }
  }

  #sizeOfBatch(partition: number, messages: readonly KafkaMessage[], at: number): number {
    const failed = this.#failed.get(partition);
    if (failed !== undefined && failed.first === messages[at]?.offset) {
      const last = BigInt(failed.last);
      const size = messages.slice(at).findIndex(({ offset }) => BigInt(offset) > last);
      if (size > 0) return size;
    }
    return this.#subscription.maxBatch;
  }

  #handOutAgain(partition: number, batch: readonly KafkaMessage[]): void {
    const first = batch[0]?.offset ?? '0';
    const before = this.#failed.get(partition);
    const pauseMs =
      before?.first === first
        ? Math.min(2 * before.pauseMs, Math.max(LONGEST_RETRY_MS, this.#options.retryMs))
        : this.#options.retryMs;
    const failed: Failed = { first, last: batch.at(-1)?.offset ?? first, pauseMs, timer: undefined };
    this.#failed.set(partition, failed);
    if (this.#isStopping) return;
    failed.timer = setTimeout(() => {
      failed.timer = undefined;
      this.#applyPauses();
    }, pauseMs);
    this.#applyPauses();
  }

  async #commit(payload: EachBatchPayload, last: string, isOurs: () => boolean): Promise<void> {
    const { topic, partition } = payload.batch;
    const offset = `${BigInt(last) + 1n}`;
    for (let attempt = 1; ; attempt += 1) {
      try {
        // The one of kafkajs' two ways to commit that still works while it stops.
        return await payload.commitOffsetsIfNecessary({
          topics: [{ topic, partitions: [{ partition, offset }] }],
        });
      } catch (cause) {
        const { type = '' } = rootCause(cause);
        // Out of here kafkajs sees to it, and joins the group again.
        if (GROUP_MOVED_ON.includes(type) || attempt === COMMIT_ATTEMPTS || !isOurs()) throw cause;
        this.#options.onProblem(`commit ${topic}/${partition}`, rootCause(cause));
        await delay(COMMIT_PAUSE_MS * attempt);
      }
    }
  }

  #keepHeartbeats(payload: EachBatchPayload): void {
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => {
      payload.heartbeat().catch((cause: unknown) => {
        if (GROUP_MOVED_ON.includes(rootCause(cause).type ?? '')) this.#movedOn = cause;
      });
    }, this.#options.heartbeatMs / 2);
  }

  async #end(consumer: Consumer): Promise<void> {
    // kafkajs waits for its handlers, and they may take their time; only then does the clock run.
    const ended = consumer.disconnect();
    ended.catch(() => {});
    while (this.#inHand.size > 0) await Promise.all(this.#inHand.values());
    try {
      await within(STOP_TIMEOUT_MS, ended, () => new Error('it did not end in time'));
    } catch (cause) {
      this.#options.onProblem(`leave group ${this.#subscription.group}`, rootCause(cause));
    }
  }
}

function received(topic: string, partition: number, message: KafkaMessage): ReceivedMessage {
  return {
    topic,
    partition,
    offset: message.offset,
    key: textOf(message.key),
    headers: headersOf(message.headers ?? {}),
    value: textOf(message.value),
  };
}

/** Other producers may leave a key or a value out; for a reader that is an empty one. */
function textOf(bytes: Buffer | string | null | undefined): string {
  return typeof bytes === 'string' ? bytes : (bytes?.toString('utf8') ?? '');
}

/** Kafka allows several values under one name; the first counts. */
function headersOf(headers: IHeaders): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, textOf(Array.isArray(value) ? value[0] : value)]),
  );
}
