import { LRUCache } from 'lru-cache';
import { parseUserId, serverNameOf, type EventId, type RoomId, type ServerName } from '@exeunt/pdu';
import type { Append, EventStore } from '@exeunt/event-store';
import {
  deciding,
  evolve,
  initialRoom,
  nothingNeeded,
  Room,
  type Broadcast,
  type Decided,
  type Decision,
  type DomainEvent,
  type FactsNeeded,
} from '@exeunt/room';
import { currentSpan, noTracing, traceparentOf, type Span, type Tracing } from '@exeunt/tracing';

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
  /**
   * True where no other process writes to the store, so that a cached room need not be held against it before it
   * says no or is read. False by default.
   */
  readonly isOnlyWriter?: boolean;
  /** Told of what became durable, before those who asked for it are. It must not throw. */
  readonly onAppended?: (roomId: RoomId, domainEvents: readonly DomainEvent[]) => void;
  /** Where the spans of commands go; nowhere by default. */
  readonly tracing?: Tracing;
}

/** The room was changed by others again and again while a decision was being made on it; trying later may do. */
export class RoomContended extends Error {}

/** Something to be done with a room: it looks, or decides, and says how to answer then. */
interface Waiting<Result> {
  readonly run: (room: Room) => Result;
  /** Takes the place of the answer where `run` throws, or the store fails. */
  readonly fail: (cause: unknown) => void;
}

type Answer = () => void;

interface WaitingCommand extends Waiting<Decision> {
  readonly traceparent: string | undefined;
  readonly resolve: (outcome: Outcome) => void;
}

interface WaitingSteps {
  readonly steps: readonly Command[];
  readonly traceparent: string | undefined;
  readonly resolve: (outcomes: readonly Decision[]) => void;
  readonly fail: (cause: unknown) => void;
}

interface Queue {
  readonly reads: Waiting<Answer>[];
  readonly commands: WaitingCommand[];
  readonly stepped: WaitingSteps[];
}

/** A room that is being worked on. Where the work fails it is thrown away with the room. */
interface Work {
  readonly roomId: RoomId;
  readonly room: Room;
  /** Whether the store was seen to be where the room is, since the work began. */
  isCurrent: boolean;
  /** Facts of the log that are decided on and not yet durable. */
  domainEvents: DomainEvent[];
  broadcasts: Broadcast[];
  /** Of PDUs among those facts: the request that each came by. */
  traceparents: Map<EventId, string>;
  /** Given as soon as all of that is durable. */
  answers: Answer[];
}

