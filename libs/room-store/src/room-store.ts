import { LRUCache } from 'lru-cache';
import { parseUserId, serverNameOf, type RoomId, type ServerName } from '@exeunt/pdu';
import type { Append, EventStore } from '@exeunt/event-store';
import {
  deciding,
  evolve,
  initialRoom,
  Room,
  type Broadcast,
  type Decision,
  type DomainEvent,
  type FactsNeeded,
} from '@exeunt/room';

/** A command on one room: pure, and may be run again on a newer room. */
export type Command = (room: Room) => Decision;

/** What the caller of a command learns. */
export interface Outcome extends Decision {
  /** Of the room's log after the decision is durable. */
  readonly position: number;
}

export interface RoomStoreOptions {
  /** How many facts all cached rooms may hold together; a fact is a few hundred bytes to a few kilobytes. */
  readonly maxCachedFacts?: number;
  /** How many commands of one room become one append. */
  readonly maxBatch?: number;
}

/** The room was changed by others again and again while a decision was being made on it; trying later may do. */
export class RoomContended extends Error {}

interface Waiting {
  readonly run: (room: Room) => void;
  readonly fail: (cause: unknown) => void;
}

interface WaitingCommand {
  readonly decide: Command;
  readonly resolve: (outcome: Outcome) => void;
  readonly fail: (cause: unknown) => void;
}

interface WaitingSteps {
  readonly steps: Iterable<Command>;
  readonly resolve: (outcomes: readonly Decision[]) => void;
  readonly fail: (cause: unknown) => void;
}

interface Queue {
  readonly reads: Waiting[];
  readonly commands: WaitingCommand[];
  readonly stepped: WaitingSteps[];
}

/** Facts of the log that are decided on and not yet durable. */
interface Undurable {
  readonly domainEvents: DomainEvent[];
  readonly broadcasts: Broadcast[];
}

/** Another writer was faster; the room must be read anew. */
class Outdated extends Error {}

const maxAttempts = 50;

/**
 * The rooms, as commands and queries see them: loads what a decision asks for, decides, appends, and answers when
 * the append is durable. Commands of one room wait for each other within the process, and those that wait become
 * one append; between processes the append's expected position decides, and the loser decides again. Nothing is
 * held over the network: a command is synchronous.
 */
export class RoomStore {
  readonly #queues = new Map<RoomId, Queue>();
  readonly #cache: LRUCache<RoomId, Room>;
  readonly #maxBatch: number;

  constructor(
    readonly store: EventStore,
    options: RoomStoreOptions = {},
  ) {
    this.#cache = new LRUCache({ maxSize: options.maxCachedFacts ?? 400_000 });
    this.#maxBatch = options.maxBatch ?? 64;
  }

  /** Looks at a room as it durably is. An unknown one has `isKnown` false. */
  query<T>(roomId: RoomId, read: (room: Room) => T): Promise<T> {
    return new Promise((resolve, fail) => {
      this.#enqueue(roomId, (queue) => queue.reads.push({ run: (room) => resolve(read(room)), fail }));
    });
  }

  /** Runs a command and makes what it decides durable. Rejects with the store's error if that can't be done. */
  execute(roomId: RoomId, decide: Command): Promise<Outcome> {
    return new Promise((resolve, fail) => {
      this.#enqueue(roomId, (queue) => queue.commands.push({ decide, resolve, fail }));
    });
  }

  /**
   * Runs commands one after the other, each on the room that the one before it left, and makes all of it durable at
   * once where the room is new (an existing one may get it in parts). Gives each command's decision. A command that
   * throws ends it, and nothing of a new room is kept.
   */
  executeAll(roomId: RoomId, steps: Iterable<Command>): Promise<readonly Decision[]> {
    return new Promise((resolve, fail) => {
      this.#enqueue(roomId, (queue) => queue.stepped.push({ steps, resolve, fail }));
    });
  }

