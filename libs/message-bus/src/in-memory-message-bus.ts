import { LogMessageBus, type LogBusOptions } from './log-message-bus.js';
import type { ReceivedMessage } from './message-bus.js';
import type { MessageLog, PlacedMessage, Place } from './message-log.js';

/** Messages and cursors in memory. Hand it to a second bus to act out a restart. */
export class InMemoryMessageLog implements MessageLog {
  readonly #partitions = new Map<string, ReceivedMessage[]>();
  readonly #cursors = new Map<string, number>();

  async append(messages: readonly PlacedMessage[]): Promise<void> {
    for (const message of messages) {
      const partition = this.#partition(message.topic, message.partition);
      partition.push({ ...message, headers: { ...message.headers }, offset: String(partition.length) });
    }
  }

  async partitionsUsed(topic: string): Promise<number> {
    const used = [...this.#partitions.values()].flat().filter((message) => message.topic === topic);
    return used.reduce((most, message) => Math.max(most, message.partition + 1), 0);
  }

  async cursor(place: Place): Promise<number> {
    return this.#cursors.get(nameOf(place)) ?? 0;
  }

  async read(place: Place, from: number, limit: number): Promise<readonly ReceivedMessage[]> {
    return this.#partition(place.topic, place.partition).slice(from, from + limit);
  }

  async commit(place: Place, from: number, to: number): Promise<boolean> {
    if ((await this.cursor(place)) !== from) return false;
    this.#cursors.set(nameOf(place), to);
    return true;
  }

  async check(): Promise<void> {}

  #partition(topic: string, partition: number): ReceivedMessage[] {
    const name = JSON.stringify([topic, partition]);
    const messages = this.#partitions.get(name) ?? [];
    this.#partitions.set(name, messages);
    return messages;
  }
}

function nameOf(place: Place): string {
  return JSON.stringify([place.topic, place.partition, place.group]);
}

/**
 * A bus for tests: the contract of {@link MessageBus}, but what was published lives as long as the log that is
 * handed in, and nothing is ever pruned.
 */
export class InMemoryMessageBus extends LogMessageBus {
  constructor(options: LogBusOptions & { readonly log?: InMemoryMessageLog } = {}) {
    super(options.log ?? new InMemoryMessageLog(), options);
  }
}
