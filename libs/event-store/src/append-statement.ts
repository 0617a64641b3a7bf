import type { Statement } from '@exeunt/database';
import type { DomainEvent, PduAccepted } from '@exeunt/room';
import { authEventIdsOfState, encodeDomainEvent } from './codec.js';
import type { Append } from './event-store.js';
import type { WrittenHeader } from './stored-header.js';
import { toStoredText } from './stored-text.js';

/** Rows for one table: a value per column, in the order of {@link parts}. */
type Row = readonly (string | number | null)[];

/** How the statement gets to write: it makes the room's row, moves it on, or goes on within the transaction. */
type Entry = 'create' | 'create with extremities' | 'move' | 'move with extremities' | 'more';

/** What one statement of an append writes, besides the room's row. */
export interface AppendRows {
  logged: Row[];
  state: Row[];
  outbox: Row[];
  placed: Row[];
  residents: Row[];
  departed: Row[];
}

const parts = {
  logged: {
    columns: {
      position: 'bigint',
      type: 'text',
      schema_version: 'integer',
      event_id: 'text',
      payload: 'text',
      changes: 'text',
      pdu: 'text',
      // An array literal: arrays of arrays must have one length.
      auth_event_ids: 'text',
    },
    sql: (from: string) => `INSERT INTO room_log
      (room_id, position, type, schema_version, event_id, payload, changes, pdu, auth_event_ids)
      SELECT room_id, position, type, schema_version, event_id, payload, changes, pdu, auth_event_ids::text[] ${from}`,
  },
  state: {
    columns: { type: 'text', state_key: 'text', position: 'bigint', event_id: 'text' },
    sql: (from: string) => `INSERT INTO room_state (room_id, type, state_key, position, event_id)
      SELECT room_id, type, state_key, position, event_id ${from}`,
  },
  outbox: {
    columns: { position: 'bigint', destinations: 'text', traceparent: 'text' },
    sql: (from: string) => `INSERT INTO outbox (room_id, position, destinations, traceparent)
      SELECT room_id, position, destinations, traceparent ${from}`,
  },
  placed: {
    columns: { event_id: 'text', position: 'bigint' },
    sql: (from: string) => `INSERT INTO room_placed (room_id, event_id, position)
      SELECT room_id, event_id, position ${from}`,
  },
  residents: {
    columns: { server: 'text', joined: 'bigint' },
    sql: (from: string) => `INSERT INTO room_residents AS old (room_id, server, joined)
      SELECT room_id, server, joined ${from}
      ON CONFLICT (room_id, server) DO UPDATE SET joined = excluded.joined`,
  },
  departed: {
    columns: { server: 'text' },
    // The room's own key first, whatever the planner thinks of the size of these.
    sql: (from: string) => `DELETE FROM room_residents
      WHERE room_id = (SELECT room_id FROM entered) AND server = ANY (ARRAY(SELECT server ${from}))`,
  },
} as const;

type Part = keyof typeof parts;
const partNames = Object.keys(parts) as Part[];

/** A statement stays below both: rows of the log, and UTF-16 units of text. */
const MAX_ROWS = 1_000;
const MAX_TEXT = 4_000_000;

/** The rows of an append, cut where one statement would grow too large; the residents go with the first. */
export function* rowsOf(append: Append): Generator<AppendRows> {
  const destinations = new Map(
    append.broadcasts.map((broadcast) => [broadcast.eventId, broadcast.destinations]),
  );
  let rows = noRows();
  let text = 0;
  for (const [server, joined] of append.residents) {
    if (joined > 0) rows.residents.push([toStoredText(server), joined]);
    else rows.departed.push([toStoredText(server)]);
  }
  let position = append.expectedPosition;
  for (const domainEvent of append.domainEvents) {
    if (rows.logged.length >= MAX_ROWS || text > MAX_TEXT) {
      yield rows;
      rows = noRows();
      text = 0;
    }
    position += 1;
    text += addDomainEvent(rows, position, domainEvent, destinations, append.traceparents);
  }
  if (destinations.size > 0) {
    throw new Error(
      `a broadcast of ${[...destinations.keys()].join(', ')}, which this append doesn't put into the graph`,
    );
  }
  yield rows;
}

