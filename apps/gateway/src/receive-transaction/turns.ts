/** Work that takes its turn: so much at once, so much waiting, and no more. */
export class Turns {
  readonly #atOnce: number;
  readonly #waitingMost: number;
  readonly #waiting: (() => void)[] = [];
  #active = 0;

  constructor(atOnce: number, waitingMost: number) {
    this.#atOnce = atOnce;
    this.#waitingMost = waitingMost;
  }

  /** Runs `work` when its turn comes; undefined, and it is never run, where too many wait already. */
  async run<T>(work: () => Promise<T>): Promise<T | undefined> {
    if (this.#active >= this.#atOnce) {
      if (this.#waiting.length >= this.#waitingMost) return undefined;
      // Whoever is done hands its place over, so nobody else can take it in between.
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else this.#active++;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#active--;
      else next();
    }
  }
}
