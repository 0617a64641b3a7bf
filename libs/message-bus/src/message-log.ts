import type { BusMessage, ReceivedMessage } from './message-bus.js';

/** A message that has been given its partition. */
export interface PlacedMessage extends BusMessage {
  readonly partition: number;
}

/** One group's place in one partition. */
export interface Place {
  readonly topic: string;
  readonly partition: number;
  readonly group: string;
}

/**
 * Where a bus of one process keeps its messages: a log a partition and a cursor a group.
 *
 * Guarantees: offsets of a partition have no gap, and one that can be read has no lower one that appears later.
 */
export interface MessageLog {
  /** All of them or none, in the order given. */
  append(messages: readonly PlacedMessage[]): Promise<void>;
  /** Highest partition of the topic that has ever held a message, plus one. */
  partitionsUsed(topic: string): Promise<number>;
  /** The offset that the group has to read next; makes the group known, so that its messages are kept. */
  cursor(place: Place): Promise<number>;
  /** The oldest messages from the offset on. */
  read(place: Place, from: number, limit: number): Promise<readonly ReceivedMessage[]>;
  /** Moves the cursor; `false` where it is not at `from`, because somebody else moved it. */
  commit(place: Place, from: number, to: number): Promise<boolean>;
  /** Resolves if the log can be written to. */
  check(): Promise<void>;
}
