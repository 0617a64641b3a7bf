import type { EventId, RoomId, ServerName } from '@exeunt/pdu';
import type { DomainEvent, Facts, FactsNeeded, PduAccepted, RoomHeader, StateEntry } from '@exeunt/room';
import { authEventIdsOfState, isPduEvent, knownPdu } from './codec.js';
import type { Append, EventStore, LoggedEvent } from './event-store.js';
import type { Outbox, OutboxEntry } from './outbox.js';
import { compareStoredText } from './stored-text.js';

interface StoredRoom {
  header: RoomHeader;
  readonly log: DomainEvent[];
  /** By type and state_key, oldest first. */
  readonly state: Map<string, StateEntry[]>;
  /** The last position of each event ID. */
  readonly positions: Map<EventId, number>;
  readonly placed: Map<EventId, number>;
  readonly citing: Map<EventId, Set<EventId>>;
  readonly residents: Map<ServerName, number>;
}

/**
 * The event store's contract without a database, for tests and benchmarks. Nothing is durable; domain events are
 * kept and given back as they are, not copied.
 */
export class InMemoryEventStore implements EventStore, Outbox {
  readonly #rooms = new Map<RoomId, StoredRoom>();
  readonly #outbox = new Map<string, OutboxEntry>();
  readonly #listeners = new Set<() => void>();
  #lastOutboxId = 0;

