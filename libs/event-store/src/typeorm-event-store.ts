import { DatabaseUnavailable, type Database, type Statement } from '@exeunt/database';
import type { EventId, RoomId, ServerName } from '@exeunt/pdu';
import type { DomainEvent, Facts, FactsNeeded, PduAccepted, RoomHeader, StateEntry } from '@exeunt/room';
import pg from 'pg';
import { appendStatement, rowsOf, type AppendRows } from './append-statement.js';
import { decodeDomainEvent } from './codec.js';
import type { Append, EventStore, LoggedEvent } from './event-store.js';
import { factsStatement, readFacts } from './facts-statement.js';
import { OutboxTraceparent1767225600020 } from './migrations/outbox-traceparent.js';
import { RoomLog1767225600000 } from './migrations/room-log.js';
import type { Outbox, OutboxEntry } from './outbox.js';
import { HeaderWriter, readHeader } from './stored-header.js';
import { fromStoredText, toStoredText } from './stored-text.js';

/** What the database must have been migrated with. */
export const eventStoreMigrations = [RoomLog1767225600000, OutboxTraceparent1767225600020] as const;

type HeaderRow = readonly [header: string, extremities: string | null];
type LogRow = readonly [
  position: string,
  type: string,
  schemaVersion: number,
  eventId: string | null,
  payload: string,
  changes: string | null,
  pdu: string | null,
];
type OutboxColumns = readonly [
  roomId: string,
  roomVersion: string,
  xid: string,
  destinations: string,
  traceparent: string | null,
];
// Look-ups of several rows here and in facts-statement.ts are LATERAL with a LIMIT or an OFFSET 0, which the planner
// doesn't take apart: an index look-up a row. As a join, a plan that was made while the tables were small read a room's
// whole log for every row.
const logColumns = (table: string) =>
  ['position', 'type', 'schema_version', 'event_id', 'payload', 'changes', 'pdu']
    .map((column) => `${table}.${column}`)
    .join(', ');

/** On PGlite nobody vacuums but we, after this many entries of the outbox were taken away. */
const VACUUM_AFTER = 10_000;

/**
 * Rooms' logs and the outbox in PostgreSQL or PGlite. An append is one statement. Rejects with
 * `DatabaseUnavailable` as the database does; an append that was cut off may have been written, which the next
 * append on the room finds out by its conflict.
 */
export class TypeormEventStore implements EventStore, Outbox {
  readonly #database: Database;
  readonly #headers = new HeaderWriter();
  readonly #listeners = new Set<() => void>();
  #takenAwaySinceVacuum = 0;
  #outboxAdopted: Promise<unknown> | undefined;

  constructor(database: Database) {
    this.#database = database;
  }

