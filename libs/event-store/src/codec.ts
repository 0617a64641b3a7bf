import { isJsonObject, memberOf, parseJson, stringifyJson, type JsonObject } from '@exeunt/signing';
import { parseEventId, parseUserId, serverNameOf, type ServerName } from '@exeunt/pdu';
import type {
  DomainEvent,
  EventId,
  KnownPdu,
  MemberEntry,
  PduAccepted,
  StateChange,
  StoredStateRef,
} from '@exeunt/room';

/** A domain event as a row of the log. */
export interface StoredDomainEvent {
  readonly type: string;
  readonly schemaVersion: number;
  readonly eventId: string | null;
  /** JSON of the domain event without what has a field of its own here. */
  readonly payload: string;
  /** JSON of the changes of the current state, where there are any. */
  readonly changes: string | null;
  /** JSON of the PDU, lossless: numbers as they were written. */
  readonly pdu: string | null;
}

/** Turns the payload of one schema version into the next version's. */
export type Upcaster = (payload: JsonObject) => JsonObject;

/** Of each type of domain event, the upcasters from version 0 on; the current version is how many there are. */
export type Upcasters = Readonly<Record<DomainEvent['type'], readonly Upcaster[]>>;

/**
 * Every form a domain event ever had, by the way it took since. Whoever changes the stored form of one adds the
 * function that makes the new form of the old, and never edits one that is here.
 */
export const upcasters: Upcasters = {
  RoomIngested: [],
  SnapshotPlaced: [],
  PduAccepted: [],
  PduRejected: [],
  PduSoftFailed: [],
};

/** The domain events that carry a PDU. */
export type PduEvent = Extract<DomainEvent, { readonly pdu: JsonObject }>;

/** The row of a domain event, in the current schema version. */
export function encodeDomainEvent(domainEvent: DomainEvent, known: Upcasters = upcasters): StoredDomainEvent {
  const { type, ...fields } = domainEvent;
  const schemaVersion = known[type].length;
  if (!('pdu' in fields)) {
    return { type, schemaVersion, eventId: null, payload: JSON.stringify(fields), changes: null, pdu: null };
  }
  const { eventId, pdu, changes, ...payload } = fields as Omit<PduAccepted, 'type'>;
  return {
    type,
    schemaVersion,
    eventId,
    payload: JSON.stringify(payload),
    changes: changes === undefined || changes.length === 0 ? null : JSON.stringify(changes),
    pdu: stringifyJson(pdu),
  };
}

/**
 * The domain event of a row, of this or any earlier schema version.
 *
 * Throws where a later release wrote it: this one can't know what it says.
 */
export function decodeDomainEvent(stored: StoredDomainEvent, known: Upcasters = upcasters): DomainEvent {
  const { type, schemaVersion, eventId } = stored;
  const path = Object.hasOwn(known, type) ? known[type as DomainEvent['type']] : undefined;
  if (path === undefined || schemaVersion > path.length) {
    throw new Error(`the log holds a ${type} of schema version ${schemaVersion}, written by a later release`);
  }
  let payload = JSON.parse(stored.payload) as JsonObject;
  for (const upcast of path.slice(schemaVersion)) payload = upcast(payload);
  const fields: Record<string, unknown> = { type };
  if (stored.pdu !== null) {
    fields.eventId = eventId;
    fields.pdu = parseJson(stored.pdu, { maxDepth: 1000 });
  }
  Object.assign(fields, payload);
  if (type === 'PduAccepted') fields.changes = stored.changes === null ? [] : JSON.parse(stored.changes);
  return fields as unknown as DomainEvent;
}

/** Whether the domain event carries a PDU. */
export function isPduEvent(domainEvent: DomainEvent): domainEvent is PduEvent {
  return 'pdu' in domainEvent;
}

/**
 * What a decision is told of the PDU that the log has at `position`. `placedAt` is the position of the last snapshot
 * that has it as a forward extremity, if there is one.
 */
export function knownPdu(position: number, domainEvent: PduEvent, placedAt?: number): KnownPdu {
  const stateAfter = stateAfterOf(position, domainEvent, placedAt);
  const known = {
    eventId: domainEvent.eventId,
    position,
    pdu: domainEvent.pdu,
    ...(stateAfter === undefined ? {} : { stateAfter }),
  };
  switch (domainEvent.type) {
    case 'PduAccepted':
      return { ...known, status: 'accepted', place: domainEvent.place };
    case 'PduRejected':
      return {
        ...known,
        status: 'rejected',
        place: 'graph',
        rule: domainEvent.rule,
        detail: domainEvent.detail,
      };
    case 'PduSoftFailed':
      return {
        ...known,
        status: 'soft-failed',
        place: 'graph',
        rule: domainEvent.rule,
        detail: domainEvent.detail,
      };
    default:
      return domainEvent satisfies never;
  }
}

function stateAfterOf(position: number, domainEvent: PduEvent, placedAt = 0): StoredStateRef | undefined {
  // An extremity of a snapshot is known as an entry of its state or auth chain; the state after it is the snapshot.
  if (placedAt > position) return [placedAt, []];
  if (domainEvent.type === 'PduAccepted' && domainEvent.place !== 'graph') {
    return placedAt > 0 ? [placedAt, []] : undefined;
  }
  switch (domainEvent.stateAfter) {
    case 'current':
      return [position, []];
    case 'none':
      return undefined;
    default:
      return domainEvent.stateAfter;
  }
}

/** The auth events of a state event by ID; `undefined` for any other PDU. Room versions 1 and 2 cite pairs. */
export function authEventIdsOfState(pdu: JsonObject): EventId[] | undefined {
  if (typeof pdu.state_key !== 'string' || !Array.isArray(pdu.auth_events)) return undefined;
  return pdu.auth_events.map((cited) => (Array.isArray(cited) ? cited[0] : cited) as EventId);
}

/**
 * The events that a redaction names, wherever its room version looks for the name; none for any other PDU. What is no
 * event ID names nothing.
 */
export function redactedIdsOf(pdu: JsonObject): readonly EventId[] {
  if (pdu.type !== 'm.room.redaction') return [];
  const content = memberOf(pdu, 'content');
  const named = [
    memberOf(pdu, 'redacts'),
    isJsonObject(content) ? memberOf(content, 'redacts') : undefined,
  ].flatMap((one) => (typeof one === 'string' ? (parseEventId(one) ?? []) : []));
  return [...new Set(named)];
}

/** What the changes at a log position say of a user's membership; `undefined` where it is no user of `server`. */
export function memberEntry(
  server: ServerName,
  stateKey: string,
  position: number,
  changes: readonly StateChange[],
): MemberEntry | undefined {
  const userId = parseUserId(stateKey);
  if (userId === undefined || serverNameOf(userId) !== server) return undefined;
  const change = changes.find((one) => one.type === 'm.room.member' && one.stateKey === stateKey);
  return { userId, position, membership: change?.membership?.to ?? 'none' };
}