  async append(append: Append): Promise<'appended' | 'conflict'> {
    const { roomId, expectedPosition, domainEvents, header } = append;
    if (domainEvents.length === 0) throw new Error('an append of nothing');
    if (header.position !== expectedPosition + domainEvents.length) {
      throw new Error(
        `a header at ${header.position} for ${domainEvents.length} events after ${expectedPosition}`,
      );
    }
    if ((this.#rooms.get(roomId)?.log.length ?? 0) !== expectedPosition) return 'conflict';
    refuseWhatNoTableTakes(append);
    const room = this.#rooms.get(roomId) ?? emptyRoom(header);
    this.#rooms.set(roomId, room);
    room.header = header;
    const destinations = new Map(
      append.broadcasts.map((broadcast) => [broadcast.eventId, broadcast.destinations]),
    );
    let hasOutbox = false;
    for (const domainEvent of domainEvents) {
      const position = room.log.push(domainEvent);
      fold(room, domainEvent, position);
      if (domainEvent.type === 'PduAccepted' && domainEvent.place === 'graph') {
        hasOutbox = true;
        const id = String((this.#lastOutboxId += 1));
        const to = destinations.get(domainEvent.eventId) ?? [];
        const traceparent = append.traceparents?.get(domainEvent.eventId);
        this.#outbox.set(id, {
          id,
          roomId,
          roomVersion: header.roomVersion,
          position,
          domainEvent,
          destinations: to,
          ...(traceparent === undefined ? {} : { traceparent }),
        });
      }
    }
    for (const [server, joined] of append.residents) {
      if (joined > 0) room.residents.set(server, joined);
      else room.residents.delete(server);
    }
    if (hasOutbox) for (const listener of this.#listeners) listener();
    return 'appended';
  }

  async header(roomId: RoomId): Promise<RoomHeader | undefined> {
    return this.#rooms.get(roomId)?.header;
  }

  async facts(roomId: RoomId, position: number, needed: FactsNeeded): Promise<Facts | 'moved'> {
    const room = this.#rooms.get(roomId);
    if ((room?.log.length ?? 0) !== position) return 'moved';
    const known = needed.events.flatMap((eventId) => {
      const at = room?.positions.get(eventId);
      const domainEvent = at === undefined ? undefined : room?.log[at - 1];
      if (at === undefined || domainEvent === undefined || !isPduEvent(domainEvent)) return [];
      return [knownPdu(at, domainEvent, room?.placed.get(eventId))];
    });
    const placed = needed.events.flatMap((eventId) => {
      const at = room?.positions.has(eventId) === false ? room.placed.get(eventId) : undefined;
      return at === undefined ? [] : [{ eventId, position: at }];
    });
    const residents = needed.allResidents ? [...(room?.residents.keys() ?? [])] : needed.residents;
    return {
      state: needed.state
        .flatMap(({ type, stateKey }) => room?.state.get(keyOf(type, stateKey)) ?? [])
        .sort((one, other) => one.position - other.position),
      events: known,
      ...(placed.length === 0 ? {} : { placed }),
      changes: needed.changes.map((range) => ({
        ...range,
        keys: changedKeys(room, range.after, range.upTo),
      })),
      citing: needed.citing.flatMap((cited) => {
        const by = room?.citing.get(cited);
        return by === undefined ? [] : [{ cited, by: [...by] }];
      }),
      residents: residents.flatMap((server) => {
        const joined = room?.residents.get(server);
        return joined === undefined ? [] : [[server, joined] as const];
      }),
    };
  }

  async read(roomId: RoomId, from: number, limit: number): Promise<readonly LoggedEvent[]> {
    const start = Math.max(from, 1);
    const log = this.#rooms.get(roomId)?.log.slice(start - 1, start - 1 + limit) ?? [];
    return log.map((domainEvent, index) => ({ position: start + index, domainEvent }));
  }

  async stateAt(
    roomId: RoomId,
    position: number,
    { type, stateKey, after, limit }: Parameters<EventStore['stateAt']>[2],
  ): Promise<readonly StateEntry[]> {
    return [...(this.#rooms.get(roomId)?.state.values() ?? [])]
      .flatMap((history) => history.findLast((entry) => entry.position <= position) ?? [])
      .filter((entry) => entry.eventId !== null)
      .filter((entry) => type === undefined || entry.type === type)
      .filter((entry) => stateKey === undefined || entry.stateKey === stateKey)
      .sort(byKey)
      .filter((entry) => after === undefined || byKey(entry, { type: after[0], stateKey: after[1] }) > 0)
      .slice(0, limit);
  }

  async pdus(roomId: RoomId, eventIds: readonly EventId[]): Promise<ReadonlyMap<EventId, DomainEvent>> {
    const room = this.#rooms.get(roomId);
    return new Map(
      eventIds.flatMap((eventId) => {
        const domainEvent = room?.log[(room.positions.get(eventId) ?? 0) - 1];
        return domainEvent === undefined ? [] : [[eventId, domainEvent] as const];
      }),
    );
  }

  async rooms(after: string | undefined, limit: number): Promise<readonly RoomHeader[]> {
    return [...this.#rooms]
      .filter(([roomId]) => after === undefined || compareStoredText(roomId, after) > 0)
      .sort(([one], [other]) => compareStoredText(one, other))
      .slice(0, limit)
      .map(([, room]) => room.header);
  }

  async residents(roomId: RoomId): Promise<readonly (readonly [ServerName, number])[]> {
    const residents = [...(this.#rooms.get(roomId)?.residents ?? [])];
    return residents.sort(([one], [other]) => compareStoredText(one, other));
  }

  async take(limit: number): Promise<readonly OutboxEntry[]> {
    return [...this.#outbox.values()].slice(0, limit);
  }

  async done(entries: readonly OutboxEntry[]): Promise<void> {
    for (const { id } of entries) this.#outbox.delete(id);
  }

  onEntry(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

function emptyRoom(header: RoomHeader): StoredRoom {
  return {
    header,
    log: [],
    state: new Map(),
    positions: new Map(),
    placed: new Map(),
    citing: new Map(),
    residents: new Map(),
  };
}

/** The database refuses these as a whole; so does this, before anything is written. */
function refuseWhatNoTableTakes({ domainEvents, broadcasts }: Append): void {
  const inGraph = new Set<EventId>();
  for (const domainEvent of domainEvents) {
    if (domainEvent.type !== 'PduAccepted') continue;
    if (domainEvent.place === 'graph') inGraph.add(domainEvent.eventId);
    const keys = new Set(domainEvent.changes.map(({ type, stateKey }) => keyOf(type, stateKey)));
    if (keys.size < domainEvent.changes.length) throw new Error('one domain event changes one entry twice');
  }
  const stray = broadcasts.filter(({ eventId }) => !inGraph.has(eventId)).map(({ eventId }) => eventId);
  if (stray.length > 0) {
    throw new Error(`a broadcast of ${stray.join(', ')}, which this append doesn't put into the graph`);
  }
}

function fold(room: StoredRoom, domainEvent: DomainEvent, position: number): void {
  if (domainEvent.type === 'SnapshotPlaced') {
    for (const eventId of domainEvent.forwardExtremities) room.placed.set(eventId, position);
  }
  if (!isPduEvent(domainEvent)) return;
  room.positions.set(domainEvent.eventId, position);
  for (const cited of authEventIdsOfState(domainEvent.pdu) ?? []) {
    room.citing.set(cited, (room.citing.get(cited) ?? new Set()).add(domainEvent.eventId));
  }
  if (domainEvent.type !== 'PduAccepted') return;
  for (const { type, stateKey, eventId } of (domainEvent satisfies PduAccepted).changes) {
    const key = keyOf(type, stateKey);
    const history = room.state.get(key) ?? [];
    history.push({ type, stateKey, position, eventId });
    room.state.set(key, history);
  }
}

function changedKeys(
  room: StoredRoom | undefined,
  after: number,
  upTo: number,
): { type: string; stateKey: string }[] {
  const keys = new Map<string, { type: string; stateKey: string }>();
  for (const domainEvent of room?.log.slice(after, upTo) ?? []) {
    if (domainEvent.type !== 'PduAccepted') continue;
    for (const { type, stateKey } of domainEvent.changes) keys.set(keyOf(type, stateKey), { type, stateKey });
  }
  return [...keys.values()];
}

function keyOf(type: string, stateKey: string): string {
  return JSON.stringify([type, stateKey]);
}

type Key = Pick<StateEntry, 'type' | 'stateKey'>;
function byKey(one: Key, other: Key): number {
  return compareStoredText(one.type, other.type) || compareStoredText(one.stateKey, other.stateKey);
}