  async append(append: Append): Promise<'appended' | 'conflict'> {
    const { expectedPosition, domainEvents, header } = append;
    if (domainEvents.length === 0) throw new Error('an append of nothing');
    if (header.position !== expectedPosition + domainEvents.length) {
      throw new Error(
        `a header at ${header.position} for ${domainEvents.length} events after ${expectedPosition}`,
      );
    }
    await this.#adoptOutbox();
    const written = this.#headers.write(append);
    const chunks = rowsOf(append);
    const first = chunks.next().value as AppendRows;
    const second = chunks.next();
    const statement = appendStatement(append, written, first);
    let hasOutbox = first.outbox.length > 0;
    try {
      if (second.done === true) {
        if ((await this.#database.query(statement)).length === 0) return 'conflict';
      } else {
        const isWritten = await this.#database.transaction(async (session) => {
          if ((await session.query(statement)).length === 0) return false;
          for (
            let next: IteratorResult<AppendRows, void> = second;
            next.done !== true;
            next = chunks.next()
          ) {
            hasOutbox ||= next.value.outbox.length > 0;
            await session.query(appendStatement(append, undefined, next.value));
          }
          return true;
        });
        if (!isWritten) return 'conflict';
      }
    } catch (error) {
      if (isConflict(error)) return 'conflict';
      throw error;
    }
    this.#headers.written(append, written);
    if (hasOutbox) for (const listener of this.#listeners) listener();
    return 'appended';
  }

  async header(roomId: RoomId): Promise<RoomHeader | undefined> {
    const [row] = await this.#rows<HeaderRow>({
      name: 'room-header',
      text: 'SELECT header, extremities FROM rooms WHERE room_id = $1',
      values: [toStoredText(roomId)],
    });
    return row === undefined ? undefined : this.#readHeader(row);
  }

  async facts(roomId: RoomId, position: number, needed: FactsNeeded): Promise<Facts | 'moved'> {
    return readFacts(await this.#database.query(factsStatement(roomId, needed)), position, needed);
  }

  async read(roomId: RoomId, from: number, limit: number): Promise<readonly LoggedEvent[]> {
    const rows = await this.#rows<LogRow>({
      name: 'room-read',
      text: `SELECT ${logColumns('room_log')} FROM room_log
        WHERE room_id = $1 AND position >= $2 ORDER BY position LIMIT $3`,
      values: [toStoredText(roomId), from, limit],
    });
    return rows.map((row) => ({ position: Number(row[0]), domainEvent: readDomainEvent(row) }));
  }

  async stateAt(
    roomId: RoomId,
    position: number,
    filter: Parameters<EventStore['stateAt']>[2],
  ): Promise<readonly StateEntry[]> {
    const values: unknown[] = [toStoredText(roomId), position, filter.limit];
    const parameter = (text: string) => `$${values.push(toStoredText(text))}`;
    const conditions = ['room_id = $1', 'position <= $2'];
    if (filter.type !== undefined) conditions.push(`type = ${parameter(filter.type)}`);
    if (filter.stateKey !== undefined) conditions.push(`state_key = ${parameter(filter.stateKey)}`);
    if (filter.after !== undefined) {
      conditions.push(`(type, state_key) > (${parameter(filter.after[0])}, ${parameter(filter.after[1])})`);
    }
    const rows = await this.#rows<[string, string, string, string]>({
      text: `SELECT type, state_key, position, event_id FROM (
          SELECT DISTINCT ON (type, state_key) type, state_key, position, event_id FROM room_state
          WHERE ${conditions.join(' AND ')} ORDER BY type, state_key, position DESC
        ) AS newest WHERE event_id IS NOT NULL ORDER BY type, state_key LIMIT $3`,
      values,
    });
    return rows.map(([type, stateKey, at, eventId]) => ({
      type: fromStoredText(type),
      stateKey: fromStoredText(stateKey),
      position: Number(at),
      eventId: fromStoredText(eventId) as EventId,
    }));
  }

  async pdus(roomId: RoomId, eventIds: readonly EventId[]): Promise<ReadonlyMap<EventId, DomainEvent>> {
    const rows = await this.#rows<LogRow>({
      name: 'room-pdus',
      text: `SELECT ${logColumns('logged')} FROM unnest($2::text[]) AS wanted(event_id)
        CROSS JOIN LATERAL (SELECT * FROM room_log WHERE room_id = $1 AND room_log.event_id = wanted.event_id
          ORDER BY position DESC LIMIT 1) AS logged`,
      values: [toStoredText(roomId), eventIds.map(toStoredText)],
    });
    return new Map(rows.map((row) => [fromStoredText(row[3] ?? '') as EventId, readDomainEvent(row)]));
  }

  async rooms(after: string | undefined, limit: number): Promise<readonly RoomHeader[]> {
    const rows = await this.#rows<HeaderRow>({
      name: 'rooms',
      text: 'SELECT header, extremities FROM rooms WHERE room_id > $1 ORDER BY room_id LIMIT $2',
      values: [toStoredText(after ?? ''), limit],
    });
    return Promise.all(rows.map((row) => this.#readHeader(row)));
  }

  async residents(roomId: RoomId): Promise<readonly (readonly [ServerName, number])[]> {
    const rows = await this.#rows<[string, string]>({
      name: 'room-residents',
      text: 'SELECT server, joined FROM room_residents WHERE room_id = $1 ORDER BY server',
      values: [toStoredText(roomId)],
    });
    return rows.map(([server, joined]) => [fromStoredText(server) as ServerName, Number(joined)] as const);
  }

  /** A transaction with an older ID that is open anywhere in the server holds back what came after it. */
  async take(limit: number): Promise<readonly OutboxEntry[]> {
    await this.#adoptOutbox();
    const rows = await this.#rows<readonly [...LogRow, ...OutboxColumns]>({
      name: 'outbox-take',
      // Transaction IDs are given out after the room's row was found at the expected position, so a room's later
      // append has a higher one. Below the oldest that is under way, nothing new can turn up any more.
      text: `SELECT ${logColumns('logged')},
          oldest.room_id, rooms.room_version, oldest.xid, oldest.destinations, oldest.traceparent
        FROM (
          SELECT * FROM outbox WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, position LIMIT $1
        ) AS oldest
        CROSS JOIN LATERAL (SELECT * FROM room_log
          WHERE room_log.room_id = oldest.room_id AND room_log.position = oldest.position LIMIT 1) AS logged
        CROSS JOIN LATERAL (SELECT room_version FROM rooms WHERE rooms.room_id = oldest.room_id LIMIT 1) AS rooms
        ORDER BY oldest.xid, oldest.position`,
      values: [limit],
    });
    return rows.map((row) => {
      const logged = row.slice(0, 7) as unknown as LogRow;
      const [roomId, roomVersion, xid, destinations, traceparent] = row.slice(7) as unknown as OutboxColumns;
      return {
        id: xid,
        roomId: fromStoredText(roomId) as RoomId,
        roomVersion,
        position: Number(logged[0]),
        domainEvent: readDomainEvent(logged) as PduAccepted,
        destinations: JSON.parse(destinations) as ServerName[],
        ...(traceparent === null ? {} : { traceparent }),
      };
    });
  }

  async done(entries: readonly OutboxEntry[]): Promise<void> {
    if (entries.length === 0) return;
    await this.#database.query({
      name: 'outbox-done',
      text: `DELETE FROM outbox WHERE ctid = ANY (ARRAY(
          SELECT entry.ctid FROM unnest($1::xid8[], $2::bigint[], $3::text[]) AS done(xid, position, room_id)
          CROSS JOIN LATERAL (SELECT ctid FROM outbox
            WHERE outbox.xid = done.xid AND outbox.position = done.position AND outbox.room_id = done.room_id
            OFFSET 0) AS entry
        ))`,
      values: [
        entries.map(({ id }) => id),
        entries.map(({ position }) => position),
        entries.map(({ roomId }) => toStoredText(roomId)),
      ],
    });
    this.#takenAwaySinceVacuum += entries.length;
    if (this.#database.kind === 'pglite' && this.#takenAwaySinceVacuum >= VACUUM_AFTER) {
      this.#takenAwaySinceVacuum = 0;
      await this.#database.query('VACUUM (ANALYZE) outbox, rooms, room_residents');
    }
  }

  onEntry(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * A database that was restored from a dump counts its transactions anew: entries from its former life would wait
   * until the count is there again, and come after what is appended now. They get an ID of today, before anything
   * else is done; within a room the position keeps their order.
   */
  #adoptOutbox(): Promise<unknown> {
    return (this.#outboxAdopted ??= this.#database
      .query(
        `UPDATE outbox SET xid = pg_current_xact_id() WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())`,
      )
      .catch((error: unknown) => {
        this.#outboxAdopted = undefined;
        throw error;
      }));
  }

  #readHeader([header, extremities]: HeaderRow): Promise<RoomHeader> {
    return readHeader(header, extremities, (roomId, from, limit) => this.read(roomId, from, limit));
  }

  #rows<Row extends readonly unknown[]>(statement: Statement): Promise<Row[]> {
    return this.#database.query<Row>({ ...statement, rowMode: 'array' });
  }
}

function readDomainEvent([, type, schemaVersion, eventId, payload, changes, pdu]: LogRow): DomainEvent {
  return decodeDomainEvent({
    type,
    schemaVersion,
    eventId: eventId === null ? null : fromStoredText(eventId),
    payload,
    changes,
    pdu,
  });
}

/** Whether another append was quicker: the keys that two of them can both want. */
function isConflict(error: unknown): boolean {
  if (error instanceof DatabaseUnavailable) {
    // One of two that wait for each other was given up for the other one's sake.
    const { cause } = error;
    return cause instanceof pg.DatabaseError && (cause.code === '40001' || cause.code === '40P01');
  }
  return (
    error instanceof pg.DatabaseError &&
    error.code === '23505' &&
    (error.constraint === 'rooms_pkey' || error.constraint === 'room_log_pkey')
  );
}
