import { setTimeout as delay } from 'node:timers/promises';
import type { Kafka, Message, Producer } from 'kafkajs';
import { rootCause, within, type OnProblem } from './kafka-client.js';
import type { PlacedMessage } from './message-log.js';

export interface KafkaPublisherOptions {
  readonly publishTimeoutMs: number;
  /** When a request to a silent broker is given up. */
  readonly requestTimeoutMs: number;
  /** Most bytes of one partition in one request; the broker's `message.max.bytes` is the limit of that. */
  readonly maxBatchBytes: number;
  readonly onProblem: OnProblem;
}

/** Bounds of one request over all its partitions. */
const MOST_REQUEST_BYTES = 16_000_000;
const MOST_REQUEST_MESSAGES = 2_000;
/** What a record needs besides key, value and headers, amply. */
const RECORD_OVERHEAD_BYTES = 64;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 1_000;

/** The broker will never take these bytes, whoever sends them and however often. */
const REFUSALS = ['MESSAGE_TOO_LARGE', 'RECORD_LIST_TOO_LARGE', 'INVALID_TIMESTAMP', 'INVALID_RECORD'];
/** The broker has forgotten this producer, or holds another sequence of it. */
const LOST_SEQUENCE = [
  'OUT_OF_ORDER_SEQUENCE_NUMBER',
  'DUPLICATE_SEQUENCE_NUMBER',
  'UNKNOWN_PRODUCER_ID',
  'INVALID_PRODUCER_EPOCH',
];

/** One call of `publish` until it is settled. */
interface Publication {
  left: number;
  isSettled: boolean;
  resolve(): void;
  reject(cause: Error): void;
}

interface Waiting {
  readonly message: PlacedMessage;
  readonly bytes: number;
  readonly publication: Publication;
}

/**
 * Publishes in the order it was asked to, one request at a time; what is asked for meanwhile makes up the next request.
 *
 * A request whose outcome is unknown is repeated, unchanged and by the same producer, until it is known: the broker then
 * recognises what it has already taken, and nothing that was asked for later can overtake it. That goes on after the
 * caller's deadline, so a rejected publish may become durable later on, but always before whatever was published after
 * it.
 */
export class KafkaPublisher {
  readonly #kafka: Kafka;
  readonly #options: KafkaPublisherOptions;
  #queue: Waiting[] = [];
  #sending: Promise<void> = Promise.resolve();
  #isSending = false;
  #isClosed = false;
  /** Set once the broker has given it an identity: a kafkajs producer without one sends as well, but not idempotently. */
  #producer: Producer | undefined;
  #lastProblem: Error | undefined;

  constructor(kafka: Kafka, options: KafkaPublisherOptions) {
    this.#kafka = kafka;
    this.#options = options;
  }

  /** Connects ahead of the first message. */
  async connect(): Promise<void> {
    await this.#ready();
  }

  /** Resolves when all are durable; rejects with the cause at the deadline, or when the broker refuses them. */
  async publish(messages: readonly PlacedMessage[]): Promise<void> {
    if (this.#isClosed) throw new Error('the message bus is closed');
    if (messages.length === 0) return;
    const { publishTimeoutMs } = this.#options;
    await new Promise<void>((resolve, reject) => {
      const settle = (then: () => void) => {
        if (publication.isSettled) return;
        publication.isSettled = true;
        clearTimeout(timer);
        then();
      };
      const publication: Publication = {
        left: messages.length,
        isSettled: false,
        resolve: () => settle(resolve),
        reject: (cause) => settle(() => reject(cause)),
      };
      const timer = setTimeout(() => {
        const why = this.#lastProblem === undefined ? '' : `: ${this.#lastProblem.message}`;
        publication.reject(
          new Error(`publish had no answer of Kafka within ${publishTimeoutMs} ms${why}`, {
            cause: this.#lastProblem,
          }),
        );
        this.#queue = this.#queue.filter((waiting) => waiting.publication !== publication);
      }, publishTimeoutMs);
      for (const message of messages) {
        this.#queue.push({ message, bytes: sizeOf(message), publication });
      }
      if (!this.#isSending) {
        this.#isSending = true;
        this.#sending = this.#run();
      }
    });
  }

  /** Takes nothing more; what it has taken is settled by then, at its deadline at the latest. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#sending;
    await this.#disconnect();
  }

  async #run(): Promise<void> {
    // Publishers that were woken together make one request.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const request = this.#take();
      try {
        await this.#send(request);
      } catch (cause) {
        // A bug of ours; the next ones must not wait for ever because of it.
        for (const { publication } of request) this.#giveUp(publication, cause as Error);
        await this.#disconnect();
      }
    }
    this.#isSending = false;
  }

  /** The oldest messages that fit into one request, without a gap. */
  #take(): Waiting[] {
    const ofPartition = new Map<string, number>();
    let bytes = 0;
    let count = 0;
    for (const waiting of this.#queue) {
      const place = `${waiting.message.topic}/${waiting.message.partition}`;
      const together = (ofPartition.get(place) ?? 0) + waiting.bytes;
      const isFull =
        together > this.#options.maxBatchBytes ||
        bytes + waiting.bytes > MOST_REQUEST_BYTES ||
        count === MOST_REQUEST_MESSAGES;
      if (count > 0 && isFull) break;
      ofPartition.set(place, together);
      bytes += waiting.bytes;
      count += 1;
    }
    return this.#queue.splice(0, count);
  }

