import {
  isPduFault,
  maxAuthEvents,
  maxPrevEvents,
  parseEventId,
  parsePdu,
  parseRoomId,
  signPdu,
  type EventId,
  type Pdu,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import {
  decodeBase64,
  isJsonObject,
  JsonNumber,
  memberOf,
  type JsonObject,
  type JsonValue,
  type SigningKey,
} from '@exeunt/signing';

/** All that is ever taken from a template: a place in the graph. (LV-09) */
export interface TemplatePlace {
  readonly version: RoomVersion;
  /** In the version's form, made anew of the IDs and hashes alone. */
  readonly prevEvents: readonly JsonValue[];
  readonly authEvents: readonly JsonValue[];
  readonly depth: number | JsonNumber;
}

/** Why a template is not to be signed. */
export interface TemplateFault {
  readonly rule: string;
  /** For a log; names the field, and holds nothing of its value beyond a room version. */
  readonly detail: string;
  /** True where no template of that room can do: its version is not known here. (LV-05) */
  readonly isFinal: boolean;
}

/** What we asked a template for. */
export interface TemplateAsked {
  readonly roomId: RoomId;
  readonly userId: UserId;
  /** What the room's version may be, from the invite or knock; empty where we don't know. */
  readonly roomVersions: readonly string[];
}

const sha256Bytes = 32;

/**
 * Reads the answer to `make_leave`, which comes from a server that may want us to sign something else: it must be
 * for the room and the user asked about, a leave, of a version that we know and the invite did not contradict, and
 * cite events as that version does. Everything but its place in the graph is dropped. (LV-04, LV-05, LV-09)
 */
export function readTemplate(answer: JsonObject, asked: TemplateAsked): TemplatePlace | TemplateFault {
  // A missing version means 1 or 2, whose events are alike.
  const named = memberOf(answer, 'room_version') ?? '1';
  if (typeof named !== 'string') return fault('LV-05', 'room_version is not a string');
  const version = roomVersion(named);
  if (version === undefined) {
    return {
      rule: 'LV-05',
      detail: `room version ${named.slice(0, 32).toWellFormed()} is not known here`,
      isFinal: true,
    };
  }
  if (asked.roomVersions.length > 0 && !asked.roomVersions.includes(named)) {
    return fault('LV-05', `the template is of room version ${named}, the invite or knock was of another`);
  }
  if (parseRoomId(asked.roomId, version) === undefined) {
    return fault('LV-05', `a room of version ${named} has no such ID`);
  }
  const event = memberOf(answer, 'event');
  if (!isJsonObject(event)) return fault('LV-04', 'event is not an object');
  if (memberOf(event, 'room_id') !== asked.roomId) return fault('LV-04', 'room_id is of another room');
  if (memberOf(event, 'type') !== 'm.room.member') return fault('LV-04', 'type is not m.room.member');
  if (memberOf(event, 'sender') !== asked.userId) return fault('LV-04', 'sender is another user');
  if (memberOf(event, 'state_key') !== asked.userId) return fault('LV-04', 'state_key is another user');
  const content = memberOf(event, 'content');
  if (!isJsonObject(content) || memberOf(content, 'membership') !== 'leave') {
    return fault('LV-04', 'the membership is not leave');
  }
  const prevEvents = references(memberOf(event, 'prev_events'), 'prev_events', maxPrevEvents, version);
  if ('rule' in prevEvents) return prevEvents;
  const authEvents = references(memberOf(event, 'auth_events'), 'auth_events', maxAuthEvents, version);
  if ('rule' in authEvents) return authEvents;
  const depth = memberOf(event, 'depth');
  // Its range is the PDU's, checked when the event is built.
  if (typeof depth !== 'number' && !(depth instanceof JsonNumber)) {
    return fault('LV-09', 'depth is not a number');
  }
  return { version, prevEvents, authEvents, depth };
}

/** Our own values of a leave; the template adds its place. */
export interface OwnLeave {
  readonly roomId: RoomId;
  readonly userId: UserId;
  readonly reason: string | undefined;
  readonly ourName: ServerName;
  readonly signingKey: SigningKey;
  /** Ms since the epoch, by our clock. */
  readonly now: number;
  /** Opaque part of the event ID in versions 1 and 2, which are under our domain. (LV-06, LV-07) */
  readonly opaqueId: string;
}

/**
 * The leave, made of our own values and the template's place in the graph, hashed and signed; or why it can't be.
 * (LV-06 to LV-10)
 */
export function buildLeave(place: TemplatePlace, own: OwnLeave): Pdu | TemplateFault {
  const { version } = place;
  const json: JsonObject = {
    auth_events: place.authEvents,
    content: { membership: 'leave', ...(own.reason === undefined ? {} : { reason: own.reason }) },
    depth: place.depth,
    ...(version.eventIdFormat === 'opaque-in-pdu' ? { event_id: `$${own.opaqueId}:${own.ourName}` } : {}),
    // Gone since version 11. (GX-01)
    ...(version.redactsInContent ? {} : { origin: own.ourName }),
    origin_server_ts: own.now,
    prev_events: place.prevEvents,
    room_id: own.roomId,
    sender: own.userId,
    state_key: own.userId,
    type: 'm.room.member',
  };
  // Judged before our key touches it: a signature cannot be taken back.
  const unsigned = parsePdu({ ...json, hashes: { sha256: '' }, signatures: {} }, version);
  if (isPduFault(unsigned)) return fault(unsigned.rule, unsigned.detail);
  const pdu = parsePdu(signPdu(json, version, own.ourName, own.signingKey), version);
  return isPduFault(pdu) ? fault(pdu.rule, pdu.detail) : pdu;
}

function references(
  value: JsonValue | undefined,
  field: string,
  most: number,
  version: RoomVersion,
): readonly JsonValue[] | TemplateFault {
  if (!Array.isArray(value)) return fault('LV-09', `${field} is not a list`);
  // Without parents there is no state before the event, without auth events nothing that allows it. (SL-13, AU-01)
  if (value.length === 0) return fault('LV-09', `${field} is empty`);
  if (value.length > most) return fault('EV-05', `${field} has more than ${most} entries`);
  const made = new Map<EventId, JsonValue>();
  for (const reference of value as readonly JsonValue[]) {
    const read = readReference(reference, version);
    if (read === undefined)
      return fault('EV-04', `${field} has an entry that is no reference of the version`);
    if (!made.has(read.eventId)) made.set(read.eventId, read.made);
  }
  return [...made.values()];
}

function readReference(
  reference: JsonValue,
  version: RoomVersion,
): { readonly eventId: EventId; readonly made: JsonValue } | undefined {
  if (!version.referencesArePairs) {
    const eventId = typeof reference === 'string' ? parseEventId(reference, version) : undefined;
    return eventId && { eventId, made: eventId };
  }
  if (!Array.isArray(reference) || reference.length !== 2) return undefined;
  const [id, hashes] = reference as readonly JsonValue[];
  const eventId = typeof id === 'string' ? parseEventId(id, version) : undefined;
  if (eventId === undefined || !isJsonObject(hashes)) return undefined;
  const sha256 = memberOf(hashes, 'sha256');
  // Synapse leaves the hash out for events that it made in one batch.
  if (sha256 === undefined) return { eventId, made: [eventId, {}] };
  if (typeof sha256 !== 'string') return undefined;
  if (decodeBase64(sha256)?.length !== sha256Bytes) return undefined;
  return { eventId, made: [eventId, { sha256 }] };
}

function fault(rule: string, detail: string): TemplateFault {
  return { rule, detail, isFinal: false };
}