function addDomainEvent(
  rows: AppendRows,
  position: number,
  domainEvent: DomainEvent,
  destinations: Map<string, readonly string[]>,
  traceparents: Append['traceparents'],
): number {
  const { type, schemaVersion, eventId, payload, changes, pdu } = encodeDomainEvent(domainEvent);
  const cited = 'pdu' in domainEvent ? authEventIdsOfState(domainEvent.pdu) : undefined;
  rows.logged.push([
    position,
    type,
    schemaVersion,
    eventId === null ? null : toStoredText(eventId),
    payload,
    changes,
    pdu,
    cited === undefined ? null : arrayLiteral(cited.map(toStoredText)),
  ]);
  if (domainEvent.type === 'PduAccepted') {
    addAccepted(rows, position, domainEvent, destinations, traceparents?.get(domainEvent.eventId) ?? null);
  }
  if (domainEvent.type === 'SnapshotPlaced') {
    for (const extremity of new Set(domainEvent.forwardExtremities))
      rows.placed.push([toStoredText(extremity), position]);
  }
  return payload.length + (changes?.length ?? 0) + (pdu?.length ?? 0);
}

function addAccepted(
  rows: AppendRows,
  position: number,
  accepted: PduAccepted,
  destinations: Map<string, readonly string[]>,
  traceparent: string | null,
): void {
  for (const change of accepted.changes) {
    const eventId = change.eventId === null ? null : toStoredText(change.eventId);
    rows.state.push([toStoredText(change.type), toStoredText(change.stateKey), position, eventId]);
  }
  if (accepted.place !== 'graph') return;
  rows.outbox.push([position, JSON.stringify(destinations.get(accepted.eventId) ?? []), traceparent]);
  destinations.delete(accepted.eventId);
}

function noRows(): AppendRows {
  return { logged: [], state: [], outbox: [], placed: [], residents: [], departed: [] };
}

/** A PostgreSQL array literal. */
export function arrayLiteral(texts: readonly string[]): string {
  return `{${texts.map((text) => `"${text.replace(/["\\]/g, '\\$&')}"`).join(',')}}`;
}

/**
 * One statement that writes everything or nothing: all inserts take the room's row from the update of it, so that
 * none finds a row where the room has moved on. Gives one row if it wrote. Without `written` it goes on within the
 * transaction that has written the room's row.
 */
export function appendStatement(
  append: Append,
  written: WrittenHeader | undefined,
  rows: AppendRows,
): Statement {
  const values: unknown[] = [toStoredText(append.roomId)];
  const isNew = append.expectedPosition === 0;
  let entry: Entry = 'more';
  if (written !== undefined) {
    entry = isNew ? 'create' : 'move';
    const key = isNew ? append.header.roomVersion : append.expectedPosition;
    values.push(key, append.expectedPosition + append.domainEvents.length, written.header);
    if (written.extremities !== undefined) {
      entry = `${entry} with extremities`;
      values.push(written.extremities);
    }
  }
  // One row goes as plain values, several as an array a column: each shape is its own prepared statement.
  let shape = `append ${entry}`;
  for (const part of partNames) {
    const count = rows[part].length;
    if (count === 0) continue;
    shape += ` ${count === 1 ? part[0] : `${part[0]}s`}`;
    const width = Object.keys(parts[part].columns).length;
    for (let column = 0; column < width; column += 1) {
      values.push(count === 1 ? rows[part][0]?.[column] : rows[part].map((row) => row[column]));
    }
  }
  let text = texts.get(shape);
  if (text === undefined) texts.set(shape, (text = writeText(entry, rows)));
  return { name: shape, text, values };
}

const texts = new Map<string, string>();

const entries: Readonly<Record<Entry, string>> = {
  create: `INSERT INTO rooms (room_id, room_version, position, header) VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING RETURNING room_id`,
  'create with extremities': `INSERT INTO rooms (room_id, room_version, position, header, extremities)
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING room_id`,
  move: `UPDATE rooms SET position = $3, header = $4 WHERE room_id = $1 AND position = $2 RETURNING room_id`,
  'move with extremities': `UPDATE rooms SET position = $3, header = $4, extremities = $5
    WHERE room_id = $1 AND position = $2 RETURNING room_id`,
  more: `SELECT $1::text AS room_id`,
};

function writeText(entry: Entry, rows: AppendRows): string {
  let parameter = entry === 'more' ? 1 : entry.endsWith('extremities') ? 5 : 4;
  const written = partNames
    .filter((part) => rows[part].length > 0)
    .map((part) => {
      const columns = Object.entries(parts[part].columns);
      const from =
        rows[part].length === 1
          ? columns.map(([name, type]) => `$${++parameter}::${type} AS ${name}`).join(', ')
          : columns.map(([, type]) => `$${++parameter}::${type}[]`).join(', ');
      const source =
        rows[part].length === 1
          ? `FROM (SELECT room_id, ${from} FROM entered) AS rows`
          : `FROM entered, unnest(${from}) AS rows(${columns.map(([name]) => name).join(', ')})`;
      return `, ${part} AS (${parts[part].sql(source)})`;
    });
  return `WITH entered AS (${entries[entry]})${written.join('')} SELECT room_id FROM entered`;
}
