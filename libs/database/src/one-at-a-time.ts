import type { Database, HeldLock } from './database.js';

/** Something that runs, and ends when it is told to. May be started again after that. */
export interface Work {
  start(): void;
  /** Resolves when nothing of it is under way. */
  stop(): Promise<void>;
}

export interface OneAtATimeOptions {
  readonly database: Pick<Database, 'tryLock'>;
  /** The number that stands for this work in the database. */
  readonly lock: bigint;
  readonly work: readonly Work[];
  /** How often a holder makes sure, and the others try. Default 1,000. */
  readonly everyMs?: number;
  /** Told when the work begins here, and when it ends. */
  readonly onChange?: (holds: boolean) => void;
  readonly onProblem?: (what: string, cause: unknown) => void;
}

/**
 * Lets one of many processes on a database do some work, and the next within seconds when that one dies. For a moment
 * two may do it, where the first has lost its session and not noticed yet: it must be work that this does not harm.
 */
export class OneAtATime {
  readonly #options: OneAtATimeOptions;
  #running: Promise<void> | undefined;
  #stopping = false;
  #endPause: () => void = () => {};

  constructor(options: OneAtATimeOptions) {
    this.#options = options;
  }

  /** Starts to try for it; does nothing while it does. */
  start(): void {
    if (this.#running !== undefined) return;
    this.#stopping = false;
    this.#running = this.#run();
  }

  /** Ends the work if it is done here, and leaves it to the others. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#endPause();
    await this.#running;
    this.#running = undefined;
  }

  async #run(): Promise<void> {
    const { database, lock, onProblem } = this.#options;
    while (!this.#stopping) {
      try {
        const held = await database.tryLock(lock);
        if (held !== undefined) await this.#hold(held);
      } catch (cause) {
        onProblem?.('be the only one at work', cause);
      }
      await this.#pause();
    }
  }

  async #hold(held: HeldLock): Promise<void> {
    const { work, onChange } = this.#options;
    try {
      onChange?.(true);
      for (const one of work) one.start();
      while (!this.#stopping) {
        await this.#pause();
        await held.check();
      }
    } finally {
      await Promise.all(work.map((one) => one.stop()));
      await held.release();
      onChange?.(false);
    }
  }

  async #pause(): Promise<void> {
    if (this.#stopping) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#options.everyMs ?? 1_000);
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
