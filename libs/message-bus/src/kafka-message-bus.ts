import { setTimeout as delay } from 'node:timers/promises';
import type { Admin, Kafka } from 'kafkajs';
import { kafkaClient, rootCause, within, type KafkaConnection, type OnProblem } from './kafka-client.js';
import { KafkaConsumption } from './kafka-consumption.js';
import { KafkaPublisher } from './kafka-publisher.js';
import { checkTopics, ensureTopics, KAFKA_PARTITIONS, PartitionCountMismatch } from './kafka-topics.js';
import type { BusMessage, Consumption, MessageBus, ReceivedMessage } from './message-bus.js';
import { partitionOf } from './partition.js';

/** How a bus on Kafka behaves; every field but the brokers has a default. */
export interface KafkaBusOptions extends KafkaConnection {
  /** The topics of this bus and how many partitions each has. Default {@link KAFKA_PARTITIONS}. */
  readonly partitions?: Readonly<Record<string, number>>;
  /** How long {@link KafkaMessageBus.open} looks for brokers. Default 30,000. */
  readonly openTimeoutMs?: number;
  /** When a publish gives up. Its messages may be durable all the same. Default 10,000. */
  readonly publishTimeoutMs?: number;
  /** When a request to a broker that is connected but silent is given up and tried again. Default 10,000. */
  readonly requestTimeoutMs?: number;
  /** Most bytes of one partition in a request; below the brokers' `message.max.bytes`. Default 900,000. */
  readonly maxBatchBytes?: number;
  /** The pause after a handler failed. Default 1,000, doubled up to 30,000. */
  readonly retryMs?: number;
  /** After how long a silence a consumer's partitions go to others of its group. Default 30,000. */
  readonly sessionTimeoutMs?: number;
  /** How long a rebalance waits for the batches in hand. Default 60,000. */
  readonly rebalanceTimeoutMs?: number;
  readonly heartbeatMs?: number;
  /** What a consumer holds of one partition; more only for a single batch that is larger. Default 1,048,576. */
  readonly maxBytesPerPartition?: number;
  /** What a consumer holds of all partitions of one broker. Default 8,388,608. */
  readonly maxBytes?: number;
  readonly onProblem?: OnProblem;
}

const DEFAULTS = {
  partitions: KAFKA_PARTITIONS,
  openTimeoutMs: 30_000,
  publishTimeoutMs: 10_000,
  requestTimeoutMs: 10_000,
  maxBatchBytes: 900_000,
  retryMs: 1_000,
  sessionTimeoutMs: 30_000,
  rebalanceTimeoutMs: 60_000,
  heartbeatMs: 3_000,
  maxBytesPerPartition: 1_048_576,
  maxBytes: 8_388_608,
};
type Settings = Required<Omit<KafkaBusOptions, keyof KafkaConnection>>;

const CHECK_TIMEOUT_MS = 5_000;
const OPEN_AGAIN_MS = 250;
/** Publishing and checking have loops of their own round these. */
const FEW_RETRIES = { retries: 2, initialRetryTime: 100, maxRetryTime: 500, factor: 0.2, multiplier: 2 };
/** An outage of a minute is ridden out within the group; after a longer one kafkajs joins as a new member. */
const MANY_RETRIES = { retries: 60, initialRetryTime: 100, maxRetryTime: 1_000, factor: 0.2, multiplier: 2 };

/**
 * The message bus on Kafka.
 *
 * The partition of a key is {@link partitionOf} it, as on every adapter and not as Kafka's own clients choose. All who
 * publish one key to one topic have to choose alike, or it has no order: in a topic that others fill, as
 * `exeunt.ingest.v1`, they may as well choose as their client does by default. A consumer group has one topic.
 * Time is the machine's own here, because the brokers' is.
 *
 * Does not guarantee, beyond the port: that a message which no group has read is kept for longer than its topic's
 * retention; that half surrogate pairs in keys and headers survive.
 */
export class KafkaMessageBus implements MessageBus {
  readonly #settings: Settings;
  readonly #connection: KafkaConnection;
  /** For what has a loop and a deadline of its own, and for consumers. */
  readonly #impatient: Kafka;
  readonly #patient: Kafka;
  readonly #publisher: KafkaPublisher;
  readonly #running = new Map<string, KafkaConsumption>();
  #admin: Admin | undefined;
  #checking: Promise<void> | undefined;
  /** What kafkajs complained of last while a check or a start was under way. */
  #complaint: unknown;
  #isClosed = false;

  private constructor(options: KafkaBusOptions) {
    const { brokers: _brokers, ssl: _ssl, sasl: _sasl, clientId: _id, socketFactory: _f, ...given } = options;
    const settings: Settings = { ...DEFAULTS, onProblem: () => {}, ...given };
    const noting: OnProblem = (what, cause) => {
      this.#complaint = cause;
      settings.onProblem(what, cause);
    };
    for (const [topic, count] of Object.entries(settings.partitions)) {
      if (!Number.isInteger(count) || count < 1) throw new RangeError(`${topic} has at least one partition`);
    }
    const { requestTimeoutMs, onProblem } = settings;
    this.#settings = settings;
    this.#connection = options;
    this.#impatient = kafkaClient(options, { requestTimeoutMs, retry: FEW_RETRIES, onProblem: noting });
    this.#patient = kafkaClient(options, { requestTimeoutMs, retry: MANY_RETRIES, onProblem });
    this.#publisher = new KafkaPublisher(this.#impatient, settings);
  }

