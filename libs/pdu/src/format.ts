import type { RoomVersion } from '@exeunt/room-version';
import {
  encodeCanonicalJson,
  holdsOnlyCanonicalNumbers,
  isJsonObject,
  JsonNumber,
  withoutKeys,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import { eventIdOf } from './hashes.js';
import {
  isWithinIdentifierBytes,
  parseEventId,
  parseRoomId,
  parseUserId,
  roomIdOfCreateEventId,
} from './identifiers.js';
import type { EventId, Pdu } from './pdu.js';

/** Most bytes of canonical JSON, signatures included, that a PDU may have. (EV-07) */
export const maxPduBytes = 65_536;
/** Most events that a PDU may cite in `auth_events`. (EV-05) */
export const maxAuthEvents = 10;
/** Most events that a PDU may cite in `prev_events`. (EV-05) */
export const maxPrevEvents = 20;

/** Why JSON is no PDU of its room version. */
export interface PduFault {
  /**
   * `canonical-json`: a number that canonical JSON forbids, in a version that enforces it; `too-large`: the PDU or
   * one of its identifiers has too many bytes; `format`: anything else.
   */
  readonly fault: 'canonical-json' | 'format' | 'too-large';
  /** The requirement that is not met, e.g. `"EV-05"`. */
  readonly rule: string;
  /** For a log or an error message: names the field, holds nothing of its value. */
  readonly detail: string;
}

/** What a caller may relax. */
export interface ParsePduOptions {
  /** False for events from `/backfill`, where the number of references is not limited; true by default. (EV-05) */
  readonly boundReferences?: boolean;
  /**
   * For an event that was parsed before, and kept: its ID. The hash that the ID is made of is not computed again, nor
   * its size measured; that is most of the work.
   */
  readonly knownAs?: EventId;
}

/** True where `parsePdu` found a fault. */
export function isPduFault(result: Pdu | PduFault): result is PduFault {
  return 'fault' in result;
}

const identifierFields = ['sender', 'room_id', 'state_key', 'type', 'event_id'] as const;

/**
 * The PDU that `received` is in a room of `version`, or the first fault found: forbidden numbers anywhere
 * (`unsigned` included), then fields and their types, then numbers of references, identifiers, size. `unsigned` is
 * left out of the PDU; all else is kept as received, a stray `event_id` included, which from version 3 on is part of
 * what is hashed. Says nothing of signatures, of hashes being right, or of authorisation, nor of the content beyond
 * its being an object. Takes what `parseJson` gives. (PD-01, EV-01 to EV-05, EV-07 to EV-09, EV-12, CJ-04, CJ-05,
 * ID-05 to ID-09, RV-05, RV-08, SL-06, SL-09; evaluation table of section 8, rows 7 and 8)
 */
export function parsePdu(
  received: JsonObject,
  version: RoomVersion,
  options: ParsePduOptions = {},
): Pdu | PduFault {
  // Since version 6 a number written as a float or out of range makes the whole event invalid, whatever its place.
  if (version.strictCanonicalJson && !holdsOnlyCanonicalNumbers(received)) {
    return { fault: 'canonical-json', rule: 'CJ-05', detail: 'a number is not allowed in canonical JSON' };
  }
  const json = received['unsigned'] === undefined ? received : withoutKeys(received, 'unsigned');

  const { type, sender, state_key: stateKey, content, depth, origin_server_ts: originServerTs } = json;
  if (typeof type !== 'string') return format('EV-01', 'type is not a string');
  if (typeof sender !== 'string') return format('EV-01', 'sender is not a string');
  if (stateKey !== undefined && typeof stateKey !== 'string')
    return format('EV-09', 'state_key is not a string');
  if (!isJsonObject(content)) return format('EV-01', 'content is not an object');
  if (!isTimestamp(originServerTs)) return format('EV-11', 'origin_server_ts is not a time in milliseconds');
  if (!isDepth(depth, version)) return format('EV-06', 'depth is not an integer within the limits');
  if (!hasContentHash(json['hashes'])) return format('EV-01', 'hashes has no string sha256');
  if (!areSignatures(json['signatures']))
    return format('EV-01', 'signatures is not server to key ID to signature');

  for (const field of identifierFields) {
    const value = json[field];
    if (typeof value === 'string' && !isWithinIdentifierBytes(value)) {
      return { fault: 'too-large', rule: 'EV-08', detail: `${field} has more than 255 bytes` };
    }
  }
  const senderId = parseUserId(sender);
  if (senderId === undefined) return format('ID-05', 'sender is not a user ID');

  const bound = options.boundReferences ?? true;
  const prevEvents = parseReferences(json, 'prev_events', bound ? maxPrevEvents : Infinity, version);
  if ('fault' in prevEvents) return prevEvents;
  const authEvents = parseReferences(json, 'auth_events', bound ? maxAuthEvents : Infinity, version);
  if ('fault' in authEvents) return authEvents;

  // In version 12 the create event has no room_id, for the room is named after it.
  const foundsRoom = version.roomIdFormat === 'create-hash' && type === 'm.room.create';
  const statedRoomId = json['room_id'];
  if (foundsRoom && statedRoomId !== undefined)
    return format('EV-02', 'a create event of this version has no room_id');
  if (!foundsRoom && typeof statedRoomId !== 'string') return format('EV-02', 'room_id is not a string');
  const parsedRoomId = typeof statedRoomId === 'string' ? parseRoomId(statedRoomId, version) : undefined;
  if (!foundsRoom && parsedRoomId === undefined)
    return format('ID-07', 'room_id is not a room ID of this version');

  if (version.eventIdFormat === 'opaque-in-pdu') {
    const stated = json['event_id'];
    if (typeof stated !== 'string') return format('EV-03', 'event_id is not a string');
    if (parseEventId(stated, version) === undefined) return format('ID-09', 'event_id is not an event ID');
  }

  const { knownAs } = options;
  if (knownAs === undefined && Buffer.byteLength(encodeCanonicalJson(json), 'utf8') > maxPduBytes) {
    return { fault: 'too-large', rule: 'EV-07', detail: `the event has more than ${maxPduBytes} bytes` };
  }

  const eventId = knownAs ?? eventIdOf(json, version);
  return {
    roomVersion: version,
    eventId,
    roomId: parsedRoomId ?? roomIdOfCreateEventId(eventId),
    type,
    sender: senderId,
    ...(stateKey === undefined ? {} : { stateKey }),
    content,
    prevEvents,
    authEvents,
    depth,
    originServerTs,
    json,
  };
}

function format(rule: string, detail: string): PduFault {
  return { fault: 'format', rule, detail };
}

function isTimestamp(value: JsonValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

const integer = /^(?:0|[1-9][0-9]*)$/;

/** Up to version 5 a depth may lie beyond 2^53-1, where it is a `JsonNumber`; `3.0` and `1e3` are no integers. */
function isDepth(value: JsonValue | undefined, version: RoomVersion): value is number | JsonNumber {
  if (typeof value === 'number') return Number.isSafeInteger(value) && value >= 0;
  if (!(value instanceof JsonNumber)) return false;
  // No maximum has more than nineteen digits: a source of thousands is never made a bigint.
  return value.source.length <= 19 && integer.test(value.source) && BigInt(value.source) <= version.maxDepth;
}

function hasContentHash(value: JsonValue | undefined): boolean {
  return isJsonObject(value) && typeof value['sha256'] === 'string';
}

function areSignatures(value: JsonValue | undefined): boolean {
  if (!isJsonObject(value)) return false;
  return Object.values(value).every(
    (byKey) =>
      isJsonObject(byKey) && Object.values(byKey).every((signature) => typeof signature === 'string'),
  );
}

function parseReferences(
  json: JsonObject,
  field: 'prev_events' | 'auth_events',
  limit: number,
  version: RoomVersion,
): readonly EventId[] | PduFault {
  const references = json[field];
  if (!Array.isArray(references)) return format('EV-01', `${field} is not an array`);
  if (references.length > limit) return format('EV-05', `${field} has more than ${limit} entries`);
  const ids: EventId[] = [];
  for (const reference of references as readonly JsonValue[]) {
    const text = version.referencesArePairs ? idOfPair(reference) : reference;
    const id = typeof text === 'string' ? parseEventId(text, version) : undefined;
    if (id === undefined)
      return format('EV-04', `${field} has an entry that is not a reference of this version`);
    ids.push(id);
  }
  return ids;
}

/**
 * The ID in `[id, {"sha256": hash}]`. The hash is not compared with the event cited, which may be unknown. It may be
 * missing: Synapse writes `{}` for events that were made in one batch with the one that cites them.
 */
function idOfPair(reference: JsonValue): JsonValue | undefined {
  if (!Array.isArray(reference) || reference.length !== 2) return undefined;
  const [id, hashes] = reference as readonly JsonValue[];
  if (!isJsonObject(hashes)) return undefined;
  return hashes['sha256'] === undefined || hasContentHash(hashes) ? id : undefined;
}
