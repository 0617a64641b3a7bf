/** The time and its passing, handed in so that a test can move it. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Calls back once, `ms` from now at the earliest; gives back how to call it off. */
  after(ms: number, callback: () => void): () => void;
}

/** Node's timers hold no more than this; a longer wait ends early and its waiter looks again. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  after(ms, callback) {
    const timer = setTimeout(callback, Math.min(ms, LONGEST_TIMER_MS));
    return () => clearTimeout(timer);
  },
};

/**
 * A clock for tests: stands still until {@link advance}.
 */
export class ManualClock implements Clock {
  #now: number;
  #timers: { readonly at: number; readonly callback: () => void }[] = [];

  constructor(now = 1_700_000_000_000) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#now + Math.max(0, ms), callback };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  /** Moves the time and calls back everything that is due by then, earliest first. */
  advance(ms: number): void {
    const until = this.#now + ms;
    for (;;) {
      const due = this.#timers
        .filter((timer) => timer.at <= until)
        .sort((a, b) => a.at - b.at)
        .at(0);
      if (due === undefined) break;
      this.#timers = this.#timers.filter((timer) => timer !== due);
      this.#now = Math.max(this.#now, due.at);
      due.callback();
    }
    this.#now = until;
  }
}

/** A wait of one loop that others can cut short. A ring while nobody waits ends the next wait at once. */
export class Alarm {
  #rung = false;
  #wake: (() => void) | undefined;

  ring(): void {
    this.#rung = true;
    this.#wake?.();
  }

  /** Resolves after a ring, or after `ms`. One waiter at a time. */
  async wait(clock: Clock, ms: number): Promise<void> {
    if (!this.#rung) {
      await new Promise<void>((resolve) => {
        const callOff = clock.after(ms, resolve);
        this.#wake = () => {
          callOff();
          resolve();
        };
      });
      this.#wake = undefined;
    }
    this.#rung = false;
  }
}
