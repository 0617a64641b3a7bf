import type { DestinationQueue } from './destination-queue.js';

export interface DestinationWakesOptions {
  readonly queue: Pick<DestinationQueue, 'contact'>;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** A destination is woken at most so often. Default 5,000. */
  readonly everyMs?: number;
  readonly onProblem?: (what: string, cause: unknown) => void;
}

/** Destinations remembered at once. */
const MAX_WOKEN = 10_000;

/**
 * Wakes destinations for a sender in another process, which finds them due when it looks next: within a second. One
 * statement at a time, and at most one an interval and destination; one that fails is left for the next request.
 * (TX-05)
 */
export class DestinationWakes {
  readonly #options: DestinationWakesOptions;
  readonly #wokenAt = new Map<string, number>();
  readonly #wakes = new Set<string>();
  #passing: Promise<void> | undefined;

  constructor(options: DestinationWakesOptions) {
    this.#options = options;
  }

  /** The destination made an authenticated request to us. Can be called for every request. */
  wake(destination: string): void {
    const now = this.#options.now();
    const last = this.#wokenAt.get(destination);
    if (last !== undefined && now - last < (this.#options.everyMs ?? 5_000)) return;
    if (this.#wokenAt.size >= MAX_WOKEN) this.#wokenAt.clear();
    if (this.#wakes.size >= MAX_WOKEN) return;
    this.#wokenAt.set(destination, now);
    this.#wakes.add(destination);
    this.#passing ??= this.#pass().finally(() => (this.#passing = undefined));
  }

  /** Waits for what is being passed on. */
  async stop(): Promise<void> {
    await this.#passing;
  }

  async #pass(): Promise<void> {
    while (this.#wakes.size > 0) {
      const destinations = [...this.#wakes];
      this.#wakes.clear();
      try {
        await this.#options.queue.contact(destinations, this.#options.now());
      } catch (cause) {
        for (const destination of destinations) this.#wokenAt.delete(destination);
        this.#options.onProblem?.('wake destinations', cause);
      }
    }
  }
}
