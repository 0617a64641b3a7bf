import {
  deadLetterOf,
  OUTBOUND_PDUS_TOPIC,
  systemClock,
  type Clock,
  type Consumption,
  type MessageBus,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import type { DestinationQueue } from './destination-queue.js';
import { readOutboundPdu, type OutboundPdu } from './outbound-pdu.js';

/** The consumer group of the sender. */
export const SENDER_GROUP = 'exeunt-federation-sender';

export interface OutboundPdusConsumerOptions {
  readonly bus: Pick<MessageBus, 'consume' | 'publish'>;
  readonly queue: Pick<DestinationQueue, 'enqueue'>;
  readonly clock?: Clock;
  /** Messages written in one go. Default 100. */
  readonly maxBatch?: number;
  /** Called after new PDUs are durable, so that the sender looks at once. */
  readonly onQueued?: () => void;
  /** Told of each message that went to the dead-letter topic. */
  readonly onUnreadable?: (message: ReceivedMessage, reason: string) => void;
}

/**
 * Turns `exeunt.outbound-pdus.v1` into rows a PDU and destination. The rows are durable before the bus learns that
 * the messages were handled; repeats change nothing; a message that can't be read goes to the dead-letter topic with
 * the reason, and the others go on.
 */
export class OutboundPdusConsumer {
  readonly #options: OutboundPdusConsumerOptions;
  #consumption: Consumption | undefined;

  constructor(options: OutboundPdusConsumerOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    this.#consumption ??= await this.#options.bus.consume({
      topic: OUTBOUND_PDUS_TOPIC,
      group: SENDER_GROUP,
      maxBatch: this.#options.maxBatch ?? 100,
      handle: (batch) => this.handle(batch),
    });
  }

  /** Waits for the batch in hand. */
  async stop(): Promise<void> {
    await this.#consumption?.stop();
    this.#consumption = undefined;
  }

  /** One batch, in order. Rejects where it may not be taken as handled. */
  async handle(batch: readonly ReceivedMessage[]): Promise<void> {
    const now = (this.#options.clock ?? systemClock).now();
    const readable: OutboundPdu[] = [];
    const unreadable: { readonly message: ReceivedMessage; readonly reason: string }[] = [];
    for (const message of batch) {
      const read = readOutboundPdu(message);
      if ('unreadable' in read) unreadable.push({ message, reason: read.unreadable });
      else readable.push(read);
    }
    if (unreadable.length > 0) {
      await this.#options.bus.publish(
        unreadable.map(({ message, reason }) => deadLetterOf(message, reason, SENDER_GROUP, now)),
      );
      for (const { message, reason } of unreadable) this.#options.onUnreadable?.(message, reason);
    }
    const fresh = await this.#options.queue.enqueue(readable, now);
    if (fresh > 0) this.#options.onQueued?.();
  }
}
