import type { Statement } from '@exeunt/database';
import type { EventId, RoomId, ServerName } from '@exeunt/pdu';
import type { Facts, FactsNeeded, KnownPdu } from '@exeunt/room';
import { decodeDomainEvent, isPduEvent, knownPdu } from './codec.js';
import { fromStoredText, toStoredText } from './stored-text.js';

/** What a row says, and then what fits: each kind uses of the columns what it has. */
type FactRow = readonly [
  kind: 'room' | 'state' | 'event' | 'placed' | 'changes' | 'citing' | 'resident',
  number: string | null,
  a: string | null,
  b: string | null,
  c: string | null,
  d: string | null,
];

/** One statement, and so one snapshot, for the room's position and every fact that is asked for. */
export function factsStatement(roomId: RoomId, needed: FactsNeeded): Statement {
  const values: unknown[] = [toStoredText(roomId)];
  const branches = [
    `SELECT 'room' AS kind, position AS number, NULL AS a, NULL AS b, NULL AS c, NULL AS d
    FROM rooms WHERE room_id = $1`,
  ];
  let name = 'facts';
  const branch = (kind: string, arrays: readonly (readonly unknown[])[], sql: (first: number) => string) => {
    name += `-${kind}`;
    branches.push(sql(values.length + 1));
    values.push(...arrays);
  };
  if (needed.state.length > 0) {
    const types = needed.state.map(({ type }) => toStoredText(type));
    const stateKeys = needed.state.map(({ stateKey }) => toStoredText(stateKey));
    branch(
      'state',
      [types, stateKeys],
      (first) => `
      SELECT 'state', entry.position, entry.type, entry.state_key, entry.event_id, NULL
      FROM unnest($${first}::text[], $${first + 1}::text[]) AS wanted(type, state_key)
      CROSS JOIN LATERAL (SELECT * FROM room_state WHERE room_id = $1
        AND room_state.type = wanted.type AND room_state.state_key = wanted.state_key OFFSET 0) AS entry`,
    );
  }
  if (needed.events.length > 0) {
    branch(
      'events',
      [needed.events.map(toStoredText)],
      (first) => `
      SELECT 'event', logged.position, logged.type || ' ' || logged.schema_version, logged.event_id, logged.payload,
        logged.pdu
      FROM unnest($${first}::text[]) AS wanted(event_id)
      CROSS JOIN LATERAL (SELECT * FROM room_log WHERE room_id = $1 AND room_log.event_id = wanted.event_id
        ORDER BY position DESC LIMIT 1) AS logged
      UNION ALL
      SELECT 'placed', max(placed.position), placed.event_id, NULL, NULL, NULL
      FROM room_placed AS placed WHERE room_id = $1 AND event_id = ANY ($${first}::text[])
      GROUP BY placed.event_id`,
    );
  }
  if (needed.changes.length > 0) {
    const after = needed.changes.map((range) => range.after);
    const upTo = needed.changes.map((range) => range.upTo);
    branch(
      'changes',
      [after, upTo],
      (first) => `
      SELECT 'changes', range.number, logged.changes, NULL, NULL, NULL
      FROM unnest($${first}::bigint[], $${first + 1}::bigint[]) WITH ORDINALITY AS range(after, up_to, number)
      CROSS JOIN LATERAL (SELECT changes FROM room_log WHERE room_id = $1
        AND position > range.after AND position <= range.up_to AND changes IS NOT NULL OFFSET 0) AS logged`,
    );
  }
  if (needed.citing.length > 0) {
    branch(
      'citing',
      [needed.citing.map(toStoredText)],
      (first) => `
      SELECT 'citing', logged.position, cited.event_id, logged.event_id, NULL, NULL
      FROM room_log AS logged, unnest(logged.auth_event_ids) AS cited(event_id)
      WHERE room_id = $1 AND logged.auth_event_ids && $${first}::text[] AND cited.event_id = ANY ($${first}::text[])`,
    );
  }
  if (needed.allResidents) {
    branch(
      'all',
      [],
      () => `SELECT 'resident', joined, server, NULL, NULL, NULL FROM room_residents WHERE room_id = $1`,
    );
  } else if (needed.residents.length > 0) {
    branch(
      'residents',
      [needed.residents.map(toStoredText)],
      (first) => `
      SELECT 'resident', joined, server, NULL, NULL, NULL
      FROM room_residents WHERE room_id = $1 AND server = ANY ($${first}::text[])`,
    );
  }
  return { name, text: branches.join(' UNION ALL '), values, rowMode: 'array' };
}

/** The facts, and the room's position as of which they are; 0 for a room that is not in the store. */
export function readFacts(
  rows: readonly FactRow[],
  needed: FactsNeeded,
): { readonly position: number; readonly facts: Facts } {
  const state: Facts['state'][number][] = [];
  const logged: FactRow[] = [];
  const placed = new Map<EventId, number>();
  const changes = needed.changes.map((range) => ({
    ...range,
    keys: new Map<string, { readonly type: string; readonly stateKey: string }>(),
  }));
  const citing = new Map(needed.citing.map((cited) => [cited, new Set<EventId>()]));
  const residents: [ServerName, number][] = [];
  let at = 0;
  for (const row of rows) {
    const [kind, number, a, b, c] = row;
    switch (kind) {
      case 'room':
        at = Number(number);
        break;
      case 'state':
        state.push({
          type: text(a),
          stateKey: text(b),
          position: Number(number),
          eventId: c === null ? null : (text(c) as EventId),
        });
        break;
      case 'event':
        logged.push(row);
        break;
      case 'placed':
        placed.set(text(a) as EventId, Number(number));
        break;
      case 'changes': {
        const keys = changes[Number(number) - 1]?.keys;
        for (const { type, stateKey } of JSON.parse(a ?? '[]') as { type: string; stateKey: string }[]) {
          keys?.set(JSON.stringify([type, stateKey]), { type, stateKey });
        }
        break;
      }
      case 'citing':
        citing.get(text(a) as EventId)?.add(text(b) as EventId);
        break;
      case 'resident':
        residents.push([text(a) as ServerName, Number(number)]);
        break;
      default:
        kind satisfies never;
    }
  }
  const events = logged.map((row) => readEvent(row, placed));
  for (const { eventId } of events) placed.delete(eventId);
  const facts: Facts = {
    state: state.sort((one, other) => one.position - other.position),
    events,
    ...(placed.size === 0 ? {} : { placed: [...placed].map(([eventId, at]) => ({ eventId, position: at })) }),
    changes: changes.map(({ after, upTo, keys }) => ({ after, upTo, keys: [...keys.values()] })),
    citing: [...citing].filter(([, by]) => by.size > 0).map(([cited, by]) => ({ cited, by: [...by] })),
    residents,
  };
  return { position: at, facts };
}

function readEvent(
  [, number, kind, storedId, payload, pdu]: FactRow,
  placed: ReadonlyMap<EventId, number>,
): KnownPdu {
  const [type = '', schemaVersion] = (kind ?? '').split(' ');
  const eventId = text(storedId) as EventId;
  const domainEvent = decodeDomainEvent({
    type,
    schemaVersion: Number(schemaVersion),
    eventId,
    payload: payload ?? '{}',
    changes: null,
    pdu,
  });
  if (!isPduEvent(domainEvent))
    throw new Error(`the log has the event ID ${eventId} for a domain event without a PDU`);
  return knownPdu(Number(number), domainEvent, placed.get(eventId));
}

function text(stored: string | null): string {
  return fromStoredText(stored ?? '');
}
