import { setImmediate } from 'node:timers/promises';
import { Alarm, systemClock, type Clock } from '@exeunt/message-bus';
import type { RoomId, UserId } from '@exeunt/pdu';
import { backoffMs } from '@exeunt/sending';
import type {
  DueRoom,
  LeaveAllRun,
  LeaveAllStore,
  RoomOutcome,
  RoomSaid,
  RoomToLeave,
} from './leave-all-store.js';
import type { RetryBounds } from './retry-schedule.js';

/** What came of one room: the leave that the user is out by, or why not. */
export type RoomLeft = { readonly leaveId: string } | { readonly refused: RoomSaid };

export interface LeaveAllRunnerOptions {
  readonly store: Pick<
    LeaveAllStore,
    'add' | 'due' | 'nextDue' | 'note' | 'toSweep' | 'swept' | 'complete' | 'onAdded'
  >;
  /** Every room that the user is in, is invited to or knocks on, as it is now; in no order. */
  readonly roomsOf: (userId: UserId) => AsyncIterable<RoomToLeave>;
  /**
   * Takes a user out of a room, and does not wait for the room's servers. Again for a user who is out by a leave of
   * before it gives that leave.
   */
  readonly leave: (userId: UserId, roomId: RoomId, reason: string | undefined) => Promise<RoomLeft>;
  /** How soon a room is tried again when something broke. */
  readonly bounds: RetryBounds;
  /** Rooms that are left at the same time. Default 10. */
  readonly concurrency?: number;
  /** How often it looks for what another process has begun. Default 1,000. */
  readonly pollMs?: number;
  readonly clock?: Clock;
  /** At least 0, less than 1; jitters the backoff. */
  readonly random?: () => number;
  readonly onOutcome?: (kind: RoomOutcome['kind']) => void;
  readonly onProblem?: (what: string, cause: unknown) => void;
}

/**
 * How often a user's rooms are looked through in one run: whoever goes on getting into rooms, or is invited without
 * end, must not keep it running for ever.
 */
export const maxSweeps = 10;
/** Rooms that are read, left and noted in one go: what is held in memory, and done again after a crash. */
const maxBatch = 20;
/** Rooms that are added by one statement. */
const maxAdded = 500;
/** The pause after the database failed. */
const troubleMs = 1_000;
/** The pause after a user's rooms could not be read. */
const unreadableMs = 10_000;

/**
 * Takes users out of all of their rooms: leaves what is due, a few at a time; where nothing of a run is due any more,
 * looks through the user's rooms again for those that the user got into meanwhile, and ends the run when there are
 * none. What a crash leaves half done is done again, which harms nothing: a user who is out is out by the same leave.
 * Meant to run in one process at a time; two at once only do some work twice.
 */
export class LeaveAllRunner {
  readonly #options: LeaveAllRunnerOptions;
  readonly #clock: Clock;
  readonly #news = new Alarm();
  /** Users whose rooms could not be looked through, and until when that is not tried again. */
  readonly #unreadable = new Map<UserId, number>();
  #running: Promise<void> | undefined;
  #stopping = false;

  constructor(options: LeaveAllRunnerOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Starts to work; does nothing while it does. */
  start(): void {
    if (this.#running !== undefined) return;
    this.#stopping = false;
    const unsubscribe = this.#options.store.onAdded(() => this.#news.ring());
    this.#running = this.#run().finally(unsubscribe);
  }

  /** Waits for the batch in hand; the rest stays due. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#news.ring();
    await this.#running;
    this.#running = undefined;
  }

  /**
   * Looks through the user's rooms and adds those that the run has yet to leave; ends the run where there are none.
   * Also for whoever begins a run and wants to say how many rooms there are.
   */
  async sweep(run: LeaveAllRun): Promise<void> {
    const { store, roomsOf } = this.#options;
    let found = 0;
    if (run.sweeps < maxSweeps) {
      for await (const rooms of inChunks(wanted(roomsOf(run.userId), run), maxAdded)) {
        found += await store.add(run, rooms, this.#clock.now());
      }
      await store.swept(run);
    }
    if (found === 0) await store.complete(run, this.#clock.now());
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      try {
        const hasWorked = (await this.#leaveDue()) || (await this.#sweepOne());
        await setImmediate();
        const waitMs = hasWorked ? 0 : await this.#untilDue();
        if (waitMs > 0 && !this.#stopping) await this.#news.wait(this.#clock, waitMs);
      } catch (cause) {
        this.#options.onProblem?.('take users out of all of their rooms', cause);
        if (!this.#stopping) await this.#news.wait(this.#clock, troubleMs);
      }
    }
  }

  async #leaveDue(): Promise<boolean> {
    const { store, concurrency = 10, onOutcome } = this.#options;
    const rooms = await store.due(this.#clock.now(), maxBatch);
    if (rooms.length === 0) return false;
    const waiting = [...rooms];
    const outcomes: RoomOutcome[] = [];
    const work = async (): Promise<void> => {
      for (let room = waiting.shift(); room !== undefined && !this.#stopping; room = waiting.shift()) {
        outcomes.push(await this.#leave(room));
      }
    };
    await Promise.all(Array.from({ length: concurrency }, work));
    await store.note(outcomes);
    for (const { kind } of outcomes) onOutcome?.(kind);
    return true;
  }

  async #leave({ userId, roomId, reason, attempts }: DueRoom): Promise<RoomOutcome> {
    const { leave, bounds, random = Math.random, onProblem } = this.#options;
    try {
      const left = await leave(userId, roomId, reason);
      return 'refused' in left
        ? { userId, roomId, kind: 'refused', said: left.refused }
        : { userId, roomId, kind: 'left', leaveId: left.leaveId };
    } catch (cause) {
      onProblem?.(`the leave of ${userId} from ${roomId}`, cause);
      return {
        userId,
        roomId,
        kind: 'failed',
        said: { detail: cause instanceof Error ? cause.message : String(cause) },
        attempts: attempts + 1,
        dueAt: this.#clock.now() + backoffMs(attempts + 1, random(), bounds),
      };
    }
  }

  /** One user whose rooms cannot be read must not keep the others from theirs. */
  async #sweepOne(): Promise<boolean> {
    const now = this.#clock.now();
    for (const [userId, until] of this.#unreadable) if (until <= now) this.#unreadable.delete(userId);
    const run = await this.#options.store.toSweep([...this.#unreadable.keys()]);
    if (run === undefined) return false;
    try {
      await this.sweep(run);
    } catch (cause) {
      this.#unreadable.set(run.userId, now + unreadableMs);
      this.#options.onProblem?.(`look through the rooms of ${run.userId}`, cause);
    }
    return true;
  }

  async #untilDue(): Promise<number> {
    const { pollMs = 1_000 } = this.#options;
    const due = await this.#options.store.nextDue();
    const untilDue = due === undefined ? pollMs : due - this.#clock.now();
    return Math.min(pollMs, Math.max(untilDue, 0));
  }
}

async function* wanted(
  rooms: AsyncIterable<RoomToLeave>,
  { include }: LeaveAllRun,
): AsyncGenerator<RoomToLeave> {
  for await (const room of rooms) if (include.includes(room.membership)) yield room;
}

async function* inChunks<T>(all: AsyncIterable<T>, size: number): AsyncGenerator<readonly T[]> {
  let chunk: T[] = [];
  for await (const one of all) {
    chunk.push(one);
    if (chunk.length === size) {
      yield chunk;
      chunk = [];
    }
  }
  if (chunk.length > 0) yield chunk;
}