/** What a look or a decision gave; what it threw is its caller's alone, unlike a failure of the store. */
type Ran<T> = { readonly result: T } | { readonly thrown: unknown };

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
  readonly #isOnlyWriter: boolean;
  readonly #onAppended: NonNullable<RoomStoreOptions['onAppended']>;
  readonly #tracing: Tracing;

  constructor(
    readonly store: EventStore,
    options: RoomStoreOptions = {},
  ) {
    this.#cache = new LRUCache({ maxSize: options.maxCachedFacts ?? 400_000 });
    this.#maxBatch = options.maxBatch ?? 64;
    this.#isOnlyWriter = options.isOnlyWriter ?? false;
    this.#onAppended = options.onAppended ?? (() => {});
    this.#tracing = options.tracing ?? noTracing;
  }

  /**
   * Looks at a room as this process last knew it, without waiting for its queue or asking the store where the room is
   * in memory: for a check that the command repeats. It may be behind what others wrote, and ahead of what is durable.
   */
  async peek<T>(roomId: RoomId, read: (room: Room) => T): Promise<T> {
    const cached = this.#cache.get(roomId);
    const decided = cached === undefined ? undefined : deciding(() => read(cached));
    return decided?.decided === true ? decided.outcome : this.query(roomId, read);
  }

  /** Looks at a room as it durably is. An unknown one has `isKnown` false. Rejects with what `read` throws. */
  query<T>(roomId: RoomId, read: (room: Room) => T): Promise<T> {
    return new Promise((resolve, fail) => {
      const run = (room: Room): Answer => {
        const result = read(room);
        return () => resolve(result);
      };
      this.#enqueue(roomId, (queue) => queue.reads.push({ run, fail }));
    });
  }

  /**
   * Runs a command and makes what it decides durable; then, and never before, gives the outcome. Rejects with what
   * the command throws, or with the store's error: then it may be durable all the same, so it is to be repeated.
   *
   * PDUs that it accepts carry the trace of the caller's current span from here to the servers that get them.
   */
  execute(roomId: RoomId, decide: Command): Promise<Outcome> {
    return this.#traced('room command', roomId, async (span) => {
      const outcome = await new Promise<Outcome>((resolve, fail) => {
        const traceparent = traceparentIn(span);
        this.#enqueue(roomId, (queue) => queue.commands.push({ run: decide, traceparent, resolve, fail }));
      });
      const accepted = outcome.domainEvents.find((domainEvent) => domainEvent.type === 'PduAccepted');
      span?.setAttributes({
        'exeunt.position': outcome.position,
        ...(accepted === undefined ? {} : { 'matrix.event_id': accepted.eventId }),
        ...(outcome.refusal === undefined ? {} : { 'exeunt.rule': outcome.refusal.rule }),
      });
      return outcome;
    });
  }

  /**
   * Runs commands one after the other, each on the room that the one before it left, and makes all of it durable at
   * once where the room is new (an existing one may get it in parts). Gives each command's decision. A command that
   * throws ends it, and nothing of a new room is kept. Where another writer interferes all are run again, so on an
   * existing room each must be one that may be repeated.
   */
  executeAll(roomId: RoomId, steps: readonly Command[]): Promise<readonly Decision[]> {
    return this.#traced('room commands', roomId, (span) => {
      return new Promise((resolve, fail) => {
        const traceparent = traceparentIn(span);
        this.#enqueue(roomId, (queue) => queue.stepped.push({ steps, traceparent, resolve, fail }));
      });
    });
  }

  /** A span of its own for what is done on behalf of another; without one there is no trace to go on with. */
  async #traced<T>(name: string, roomId: RoomId, work: (span: Span | undefined) => Promise<T>): Promise<T> {
    const span =
      currentSpan() === undefined
        ? undefined
        : this.#tracing.begin(name, { attributes: { 'matrix.room_id': roomId } });
    try {
      return await work(span);
    } finally {
      span?.end();
    }
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
        if (reads.length > 0) await this.#retrying(roomId, () => this.#runReads(roomId, reads));
        if (commands.length > 0) await this.#retrying(roomId, () => this.#runBatch(roomId, commands));
        for (const one of stepped) await this.#retrying(roomId, () => this.#runSteps(roomId, one));
      } catch (cause) {
        // Those that were answered are no longer among them; to fail one that was would change nothing.
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

  /** Answers `reads`, and takes those that are answered out of it. */
  async #runReads(roomId: RoomId, reads: Waiting<Answer>[]): Promise<void> {
    const work = await this.#begin(roomId);
    for (const read of reads) {
      const ran = await this.#run(work, read.run);
      work.answers.push('result' in ran ? ran.result : () => read.fail(ran.thrown));
    }
    await this.#flush(work);
    reads.length = 0;
    this.#keep(work);
  }

  /** Runs `commands`, and takes those that are answered out of it: what is durable must not be decided again. */
  async #runBatch(roomId: RoomId, commands: WaitingCommand[]): Promise<void> {
    const work = await this.#begin(roomId);
    const all = [...commands];
    for (const [at, command] of all.entries()) {
      const later = all.slice(at + 1).map(({ run }) => run);
      const ran = await this.#runAndEvolve(work, command.run, command.traceparent, later);
      const { position } = work.room;
      work.answers.push(() => {
        commands.splice(commands.indexOf(command), 1);
        // One caller's broken command does not take the others with it; nothing of it has touched the room.
        if ('result' in ran) command.resolve({ ...ran.result, position });
        else command.fail(ran.thrown);
      });
    }
    await this.#flush(work);
    this.#keep(work);
  }

  async #runSteps(roomId: RoomId, { steps, traceparent, resolve }: WaitingSteps): Promise<void> {
    const work = await this.#begin(roomId);
    const decisions: Decision[] = [];
    for (const step of steps) {
      const ran = await this.#runAndEvolve(work, step, traceparent);
      if ('thrown' in ran) throw ran.thrown;
      decisions.push(ran.result);
      // A long import must not keep the process from everything else.
      if (decisions.length % 100 === 0) await new Promise((resume) => setImmediate(resume));
    }
    work.answers.push(() => resolve(decisions));
    await this.#flush(work);
    this.#keep(work);
  }

  async #runAndEvolve(
    work: Work,
    decide: Command,
    traceparent: string | undefined,
    later: readonly Command[] = [],
  ): Promise<Ran<Decision>> {
    const ran = await this.#run(work, decide, later);
    if ('thrown' in ran) return ran;
    const { domainEvents, broadcasts } = ran.result;
    for (const domainEvent of domainEvents) {
      evolve(work.room, domainEvent);
      if (traceparent !== undefined && domainEvent.type === 'PduAccepted' && domainEvent.place === 'graph') {
        work.traceparents.set(domainEvent.eventId, traceparent);
      }
    }
    work.domainEvents.push(...domainEvents);
    work.broadcasts.push(...broadcasts);
    return ran;
  }

  /** Looks at the room or decides on it, again and again until all that it asks for is loaded. */
  async #run<T>(
    work: Work,
    look: (room: Room) => T,
    later: readonly ((room: Room) => unknown)[] = [],
  ): Promise<Ran<T>> {
    const { room } = work;
    for (let asked = ''; ;) {
      let decided: Decided<T>;
      try {
        decided = deciding(() => look(room));
      } catch (thrown) {
        return { thrown };
      }
      if (decided.decided) return { result: decided.outcome };
      const needed = JSON.stringify(decided.needed);
      if (needed === asked) {
        return { thrown: new Error(`${room.id}: facts that were loaded are missing still: ${needed}`) };
      }
      asked = needed;
      // Facts are read as of the durable position, so the room must be there before it learns them.
      await this.#flush(work);
      // What those that wait will ask for comes along, or each of them would end the batch before it.
      const besides = later.flatMap((look) => neededBy(() => look(room)));
      await this.#learn(work, together([decided.needed, ...besides]));
    }
  }

  async #learn(work: Work, needed: FactsNeeded): Promise<void> {
    const facts = await this.store.facts(work.roomId, work.room.position, needed);
    if (facts === 'moved') throw new Outdated(work.roomId);
    work.isCurrent = true;
    work.room.learn(needed, facts);
  }

  /** Makes what was decided durable, and gives the answers that waited for it. */
  async #flush(work: Work): Promise<void> {
    const { roomId, room } = work;
    const { domainEvents, broadcasts, traceparents, answers } = work;
    Object.assign(work, nothingDecided());
    if (domainEvents.length > 0) {
      const append: Append = {
        roomId,
        expectedPosition: room.position - domainEvents.length,
        domainEvents,
        header: room.header(),
        residents: changedResidents(room, domainEvents),
        broadcasts,
        traceparents,
      };
      if ((await this.store.append(append)) === 'conflict') throw new Outdated(roomId);
      work.isCurrent = true;
      this.#onAppended(roomId, domainEvents);
    } else if (answers.length > 0 && !work.isCurrent && !this.#isOnlyWriter) {
      // No append stands up for these answers, so the room they rest on must be the newest.
      await this.#learn(work, nothingNeeded);
    }
    for (const answer of answers) answer();
  }

  async #begin(roomId: RoomId): Promise<Work> {
    const cached = this.#cache.get(roomId);
    const header = cached === undefined ? await this.store.header(roomId) : undefined;
    const room = cached ?? (header === undefined ? initialRoom() : Room.fromHeader(header));
    return { roomId, room, isCurrent: cached === undefined, ...nothingDecided() };
  }

  #keep({ roomId, room }: Work): void {
    if (room.isKnown) this.#cache.set(roomId, room, { size: 1 + room.factCount });
  }
}

