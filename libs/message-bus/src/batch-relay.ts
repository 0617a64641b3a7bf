import { setImmediate } from 'node:timers/promises';
import { Alarm, systemClock, type Clock } from './clock.js';

/** How a relay paces itself; every field has a default. */
export interface RelayPace {
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
  /** Told of everything that went wrong and is tried again. */
  readonly onProblem?: (what: string, cause: unknown) => void;
}

/** What is relayed, and from where. */
export interface RelaySource {
  /** For {@link RelayPace.onProblem}. */
  readonly what: string;
  /** Calls `listener` whenever this process has put something in; gives back how to stop. */
  onEntry(listener: () => void): () => void;
  /**
   * Publishes the oldest entries, at most `limit`, and then takes them away; gives how many there were. A failure in
   * between leaves them for the next time.
   */
  relay(limit: number): Promise<number>;
}

/** Relays batch after batch from when it is started until it is stopped, and tries again what fails, later each time. */
export class BatchRelay {
  readonly #source: RelaySource;
  readonly #pace: RelayPace;
  readonly #clock: Clock;
  /** Entries and polls; and the end alone, for a new entry must not cut the pause after a failure short. */
  readonly #news = new Alarm();
  readonly #end = new Alarm();
  #running: Promise<void> | undefined;
  #stopping = false;

  constructor(source: RelaySource, pace: RelayPace) {
    this.#source = source;
    this.#pace = pace;
    this.#clock = pace.clock ?? systemClock;
  }

  /** Starts to relay; does nothing while it does. */
  start(): void {
    if (this.#running !== undefined) return;
    this.#stopping = false;
    const unsubscribe = this.#source.onEntry(() => this.#news.ring());
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
      random = Math.random,
    } = this.#pace;
    let failures = 0;
    while (!this.#stopping) {
      try {
        const begun = this.#clock.now();
        const relayed = await this.#source.relay(maxBatch);
        failures = 0;
        // PGlite answers without the event loop turning: everything else would wait for the whole backlog.
        await setImmediate();
        if (relayed < maxBatch && !this.#stopping) await this.#news.wait(this.#clock, pollMs);
        const paceLeftMs = begun + paceMs - this.#clock.now();
        if (relayed > 0 && relayed < maxBatch && paceLeftMs > 0 && !this.#stopping) {
          await this.#end.wait(this.#clock, paceLeftMs);
        }
      } catch (cause) {
        this.#pace.onProblem?.(this.#source.what, cause);
        const ceiling = Math.min(maxBackoffMs, minBackoffMs * 2 ** Math.min(failures, 30));
        failures += 1;
        if (!this.#stopping) await this.#end.wait(this.#clock, ceiling * (0.5 + random() / 2));
      }
    }
  }
}
