import type { KnockMade } from '@exeunt/leaving';
import type { ReceivedMessage } from '@exeunt/message-bus';
import {
  isPduFault,
  maxPduBytes,
  parseEventId,
  parsePdu,
  parseRoomId,
  serverNameOf,
  type EventId,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import {
  isJsonObject,
  JsonSyntaxError,
  memberOf,
  parseJson,
  stringifyJson,
  withoutKeys,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import { shownState } from '../invite/invite-room-state.js';
import { MatrixError } from '../matrix-error/matrix-error.js';
import {
  optionalList,
  optionalObject,
  optionalString,
  requiredRoomId,
  requiredUserId,
  serverNames,
} from '../platform-request/platform-body.js';
import { objects, readImport, type RoomToImport } from '../rooms/import-room.command.js';

/** The types of `exeunt.ingest.v1`. */
export const ingestTypes = [
  'exeunt.ingest-room.v1',
  'exeunt.ingest-pdus.v1',
  'exeunt.ingest-knock.v1',
] as const;
export type IngestType = (typeof ingestTypes)[number];

/** A message of `exeunt.ingest.v1`, read; its key was the room ID. */
export type IngestMessage =
  | {
      readonly type: 'exeunt.ingest-room.v1';
      /** By the key; the create event has yet to be held against it. */
      readonly roomId: RoomId;
      readonly room: RoomToImport;
    }
  | {
      readonly type: 'exeunt.ingest-pdus.v1';
      readonly roomId: RoomId;
      /** At most {@link maxPdus}, unchecked. */
      readonly pdus: readonly JsonObject[];
      readonly serverKeys: readonly JsonValue[];
    }
  | {
      readonly type: 'exeunt.ingest-knock.v1';
      readonly roomId: RoomId;
      readonly userId: UserId;
      readonly knock: Omit<KnockMade, 'type' | 'answeredBy' | 'at'>;
    };

/** Most PDUs of one `exeunt.ingest-pdus.v1`. */
export const maxPdus = 1_000;
const maxServerKeys = 1_000;
const maxVia = 100;
/** Of a message's value, in UTF-16 units. A broker takes a megabyte unless it is told to take more. */
const maxValueLength = 32 * 1024 * 1024;
/** The envelope is a few levels round a PDU that may have a hundred by itself. */
const maxDepth = 110;

/** The type of a message where it is one that we know. */
export function ingestTypeOf({ headers }: Pick<ReceivedMessage, 'headers'>): IngestType | undefined {
  return ingestTypes.find((type) => type === headers['ce_type']);
}

/**
 * Reads a message in the binary mode of CloudEvents 1.0, or says why it can't be taken: its form, its limits, or that
 * its key is not its room ID, without which messages of a room would lose their order. `ourName`: whose users knock.
 */
export function readIngestMessage(
  message: Pick<ReceivedMessage, 'key' | 'headers' | 'value'>,
  ourName: ServerName,
): IngestMessage | { readonly unreadable: string } {
  try {
    return read(message, ourName);
  } catch (cause) {
    if (cause instanceof MatrixError) return { unreadable: cause.body().error };
    if (cause instanceof JsonSyntaxError)
      return { unreadable: `the value can't be parsed: ${cause.message}` };
    throw cause;
  }
}

function read(
  { key, headers, value }: Pick<ReceivedMessage, 'key' | 'headers' | 'value'>,
  ourName: ServerName,
): IngestMessage | { readonly unreadable: string } {
  if (headers['ce_specversion'] !== '1.0') return { unreadable: 'the header ce_specversion is not 1.0' };
  for (const name of ['ce_id', 'ce_source']) {
    if (!isText(headers[name])) return { unreadable: `the header ${name} is missing or no text` };
  }
  const type = ingestTypeOf({ headers });
  if (type === undefined) {
    return {
      unreadable: `the type is not known here: ${JSON.stringify(headers['ce_type'] ?? '').slice(0, 100)}`,
    };
  }
  const contentType = headers['content-type'] ?? 'application/json';
  if (!/^application\/json *(;|$)/i.test(contentType)) return { unreadable: 'the content-type is not JSON' };
  if (value.length > maxValueLength) return { unreadable: `the value is longer than ${maxValueLength}` };
  const roomId = parseRoomId(key);
  if (roomId === undefined) return { unreadable: 'the key is not a room ID' };
  const body = parseJson(value, { maxDepth });
  if (!isJsonObject(body)) return { unreadable: 'the value is not an object' };
  if (type === 'exeunt.ingest-room.v1') return { type, roomId, room: readImport(body) };
  if (requiredRoomId(body, 'room_id') !== roomId) {
    return { unreadable: 'the key is not the room_id of the value' };
  }
  return type === 'exeunt.ingest-pdus.v1'
    ? { type, roomId, ...pdusIn(body) }
    : {
        type,
        roomId,
        ...knockIn(body, roomId, { ourName, messageId: `${headers['ce_source']} ${headers['ce_id']}` }),
      };
}

function isText(text: string | undefined): boolean {
  return text !== undefined && text !== '' && !text.includes('\0') && text.isWellFormed();
}

function pdusIn(body: JsonObject): {
  readonly pdus: readonly JsonObject[];
  readonly serverKeys: readonly JsonValue[];
} {
  const pdus = optionalList(body, 'pdus');
  if (pdus === undefined) throw new MatrixError(400, 'M_MISSING_PARAM', 'pdus is missing');
  if (pdus.length > maxPdus) throw invalid(`there are more than ${maxPdus} pdus`);
  const serverKeys = optionalList(body, 'server_keys') ?? [];
  if (serverKeys.length > maxServerKeys) throw invalid(`there are more than ${maxServerKeys} server_keys`);
  return { pdus: objects(pdus, 'pdus'), serverKeys };
}

function knockIn(
  body: JsonObject,
  roomId: RoomId,
  { ourName, messageId }: { readonly ourName: ServerName; readonly messageId: string },
): Pick<Extract<IngestMessage, { type: 'exeunt.ingest-knock.v1' }>, 'userId' | 'knock'> {
  const userId = requiredUserId(body, 'user_id');
  if (serverNameOf(userId) !== ourName) throw invalid(`${userId} is not a user of ${ourName}`, 'KN-03');
  const via = serverNames(body, 'via');
  if (via.length === 0) throw invalid('via names no server');
  if (via.length > maxVia) throw invalid(`via names more than ${maxVia} servers`);
  const version = versionIn(body);
  const event = optionalObject(body, 'event');
  const pdu = event === undefined ? undefined : withoutKeys(event, 'unsigned');
  const eventId = knockEventId(body, version, pdu);
  if (pdu !== undefined) checkIsKnock(pdu, userId, roomId);
  return {
    userId,
    knock: {
      knockId: eventId ?? messageId,
      via: [...new Set(via)],
      ...(eventId === undefined ? {} : { eventId }),
      ...(version === undefined ? {} : { roomVersion: version.id }),
      ...(pdu === undefined ? {} : { pdu }),
      knockRoomState: shownState(optionalList(body, 'knock_room_state') ?? []),
    },
  };
}

/** A version that we know, and in which there are knocks. (KN-04) */
function versionIn(body: JsonObject): RoomVersion | undefined {
  const id = optionalString(body, 'room_version');
  if (id === undefined) return undefined;
  const version = roomVersion(id);
  if (version === undefined) throw invalid('the room version is not known here', 'RV-04');
  if (!version.knocking) throw invalid(`in room version ${id} nobody knocks`, 'KN-04');
  return version;
}

/** The stated ID, or the one that the event has in its version; they must agree. */
function knockEventId(
  body: JsonObject,
  version: RoomVersion | undefined,
  json: JsonObject | undefined,
): EventId | undefined {
  const text = optionalString(body, 'event_id');
  const stated = text === undefined ? undefined : parseEventId(text, version);
  if (text !== undefined && stated === undefined) throw invalid('event_id is no event ID', 'ID-09');
  if (json === undefined) return stated;
  if (Buffer.byteLength(stringifyJson(json)) > maxPduBytes) throw invalid('event is too large', 'EV-07');
  if (version === undefined) return stated;
  const pdu = parsePdu(json, version);
  if (isPduFault(pdu)) throw invalid(`event: ${pdu.detail}`, pdu.rule);
  if (stated !== undefined && stated !== pdu.eventId)
    throw invalid(`the ID of event is ${pdu.eventId}`, 'SG-03');
  return pdu.eventId;
}

/**
 * That the event is the user's own knock on the room. Its signature is not checked: whoever publishes here has made it,
 * and nothing is decided by it.
 */
function checkIsKnock(pdu: JsonObject, userId: UserId, roomId: RoomId): void {
  const content = memberOf(pdu, 'content');
  const isKnock =
    memberOf(pdu, 'type') === 'm.room.member' &&
    memberOf(pdu, 'sender') === userId &&
    memberOf(pdu, 'state_key') === userId &&
    memberOf(pdu, 'room_id') === roomId &&
    isJsonObject(content) &&
    memberOf(content, 'membership') === 'knock';
  if (!isKnock) throw invalid(`event is not the knock of ${userId} on ${roomId}`, 'KN-02');
}

function invalid(detail: string, rule?: string): MatrixError {
  return new MatrixError(400, 'M_INVALID_PARAM', detail, rule);
}