  /**
   * Connects, and creates the topics that are missing.
   *
   * @throws {PartitionCountMismatch} when a topic has another number of partitions than is configured, with the way out
   * @throws with the cause when no broker lets us in within `openTimeoutMs`
   */
  static async open(options: KafkaBusOptions): Promise<KafkaMessageBus> {
    const bus = new KafkaMessageBus(options);
    try {
      await bus.#open();
      return bus;
    } catch (cause) {
      await bus.close();
      throw cause;
    }
  }

  async publish(messages: readonly BusMessage[]): Promise<void> {
    if (this.#isClosed) throw new Error('the message bus is closed');
    await this.#publisher.publish(
      messages.map((message) => ({
        ...message,
        partition: partitionOf(message.key, this.partitions(message.topic)),
      })),
    );
  }

  async consume(options: {
    readonly topic: string;
    readonly group: string;
    readonly maxBatch: number;
    readonly handle: (batch: readonly ReceivedMessage[]) => Promise<void>;
  }): Promise<Consumption> {
    if (this.#isClosed) throw new Error('the message bus is closed');
    if (!Number.isInteger(options.maxBatch) || options.maxBatch < 1) {
      throw new RangeError('a batch holds at least one message');
    }
    const partitions = this.partitions(options.topic);
    if (this.#running.has(options.group)) {
      throw new Error(`group ${options.group} consumes in this process already`);
    }
    // Where a member has died without a word, the group lets nobody in before that one's session has ended.
    const startTimeoutMs = this.#settings.openTimeoutMs + this.#settings.sessionTimeoutMs;
    const settings = { ...this.#settings, partitions, startTimeoutMs };
    const consumption: KafkaConsumption = new KafkaConsumption(this.#patient, options, settings, () => {
      if (this.#running.get(options.group) === consumption) this.#running.delete(options.group);
    });
    this.#running.set(options.group, consumption);
    await consumption.start();
    return consumption;
  }

  /** @throws when the topic is none of this bus */
  partitions(topic: string): number {
    const count = this.#settings.partitions[topic];
    if (count === undefined) throw new Error(`${topic} is no topic of this message bus`);
    return count;
  }

  async check(): Promise<void> {
    if (this.#isClosed) throw new Error('the message bus is closed');
    this.#checking ??= this.#check(CHECK_TIMEOUT_MS).finally(() => {
      this.#checking = undefined;
    });
    await this.#checking;
  }

  /** Ends every consumption as `stop` does, settles what is being published, and disconnects. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all([...this.#running.values()].map((consumption) => consumption.stop()));
    await this.#publisher.close();
    await this.#checking?.catch(() => {});
    await this.#forgetAdmin();
  }

  async #open(): Promise<void> {
    const { openTimeoutMs, partitions } = this.#settings;
    const deadline = performance.now() + openTimeoutMs;
    for (;;) {
      const leftMs = Math.max(0, deadline - performance.now());
      try {
        await this.#withAdmin(leftMs, (admin) => ensureTopics(admin, partitions, deadline));
        await within(leftMs, this.#publisher.connect(), this.#late(leftMs));
        return;
      } catch (cause) {
        if (cause instanceof PartitionCountMismatch) throw cause;
        if (performance.now() + OPEN_AGAIN_MS > deadline) {
          const brokers = this.#connection.brokers.join(', ');
          throw new Error(`Kafka at ${brokers} can't be used: ${rootCause(cause).message}`, { cause });
        }
      }
      await delay(OPEN_AGAIN_MS);
    }
  }

  async #check(timeoutMs: number): Promise<void> {
    await this.#withAdmin(timeoutMs, (admin) => checkTopics(admin, this.#settings.partitions));
  }

  /** A client that has failed is not used again: kafkajs can keep a dead connection for long. */
  async #withAdmin(timeoutMs: number, work: (admin: Admin) => Promise<void>): Promise<void> {
    const admin = (this.#admin ??= this.#impatient.admin());
    this.#complaint = undefined;
    try {
      await within(
        timeoutMs,
        admin.connect().then(() => work(admin)),
        this.#late(timeoutMs),
      );
    } catch (cause) {
      void this.#forgetAdmin();
      throw rootCause(cause);
    }
  }

  async #forgetAdmin(): Promise<void> {
    const admin = this.#admin;
    this.#admin = undefined;
    await admin?.disconnect().catch((cause: unknown) => {
      this.#settings.onProblem('disconnect from Kafka', cause);
    });
  }

  #late(ms: number): () => Error {
    return () => {
      const why = this.#complaint === undefined ? '' : `: ${rootCause(this.#complaint).message}`;
      return new Error(`no answer within ${Math.round(ms)} ms${why}`);
    };
  }
}