  #enqueue(roomId: RoomId, add: (queue: Queue) => void): void {
    const queue = this.#queues.get(roomId);
    if (queue !== undefined) {
      add(queue);
      return;
    }
    const fresh: Queue = { reads: [], commands: [], stepped: [] };
    this.#queues.set(roomId, fresh);
    add(fresh);
    void this.#drain(roomId, fresh);
  }

  async #drain(roomId: RoomId, queue: Queue): Promise<void> {
    for (;;) {
      const reads = queue.reads.splice(0);
      const commands = queue.commands.splice(0, this.#maxBatch);
      const stepped = commands.length === 0 ? queue.stepped.splice(0, 1) : [];
      if (reads.length + commands.length + stepped.length === 0) break;
      try {
        await this.#retrying(roomId, async () => {
          while (reads.length > 0) {
            await this.#read(roomId, reads[0]!);
            reads.shift();
          }
        });
        if (commands.length > 0) await this.#retrying(roomId, () => this.#runBatch(roomId, commands));
        for (const one of stepped) await this.#retrying(roomId, () => this.#runSteps(roomId, one));
      } catch (cause) {
        this.#cache.delete(roomId);
        for (const one of [...reads, ...commands, ...stepped]) one.fail(cause);
      }
    }
    this.#queues.delete(roomId);
  }

  async #retrying(roomId: RoomId, attempt: () => Promise<void>): Promise<void> {
    for (let attempts = 1; ; attempts++) {
      try {
        return await attempt();
      } catch (cause) {
        this.#cache.delete(roomId);
        if (!(cause instanceof Outdated)) throw cause;
        if (attempts === maxAttempts) throw new RoomContended(`${roomId} did not hold still`, { cause });
      }
    }
  }

  async #read(roomId: RoomId, waiting: Waiting): Promise<void> {
    const room = await this.#room(roomId);
    await this.#decided(room, () => waiting.run(room), nothingUndurable);
    this.#keep(roomId, room);
  }

  async #runBatch(roomId: RoomId, commands: readonly WaitingCommand[]): Promise<void> {
    const room = await this.#room(roomId);
    const undurable: Undurable = { domainEvents: [], broadcasts: [] };
    const outcomes: (Outcome | { readonly cause: unknown })[] = [];
    for (const command of commands) {
      // One caller's broken command must not take the others with it; nothing of it has touched the room.
      outcomes.push(
        await this.#decideAndEvolve(roomId, room, command.decide, undurable).then(
          (decision) => ({ ...decision, position: room.position }),
          (cause: unknown) => {
            if (cause instanceof Outdated || isFromStore(cause)) throw cause;
            return { cause };
          },
        ),
      );
    }
    await this.#flush(roomId, room, undurable);
    this.#keep(roomId, room);
    outcomes.forEach((outcome, at) => {
      if ('cause' in outcome) commands[at]!.fail(outcome.cause);
      else commands[at]!.resolve(outcome);
    });
  }

  async #runSteps(roomId: RoomId, waiting: WaitingSteps): Promise<void> {
    const room = await this.#room(roomId);
    const undurable: Undurable = { domainEvents: [], broadcasts: [] };
    const decisions: Decision[] = [];
    for (const step of waiting.steps) {
      decisions.push(await this.#decideAndEvolve(roomId, room, step, undurable));
      // A long import must not keep the process from everything else.
      if (decisions.length % 100 === 0) await new Promise((resume) => setImmediate(resume));
    }
    await this.#flush(roomId, room, undurable);
    this.#keep(roomId, room);
    waiting.resolve(decisions);
  }

  async #decideAndEvolve(
    roomId: RoomId,
    room: Room,
    decide: Command,
    undurable: Undurable,
  ): Promise<Decision> {
    const decision = await this.#decided(room, () => decide(room), {
      // Facts are read as of the durable position, so the room must be there before it learns them.
      before: () => this.#flush(roomId, room, undurable),
    });
    for (const domainEvent of decision.domainEvents) evolve(room, domainEvent);
    undurable.domainEvents.push(...decision.domainEvents);
    undurable.broadcasts.push(...decision.broadcasts);
    return decision;
  }

  async #decided<T>(
    room: Room,
    decide: () => T,
    flush: { readonly before: () => Promise<void> },
  ): Promise<T> {
    let asked = '';
    for (;;) {
      const decided = deciding(decide);
      if (decided.decided) return decided.outcome;
      await flush.before();
      const needed = JSON.stringify(decided.needed);
      if (needed === asked)
        throw new Error(`${room.id}: facts that were loaded are missing still: ${needed}`);
      asked = needed;
      await this.#learn(room, decided.needed);
    }
  }

  async #learn(room: Room, needed: FactsNeeded): Promise<void> {
    const facts = await this.store.facts(room.id, room.position, needed);
    if (facts === 'moved') throw new Outdated(room.id);
    room.learn(needed, facts);
  }

  async #flush(roomId: RoomId, room: Room, undurable: Undurable): Promise<void> {
    if (undurable.domainEvents.length === 0) return;
    const domainEvents = undurable.domainEvents.splice(0);
    const broadcasts = undurable.broadcasts.splice(0);
    const append: Append = {
      roomId,
      expectedPosition: room.position - domainEvents.length,
      domainEvents,
      header: room.header(),
      residents: changedResidents(room, domainEvents),
      broadcasts,
    };
    if ((await this.store.append(append)) === 'conflict') throw new Outdated(roomId);
  }

  async #room(roomId: RoomId): Promise<Room> {
    const cached = this.#cache.get(roomId);
    if (cached !== undefined) return cached;
    const header = await this.store.header(roomId);
    return header === undefined ? initialRoom() : Room.fromHeader(header);
  }

  #keep(roomId: RoomId, room: Room): void {
    if (room.isKnown) this.#cache.set(roomId, room, { size: 1 + room.factCount });
  }
}

const nothingUndurable = { before: () => Promise.resolve() };

function isFromStore(cause: unknown): boolean {
  return cause instanceof Error && cause.name === 'DatabaseUnavailable';
}

function changedResidents(
  room: Room,
  domainEvents: readonly DomainEvent[],
): readonly (readonly [ServerName, number])[] {
  const servers = new Set<ServerName>();
  for (const domainEvent of domainEvents) {
    if (domainEvent.type !== 'PduAccepted') continue;
    for (const { stateKey, membership } of domainEvent.changes) {
      if (membership === undefined || (membership.from === 'join') === (membership.to === 'join')) continue;
      const user = parseUserId(stateKey);
      if (user !== undefined) servers.add(serverNameOf(user));
    }
  }
  return [...servers].map((server) => [server, room.joinedMembersOf(server)] as const);
}
