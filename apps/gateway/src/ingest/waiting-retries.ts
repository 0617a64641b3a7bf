import { setImmediate } from 'node:timers/promises';
import { Alarm, systemClock, type Clock } from '@exeunt/message-bus';
import type { IngestConsumer } from './ingest-consumer.js';

export interface WaitingRetriesOptions {
  readonly consumer: Pick<IngestConsumer, 'tryAgain'>;
  /** How often it looks for what is due. Default 1,000. */
  readonly pollMs?: number;
  readonly clock?: Clock;
  readonly onProblem?: (what: string, cause: unknown) => void;
}

const maxRooms = 10;

/** Has what waits tried again when it is due. Two at once on one database do the work twice, which harms nothing. */
export class WaitingRetries {
  readonly #options: WaitingRetriesOptions;
  readonly #end = new Alarm();
  #running: Promise<void> | undefined;
  #stopping = false;

  constructor(options: WaitingRetriesOptions) {
    this.#options = options;
  }

  /** Starts to look; does nothing while it does. */
  start(): void {
    if (this.#running !== undefined) return;
    this.#stopping = false;
    this.#running = this.#run();
  }

  /** Waits for the message in hand. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#end.ring();
    await this.#running;
    this.#running = undefined;
  }

  async #run(): Promise<void> {
    const { consumer, pollMs = 1_000, clock = systemClock, onProblem } = this.#options;
    while (!this.#stopping) {
      let tried = 0;
      try {
        tried = await consumer.tryAgain(maxRooms, () => this.#stopping);
        await setImmediate();
      } catch (cause) {
        onProblem?.('try again what waits to be ingested', cause);
      }
      if (tried < maxRooms && !this.#stopping) await this.#end.wait(clock, pollMs);
    }
  }
}