function nothingDecided(): Pick<Work, 'domainEvents' | 'broadcasts' | 'traceparents' | 'answers'> {
  return { domainEvents: [], broadcasts: [], traceparents: new Map(), answers: [] };
}

function traceparentIn(span: Span | undefined): string | undefined {
  return span === undefined ? undefined : traceparentOf(span.spanContext());
}

/** What a decision would ask for now; a decision that breaks is heard of when its turn comes. */
function neededBy(decide: () => unknown): readonly FactsNeeded[] {
  try {
    const decided = deciding(decide);
    return decided.decided ? [] : [decided.needed];
  } catch {
    return [];
  }
}

/** One question for several: each fact once. */
function together(all: readonly FactsNeeded[]): FactsNeeded {
  const [first] = all;
  if (first !== undefined && all.length === 1) return first;
  const union = <T>(listOf: (needed: FactsNeeded) => readonly T[]): readonly T[] => [
    ...new Map(all.flatMap(listOf).map((one) => [JSON.stringify(one), one])).values(),
  ];
  return {
    state: union(({ state }) => state),
    events: union(({ events }) => events),
    changes: union(({ changes }) => changes),
    citing: union(({ citing }) => citing),
    residents: union(({ residents }) => residents),
    allResidents: all.some(({ allResidents }) => allResidents),
  };
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