  /** Until its outcome is known. */
  async #send(request: readonly Waiting[]): Promise<void> {
    const topicMessages = byTopic(request);
    let pauseMs = FIRST_PAUSE_MS;
    for (;;) {
      let failure: ReturnType<typeof rootCause>;
      try {
        const producer = await this.#ready();
        await producer.sendBatch({
          acks: -1,
          timeout: this.#options.requestTimeoutMs,
          topicMessages,
        });
        this.#lastProblem = undefined;
        for (const { publication } of request) {
          publication.left -= 1;
          if (publication.left === 0) publication.resolve();
        }
        return;
      } catch (cause) {
        failure = rootCause(cause);
      }
      this.#lastProblem = failure;
      const type = failure.type ?? '';
      const publications = [...new Set(request.map(({ publication }) => publication))];
      if (REFUSALS.includes(type)) {
        // kafkajs takes the sequence numbers of the whole request back though other partitions have taken theirs. The
        // next request would get the same numbers, and the broker would drop it as a repeat: another producer.
        await this.#disconnect();
        if (publications.length > 1) return await this.#sendApart(request, publications);
        const refusal = new Error(`Kafka refuses the message: ${failure.message}`, { cause: failure });
        for (const publication of publications) this.#giveUp(publication, refusal);
        return;
      }
      this.#options.onProblem('publish to Kafka', failure);
      if (LOST_SEQUENCE.includes(type)) await this.#disconnect();
      else await this.#reconnect();
      const nobodyWaits = publications.every((publication) => publication.isSettled);
      if (nobodyWaits && (this.#isClosed || isAnswer(failure))) {
        await this.#disconnect();
        return;
      }
      await delay(pauseMs);
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
  }

  /** One of several is refused: each alone, so that the others don't fail with it. */
  async #sendApart(request: readonly Waiting[], publications: readonly Publication[]): Promise<void> {
    for (const publication of publications) {
      if (publication.isSettled) continue;
      await this.#send(request.filter((waiting) => waiting.publication === publication));
    }
  }

  #giveUp(publication: Publication, cause: Error): void {
    publication.reject(cause);
    this.#queue = this.#queue.filter((waiting) => waiting.publication !== publication);
  }

  async #ready(): Promise<Producer> {
    if (this.#producer !== undefined) {
      // Does nothing while it is connected.
      await this.#producer.connect();
      return this.#producer;
    }
    const producer = this.#kafka.producer({
      idempotent: true,
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
      createPartitioner: () => partitionAsPlaced,
    });
    try {
      await producer.connect();
    } catch (cause) {
      await this.#end(producer);
      throw cause;
    }
    this.#producer = producer;
    return producer;
  }

  /** The same producer on new connections: kafkajs keeps one on which a broker has gone silent. */
  async #reconnect(): Promise<void> {
    if (this.#producer !== undefined) await this.#end(this.#producer);
  }

  /** The next request is another producer's. */
  async #disconnect(): Promise<void> {
    const producer = this.#producer;
    this.#producer = undefined;
    if (producer !== undefined) await this.#end(producer);
  }

  async #end(producer: Producer): Promise<void> {
    const { requestTimeoutMs } = this.#options;
    try {
      await within(2 * requestTimeoutMs, producer.disconnect(), () => new Error('no end of a connection'));
    } catch (cause) {
      this.#options.onProblem('disconnect from Kafka', cause);
    }
  }
}

/** Whether a broker said this, so that nothing of the request is under way any more. */
function isAnswer(failure: { readonly name: string }): boolean {
  return failure.name === 'KafkaJSProtocolError';
}

function partitionAsPlaced({ message }: { readonly message: Message }): number {
  if (message.partition === undefined) throw new Error('a message has been given no partition');
  return message.partition;
}

function byTopic(request: readonly Waiting[]): { topic: string; messages: Message[] }[] {
  const topics = new Map<string, Message[]>();
  for (const { message } of request) {
    const messages = topics.get(message.topic) ?? [];
    messages.push(recordOf(message));
    topics.set(message.topic, messages);
  }
  return [...topics].map(([topic, messages]) => ({ topic, messages }));
}

function recordOf({ key, partition, headers, value }: PlacedMessage): Message {
  return { key, partition, headers: { ...headers }, value: wellFormedJson(value) };
}

/**
 * JSON text without half surrogate pairs, which UTF-8 has no bytes for. They can stand in JSON's strings only, where an
 * escape says the same.
 */
function wellFormedJson(value: string): string {
  if (value.isWellFormed()) return value;
  return value.replace(/\p{Surrogate}/gu, (half) => `\\u${half.charCodeAt(0).toString(16)}`);
}

function sizeOf({ key, headers, value }: PlacedMessage): number {
  const texts = [key, value, ...Object.entries(headers).flat()];
  return texts.reduce((bytes, text) => bytes + Buffer.byteLength(text), RECORD_OVERHEAD_BYTES);
}
