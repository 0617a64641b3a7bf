import { setImmediate } from 'node:timers/promises';
import { DatabaseUnavailable } from '@exeunt/database';

/**
 * Writes that come at about the same time are one write: what is added while one is under way becomes the next, in the
 * order it came. A single one goes at once.
 */
export class JoinedWrites<Item> {
  readonly #write: (items: readonly Item[]) => Promise<void>;
  readonly #most: number;
  #waiting: { readonly item: Item; readonly settle: (failed?: { readonly cause: unknown }) => void }[] = [];
  #writing = false;

  /** `write` takes at most `most` at a time; when it resolves all of them are durable, when it rejects none may be. */
  constructor(write: (items: readonly Item[]) => Promise<void>, most: number) {
    this.#write = write;
    this.#most = most;
  }

  /** Resolves when the item is durable. Rejects as the write did that it was part of; it can then be added again. */
  add(item: Item): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        item,
        settle: (failed) => (failed === undefined ? resolve() : reject(failed.cause as Error)),
      });
      if (!this.#writing) void this.#writeAll();
    });
  }

  async #writeAll(): Promise<void> {
    this.#writing = true;
    // Whatever else this turn of the event loop brings comes along.
    await setImmediate();
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, this.#most);
      try {
        await this.#write(batch.map(({ item }) => item));
        for (const { settle } of batch) settle();
      } catch (cause) {
        // One that can't be written must not take the others with it.
        if (batch.length === 1 || cause instanceof DatabaseUnavailable) {
          for (const { settle } of batch) settle({ cause });
        } else {
          for (const { item, settle } of batch) {
            await this.#write([item]).then(
              () => settle(),
              (own: unknown) => settle({ cause: own }),
            );
          }
        }
      }
    }
    this.#writing = false;
  }
}
