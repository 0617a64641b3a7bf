import { setImmediate } from 'node:timers/promises';
import { Alarm, systemClock, type Clock, type MessageBus } from '@exeunt/message-bus';
import { isFactForTheBus, messageOf } from './facts.js';
import type { LeavingStore } from './leaving-store.js';

export interface LeavingFactsRelayOptions {
  readonly store: Pick<LeavingStore, 'toTell' | 'told' | 'onAppend'>;
  readonly bus: Pick<MessageBus, 'publish'>;
  readonly maxBatch?: number;
  /** How often it looks for what another process has put in. Default 1,000. */
  readonly pollMs?: number;
  readonly clock?: Clock;
  readonly onProblem?: (what: string, cause: unknown) => void;
}

/** The pause after a failure. */
const troubleMs = 1_000;

/**
 * Tells the bus the facts of the leaving side: at least once, those of a stream in order, and only what is durable. A
 * repeat has the same `ce_id`.
 */
export class LeavingFactsRelay {
  readonly #options: LeavingFactsRelayOptions;
  readonly #clock: Clock;
  readonly #news = new Alarm();
  readonly #end = new Alarm();
  #running: Promise<void> | undefined;
  #stopping = false;

  constructor(options: LeavingFactsRelayOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Starts to relay; does nothing while it does. */
  start(): void {
    if (this.#running !== undefined) return;
    this.#stopping = false;
    const unsubscribe = this.#options.store.onAppend(() => this.#news.ring());
    this.#running = this.#run().finally(unsubscribe);
  }

  /** Waits for the batch in hand. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#news.ring();
    this.#end.ring();
    await this.#running;
    this.#running = undefined;
  }

  async #run(): Promise<void> {
    const { maxBatch = 100, pollMs = 1_000 } = this.#options;
    while (!this.#stopping) {
      try {
        const told = await this.#relay(maxBatch);
        await setImmediate();
        if (told < maxBatch && !this.#stopping) await this.#news.wait(this.#clock, pollMs);
      } catch (cause) {
        this.#options.onProblem?.('tell the bus of leaves', cause);
        if (!this.#stopping) await this.#end.wait(this.#clock, troubleMs);
      }
    }
  }

  async #relay(maxBatch: number): Promise<number> {
    const { store, bus } = this.#options;
    const facts = await store.toTell(maxBatch);
    if (facts.length === 0) return 0;
    await bus.publish(
      facts.flatMap(({ event, position, ...key }) =>
        isFactForTheBus(event) ? [messageOf(key, position, event)] : [],
      ),
    );
    await store.told(facts);
    return facts.length;
  }
}
