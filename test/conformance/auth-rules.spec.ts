import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { EventId, Pdu, RoomId, UserId } from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { parseJson, type JsonObject } from '@exeunt/signing';
import { checkAuthEvents, checkAuthRules } from '../../libs/room/src/auth-rules/check-auth.js';

interface VectorEvent {
  readonly event_id?: string;
  readonly room_id?: string;
  readonly type: string;
  readonly sender: string;
  readonly state_key?: string;
  readonly content: JsonObject;
  readonly prev_events?: readonly (string | readonly [string, unknown])[];
}

interface Row {
  readonly id: string;
  readonly source: { readonly test: string };
  readonly roomVersion: string;
  readonly disputed?: boolean;
  readonly kind: 'stateDependent' | 'authEventsList';
  readonly input: {
    readonly event: VectorEvent;
    readonly state?: readonly VectorEvent[];
    readonly prevEventsIsOnlyCreate?: boolean;
    readonly authEvents?: readonly { readonly event: VectorEvent; readonly rejected?: boolean }[];
  };
  readonly expected: { readonly allow: boolean };
}

const file = readFileSync(new URL('vectors/auth-rules.json', import.meta.url), 'utf8');
const { vectors } = parseJson(file) as unknown as { readonly vectors: readonly Row[] };
// Not scored, because upstreams check more than the rules say: au-067, au-068, au-103, au-104.
const rows = vectors.filter(({ disputed }) => disputed !== true);
const named = (kind: Row['kind']): [string, Row][] =>
  rows
    .filter((row) => row.kind === kind)
    .map((row) => [`${row.id} v${row.roomVersion} ${row.source.test}`, row]);

/** A vector event is partial; what it lacks, the rules under test do not look at. */
function pduOf(event: VectorEvent, version: RoomVersion, prevEvents?: readonly EventId[]): Pdu {
  const eventId = (event.event_id ?? '$of-the-vector:example.org') as EventId;
  return {
    roomVersion: version,
    eventId,
    roomId: (event.room_id ?? `!${eventId.slice(1)}`) as RoomId,
    type: event.type,
    sender: event.sender as UserId,
    ...(event.state_key === undefined ? {} : { stateKey: event.state_key }),
    content: event.content,
    prevEvents:
      prevEvents ??
      (event.prev_events ?? []).map((reference) =>
        typeof reference === 'string' ? (reference as EventId) : (reference[0] as EventId),
      ),
    authEvents: [],
    depth: 1,
    originServerTs: 0,
    json: event as unknown as JsonObject,
  };
}

function versionOf(row: Row): RoomVersion {
  const version = roomVersion(row.roomVersion);
  if (version === undefined) throw new Error(`${row.id} is of an unknown room version`);
  return version;
}

describe('auth rules against the state before the event', () => {
  it.each(named('stateDependent'))('%s', (_name, row) => {
    const version = versionOf(row);
    const state = (row.input.state ?? []).map((event) => pduOf(event, version));
    const lookup = (type: string, stateKey: string): Pdu | undefined =>
      state.find((pdu) => pdu.type === type && pdu.stateKey === stateKey);
    const create = lookup('m.room.create', '');

    const onlyCreate = row.input.prevEventsIsOnlyCreate === true && create !== undefined;
    const isCreate = row.input.event.type === 'm.room.create';
    const others = row.input.event.prev_events === undefined && !isCreate ? ['$other' as EventId] : undefined;
    const pdu = pduOf(row.input.event, version, onlyCreate ? [create.eventId] : others);

    const verdict = checkAuthRules(pdu, version, lookup, { create });
    expect(verdict).toMatchObject({ allowed: row.expected.allow });
  });
});

describe('checks on the cited auth events', () => {
  it.each(named('authEventsList'))('%s', (_name, row) => {
    const version = versionOf(row);
    const pdu = pduOf(row.input.event, version);
    const cited = (row.input.authEvents ?? []).map(({ event, rejected }) => ({
      pdu: pduOf(event, version),
      rejected: rejected === true,
    }));
    // The rows for version 12 take the create event, which is never cited, for granted.
    const create = pduOf(
      {
        event_id: `$${pdu.roomId.slice(1)}`,
        type: 'm.room.create',
        sender: '@alice:matrix.local',
        state_key: '',
        content: {},
      },
      version,
    );

    const verdict = checkAuthEvents(pdu, version, cited, { create });
    expect(verdict).toMatchObject({ allowed: row.expected.allow });
  });
});
