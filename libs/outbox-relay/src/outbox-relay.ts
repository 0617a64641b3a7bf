import { setImmediate } from 'node:timers/promises';
import type { Outbox, OutboxEntry } from '@exeunt/event-store';
import { Alarm, systemClock, type Clock, type MessageBus } from '@exeunt/message-bus';
import { noTracing, parseTraceparent, SpanKind, SpanStatusCode, type Tracing } from '@exeunt/tracing';
import { messagesFor } from './messages-for.js';

export interface OutboxRelayOptions {
  readonly outbox: Outbox;
  readonly bus: Pick<MessageBus, 'publish' | 'partitions'>;
  /** Entries published at once. Default 100. */
  readonly maxBatch?: number;
  /**
   * From one batch to the next it waits this long, unless the first was full: a stream of entries then goes in few
   * large batches, which cost a fraction, while one that comes alone goes at once. Default 0.
   */
  readonly paceMs?: number;
  /** How often it looks for what another process has put in. Default 1,000. */
  readonly pollMs?: number;
  /** The pause after a failure, doubled at each further one up to `maxBackoffMs`. Defaults 200 and 30,000. */
  readonly minBackoffMs?: number;
  readonly maxBackoffMs?: number;
  readonly clock?: Clock;
  /** At least 0, less than 1; jitters the pauses. */
  readonly random?: () => number;
  /** Told of a batch that is durable in the bus. */
  readonly onRelayed?: (entries: readonly OutboxEntry[]) => void;
  /** Where the span of each batch goes, with a link to each entry's trace; nowhere by default. */
  readonly tracing?: Tracing;
  /** Told of everything that went wrong and is tried again. */
  readonly onProblem?: (what: string, cause: unknown) => void;
}

/**
 * Carries accepted PDUs from the outbox to the bus: at least once, each room's in order. An entry leaves the outbox
 * after all its messages are durable in the bus; a failure in between publishes it again with the same `ce_id`s.
 * Several relays on one outbox do the work several times, but whoever ignores repeats still sees each room's order: a
 * batch begins with the oldest entry that is not done, so nothing comes before what precedes it has come once.
 */
export class OutboxRelay {
  readonly #options: OutboxRelayOptions;
  readonly #clock: Clock;
  /** Entries and polls; and the end alone, for a new entry must not cut the pause after a failure short. */
  readonly #news = new Alarm();
  readonly #end = new Alarm();
  #running: Promise<void> | undefined;
  #stopping = false;

  constructor(options: OutboxRelayOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Starts to relay; does nothing while it does. */
  start(): void {
    if (this.#running !== undefined) return;
    this.#stopping = false;
    const unsubscribe = this.#options.outbox.onEntry(() => this.#news.ring());
    this.#running = this.#run().finally(unsubscribe);
  }

  /** Waits for the batch in hand; one that has failed is left for the next start. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#news.ring();
    this.#end.ring();
    await this.#running;
    this.#running = undefined;
  }

  async #run(): Promise<void> {
    const {
      maxBatch = 100,
      paceMs = 0,
      pollMs = 1_000,
      minBackoffMs = 200,
      maxBackoffMs = 30_000,
    } = this.#options;
    const random = this.#options.random ?? Math.random;
    let failures = 0;
    while (!this.#stopping) {
      try {
        const begun = this.#clock.now();
        const relayed = await this.#relay(maxBatch);
        failures = 0;
        // PGlite answers without the event loop turning: everything else would wait for the whole backlog.
        await setImmediate();
        if (relayed < maxBatch && !this.#stopping) await this.#news.wait(this.#clock, pollMs);
        const paceLeftMs = begun + paceMs - this.#clock.now();
        if (relayed > 0 && relayed < maxBatch && paceLeftMs > 0 && !this.#stopping) {
          await this.#end.wait(this.#clock, paceLeftMs);
        }
      } catch (cause) {
        this.#options.onProblem?.('relay the outbox', cause);
        const ceiling = Math.min(maxBackoffMs, minBackoffMs * 2 ** Math.min(failures, 30));
        failures += 1;
        if (!this.#stopping) await this.#end.wait(this.#clock, ceiling * (0.5 + random() / 2));
      }
    }
  }

  async #relay(maxBatch: number): Promise<number> {
    const { outbox, bus, tracing = noTracing } = this.#options;
    const entries = await outbox.take(maxBatch);
    if (entries.length === 0) return 0;
    const span = tracing.begin('relay outbox', {
      kind: SpanKind.PRODUCER,
      links: entries.flatMap(({ traceparent }) => parseTraceparent(traceparent) ?? []),
      attributes: { 'messaging.batch.message_count': entries.length },
    });
    try {
      const messages = entries.flatMap((entry) => messagesFor(entry, (topic) => bus.partitions(topic)));
      await bus.publish(messages);
      this.#options.onRelayed?.(entries);
      await outbox.done(entries);
    } catch (cause) {
      span.setStatus({ code: SpanStatusCode.ERROR });
      throw cause;
    } finally {
      span.end();
    }
    return entries.length;
  }
}
