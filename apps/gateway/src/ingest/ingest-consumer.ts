import {
  Alarm,
  deadLetterOf,
  INGEST_TOPIC,
  systemClock,
  type Clock,
  type Consumption,
  type MessageBus,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import type { RoomId } from '@exeunt/pdu';
import { backoffMs } from '@exeunt/sending';
import type { FederationSide } from '../federation-side.js';
import { isPassing } from '../passing-failure.js';
import { ingestTypeOf, readIngestMessage } from './ingest-message.js';
import { takeIngested, type IngestCircumstances, type Ingested } from './take-ingested.js';
import type { WaitingMessage, WaitingMessages } from './waiting-messages.js';

/** The consumer group of the gateways. */
export const INGEST_GROUP = 'exeunt-ingest';

/** How long what can't be judged for want of keys waits for them before it is given up. */
export const ingestPatienceMs = 24 * 3_600_000;

export interface IngestConsumerOptions {
  readonly side: FederationSide;
  readonly bus: Pick<MessageBus, 'consume' | 'publish'>;
  readonly waiting: WaitingMessages;
  /** Between two attempts at what waits. */
  readonly bounds: { readonly minMs: number; readonly maxMs: number };
  /**
   * For how long one message waits for keys before it is set aside: a room may name thousands of servers that are gone,
   * and what is behind it in its partition has to wait as well. Default 20,000.
   */
  readonly askForMs?: number;
  readonly clock?: Clock;
  /** At least 0, less than 1; jitters the backoff. */
  readonly random?: () => number;
  /** Told of each message that went to the dead-letter topic. */
  readonly onDeadLetter?: (message: ReceivedMessage, reason: string) => void;
  /** Told of what is broken here. */
  readonly onProblem?: (what: string, cause: unknown) => void;
}

/** What came of trying again: whether anything was taken, and whether anything still waits. */
interface Tried {
  readonly isTaken: boolean;
  readonly isWaiting: boolean;
}

const defaultAskForMs = 20_000;
/** The pause after the bus could not be consumed. */
const troubleMs = 5_000;
/** Few, for a batch is handed out again as a whole, and one message may be a whole room. */
const maxBatch = 8;

/**
 * Takes in what other services of the platform hand over by `exeunt.ingest.v1`: rooms, PDUs, knocks of our users. What
 * the messages say is durable before the bus learns that they were handled; repeats change nothing.
 *
 * - What can't be taken goes to the dead-letter topic with the reason, and the rest goes on.
 * - Where the store can't be had the batch is rejected, and the bus hands it out again.
 * - What can't be judged because a server has not told its keys, and what rests on it, waits in the database; the
 *   partition goes on. See {@link IngestConsumer.tryAgain}.
 */
export class IngestConsumer {
  readonly #options: IngestConsumerOptions;
  readonly #end = new Alarm();
  #consumption: Consumption | undefined;
  #isRunning = false;

  constructor(options: IngestConsumerOptions) {
    this.#options = options;
  }

  /**
   * Starts to consume, and returns at once: another gateway of the group may have a large room in hand, and whoever
   * joins it waits for that. Does nothing while it does.
   */
  start(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    void this.#consume();
  }

  /** Waits for the batch in hand. */
  async stop(): Promise<void> {
    this.#isRunning = false;
    this.#end.ring();
    await this.#consumption?.stop();
    this.#consumption = undefined;
  }

  async #consume(): Promise<void> {
    const { bus, clock = systemClock, onProblem } = this.#options;
    while (this.#isRunning) {
      try {
        const consumption = await bus.consume({
          topic: INGEST_TOPIC,
          group: INGEST_GROUP,
          maxBatch,
          handle: (batch) => this.handle(batch),
        });
        if (!this.#isRunning) return await consumption.stop();
        this.#consumption = consumption;
        return;
      } catch (cause) {
        onProblem?.(`consume ${INGEST_TOPIC}`, cause);
        if (this.#isRunning) await this.#end.wait(clock, troubleMs);
      }
    }
  }

  /** One batch, in order. Rejects where it may not be taken as handled. */
  async handle(batch: readonly ReceivedMessage[]): Promise<void> {
    for (const message of batch) await this.#handleOne(message);
  }

  /**
   * Tries again what waits in rooms of which something is due, each room's in order; gives how many rooms those were.
   * What has waited for {@link ingestPatienceMs} is taken as far as it can be, and the rest goes to the dead-letter topic.
   * Ends before the next message when `isEnough`.
   */
  async tryAgain(maxRooms: number, isEnough: () => boolean = () => false): Promise<number> {
    const { waiting, side } = this.#options;
    const rooms = await waiting.dueRooms(side.now(), maxRooms);
    for (const roomId of rooms) await this.#tryRoom(roomId, isEnough);
    return rooms.length;
  }

  /** What is due, and behind something that was taken also what is not: it may have waited for that. */
  async #tryRoom(roomId: RoomId, isEnough: () => boolean): Promise<void> {
    const { waiting, side } = this.#options;
    let isBehindOthers = false;
    let hasChanged = false;
    for (const one of await waiting.ofRoom(roomId)) {
      if (isEnough()) return;
      const tried: Tried =
        hasChanged || one.nextAt <= side.now()
          ? await this.#tryOne(one, isBehindOthers)
          : { isTaken: false, isWaiting: true };
      hasChanged ||= tried.isTaken || !tried.isWaiting;
      isBehindOthers ||= tried.isWaiting;
    }
  }

  async #handleOne(message: ReceivedMessage): Promise<void> {
    const { side, waiting, askForMs = defaultAskForMs } = this.#options;
    const now = side.now();
    const { isTaken, notTaken, waits } = await this.#take(message, async (roomId) => ({
      keysSince: now,
      askForMs,
      // Asked before the message is judged: what is missing may come in between.
      isBehindOthers: await waiting.holdsAnyOf(roomId),
    }));
    const reasons = notTaken === undefined ? [] : [notTaken];
    let isWaiting = false;
    if (waits !== undefined) {
      const left = { ...message, value: waits.value };
      isWaiting = await waiting.keep(waits.roomId, left, now, this.#nextAt(1));
      if (!isWaiting) reasons.push('what is left would have to wait, and too many messages of the room do');
    }
    if (reasons.length > 0) await this.#deadLetter(message, reasons.join('; '));
    side.metrics.ingested(
      ingestTypeOf(message),
      isWaiting ? 'waiting' : reasons.length === 0 ? 'taken' : isTaken ? 'in-part' : 'dead-letter',
    );
  }

  async #tryOne(one: WaitingMessage, isBehindOthers: boolean): Promise<Tried> {
    const { side, waiting, askForMs = defaultAskForMs } = this.#options;
    const message = await waiting.read(one);
    if (message === undefined) return { isTaken: false, isWaiting: false };
    const isLast = side.now() - one.since >= ingestPatienceMs;
    const { isTaken, notTaken, waits } = await this.#take(message, async () => ({
      keysSince: isLast ? 0 : one.since,
      askForMs,
      isBehindOthers: isBehindOthers && !isLast,
    }));
    if (notTaken !== undefined) {
      await this.#deadLetter(message, notTaken, `attempt-${one.attempts + 1}`);
    }
    if (waits === undefined) await waiting.forget(one);
    else await waiting.keepOn(one, { ...message, value: waits.value }, this.#nextAt(one.attempts + 1));
    return { isTaken, isWaiting: waits !== undefined };
  }

  /** Rejects where the message is to be handed out again. */
  async #take(
    message: ReceivedMessage,
    circumstancesOf: (roomId: RoomId) => Promise<IngestCircumstances>,
  ): Promise<Ingested> {
    const { side, onProblem } = this.#options;
    try {
      const read = readIngestMessage(message, side.ourName);
      if ('unreadable' in read) return { isTaken: false, notTaken: read.unreadable };
      return await takeIngested(side, read, message.value, await circumstancesOf(read.roomId));
    } catch (cause) {
      if (isPassing(cause)) throw cause;
      // Handed out again, it would keep everything behind it for ever.
      onProblem?.(`ingest ${message.topic}/${message.partition}/${message.offset}`, cause);
      return { isTaken: false, notTaken: 'something is broken on this server' };
    }
  }

  async #deadLetter(message: ReceivedMessage, reason: string, part?: string): Promise<void> {
    const { bus, side, onDeadLetter } = this.#options;
    await bus.publish([deadLetterOf(message, reason, INGEST_GROUP, side.now(), part)]);
    side.metrics.deadLetter(INGEST_GROUP);
    onDeadLetter?.(message, reason);
  }

  #nextAt(failures: number): number {
    const { side, bounds, random = Math.random } = this.#options;
    return side.now() + backoffMs(failures, random(), bounds);
  }
}
