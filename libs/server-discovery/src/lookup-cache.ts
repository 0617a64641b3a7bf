import { LRUCache } from 'lru-cache';

/** What a look-up found, and how long that is good. */
export interface Found<V> {
  readonly value: V;
  /** From the time when the look-up ended. */
  readonly lifetimeMs: number;
  /** Counts toward the failures in a row that the next look-up hears of. */
  readonly isFailure: boolean;
}

interface Entry<V> {
  readonly value: V;
  readonly untilTs: number;
  readonly failures: number;
}

/**
 * Results of look-ups by name, the failed ones too; the one not used for longest goes when there are too many.
 * Look-ups of one name at the same time are one look-up.
 */
export class LookupCache<V> {
  readonly #entries: LRUCache<string, Entry<V>>;
  readonly #underWay = new Map<string, Promise<V>>();
  readonly #now: () => number;

  constructor(maxEntries: number, now: () => number) {
    this.#entries = new LRUCache({ max: maxEntries });
    this.#now = now;
  }

  /** `lookUp` hears how often in a row this name has failed, and must settle in bounded time. */
  get(name: string, lookUp: (failuresBefore: number) => Promise<Found<V>>): Promise<V> {
    const known = this.#entries.get(name);
    if (known !== undefined && this.#now() < known.untilTs) return Promise.resolve(known.value);
    const underWay = this.#underWay.get(name);
    if (underWay !== undefined) return underWay;

    const failuresBefore = known?.failures ?? 0;
    const started = lookUp(failuresBefore)
      .then(({ value, lifetimeMs, isFailure }) => {
        const failures = isFailure ? failuresBefore + 1 : 0;
        this.#entries.set(name, { value, untilTs: this.#now() + lifetimeMs, failures });
        return value;
      })
      .finally(() => this.#underWay.delete(name));
    this.#underWay.set(name, started);
    return started;
  }

  /** What is remembered, however old. */
  peek(name: string): V | undefined {
    return this.#entries.peek(name)?.value;
  }

  /** The next `get` looks up again; one under way goes on. */
  forget(name: string): void {
    this.#entries.delete(name);
  }
}
