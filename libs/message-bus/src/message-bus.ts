/** What is published: the value with its CloudEvents attributes as headers. */
export interface BusMessage {
  readonly topic: string;
  /** Messages of one key keep their order. */
  readonly key: string;
  readonly headers: Readonly<Record<string, string>>;
  /** JSON text. */
  readonly value: string;
}

/** A message as a consumer gets it. */
export interface ReceivedMessage extends BusMessage {
  readonly partition: number;
  /** Grows within (topic, partition). A decimal string. */
  readonly offset: string;
}

/** A running consumer. */
export interface Consumption {
  /** Hands out nothing until {@link resume}; what is being handled goes on. */
  pause(): void;
  resume(): void;
  /** Waits for the batch that is being handled, commits it, and ends. */
  stop(): Promise<void>;
}

/**
 * Where facts go from the room log to everyone else: at least once, in order per key.
 *
 * Guarantees: what {@link publish} resolved for survives a kill; messages of one key in one topic are handed to a
 * group in the order they were published; a batch is handed out again, to this or another process, until its
 * handler resolves. Does not guarantee: that a message comes once, nor any order between keys.
 */
export interface MessageBus {
  /** Resolves when all are durable, in the order given. Rejects with the cause after the adapter's own deadline. */
  publish(messages: readonly BusMessage[]): Promise<void>;
  /**
   * Starts to hand a topic's messages to `handle`, a batch of one partition at a time. A handler that rejects gets
   * the same batch again after a pause. A group starts at the oldest message.
   */
  consume(options: {
    readonly topic: string;
    readonly group: string;
    readonly maxBatch: number;
    readonly handle: (batch: readonly ReceivedMessage[]) => Promise<void>;
  }): Promise<Consumption>;
  /** How many partitions a topic has: what a publisher hashes its keys into. */
  partitions(topic: string): number;
  /** Resolves if the bus can take a message now, rejects with the reason otherwise. */
  check(): Promise<void>;
  close(): Promise<void>;
}
