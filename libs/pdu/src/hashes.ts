import { createHash } from 'node:crypto';
import type { RoomVersion } from '@exeunt/room-version';
import {
  decodeBase64,
  encodeCanonicalJson,
  encodeUnpaddedBase64,
  isJsonObject,
  signedBytes,
  withoutKeys,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import { eventIdOfReferenceHash, parseEventId, roomIdOfCreateEventId } from './identifiers.js';
import type { EventId, Pdu, RoomId } from './pdu.js';
import { redact } from './redaction.js';

/**
 * The content hash of an event in unpadded base64: SHA-256 over the canonical JSON of the whole, unredacted event
 * without `unsigned`, `signatures` and `hashes`. (SG-01; spec v1.19, server-server-api, calculating the content hash)
 */
export function contentHash(json: JsonObject): string {
  return encodeUnpaddedBase64(computeContentHash(json));
}

/**
 * True where `hashes.sha256` is the event's content hash. The claim is decoded leniently and compared as bytes, so
 * padding and spare bits do not matter; a missing or undecodable claim does not match. (SG-01, SG-11, B6-02)
 */
export function contentHashMatches(json: JsonObject): boolean {
  const hashes = json['hashes'];
  const claim = isJsonObject(hashes) ? hashes['sha256'] : undefined;
  const claimed = typeof claim === 'string' ? decodeBase64(claim) : undefined;
  return claimed !== undefined && Buffer.compare(claimed, computeContentHash(json)) === 0;
}

function computeContentHash(json: JsonObject): Uint8Array {
  return sha256(encodeCanonicalJson(withoutKeys(json, 'unsigned', 'signatures', 'hashes')));
}

/**
 * The reference hash of an event, 32 bytes: SHA-256 over the canonical JSON of its redacted form without
 * `signatures` and `unsigned`; `hashes` stays in. The same for a full and a redacted copy. (SG-02; spec v1.19,
 * server-server-api, calculating the reference hash)
 */
export function referenceHash(json: JsonObject, version: RoomVersion): Uint8Array {
  // The bytes that are hashed are the very bytes that are signed.
  return sha256(signedBytes(redact(json, version)));
}

/**
 * The event's ID: its own `event_id` in versions 1 and 2, made from its reference hash from 3 on. A stray
 * `event_id` from 3 on is hashed with the rest, so remove one before building an event. Throws in versions 1 and 2
 * where `event_id` is missing or malformed; `parsePdu` refuses such an event. (EV-03, RV-08, SG-03)
 */
export function eventIdOf(json: JsonObject, version: RoomVersion): EventId {
  if (version.eventIdFormat !== 'opaque-in-pdu') {
    return eventIdOfReferenceHash(referenceHash(json, version), version);
  }
  const stated = json['event_id'];
  const eventId = typeof stated === 'string' ? parseEventId(stated, version) : undefined;
  if (eventId === undefined) throw new TypeError(`no event ID of room version ${version.id} in the event`);
  return eventId;
}

/**
 * The ID of the room that a create event founds, in a version where the room is named after it. Throws in the
 * versions whose create events carry a `room_id`. (ID-08, EV-02)
 */
export function roomIdOfCreate(json: JsonObject, version: RoomVersion): RoomId {
  if (version.roomIdFormat !== 'create-hash') {
    throw new TypeError(`rooms of version ${version.id} are not named after their create event`);
  }
  return roomIdOfCreateEventId(eventIdOf(json, version));
}

/**
 * The entry of `prev_events` or `auth_events` that cites `pdu`: its ID, or in versions 1 and 2 the pair of ID and
 * `{"sha256": reference hash}`. (EV-04)
 */
export function referenceTo(pdu: Pdu): JsonValue {
  if (!pdu.roomVersion.referencesArePairs) return pdu.eventId;
  const hash = encodeUnpaddedBase64(referenceHash(pdu.json, pdu.roomVersion));
  return [pdu.eventId, { sha256: hash }];
}

/**
 * The PDU continued as its redacted copy, as is due where signatures are good and the content hash is not. ID,
 * room, sender, references and signatures stay what they were. (SG-11, SL-18)
 */
export function withRedactedContent(pdu: Pdu): Pdu {
  const json = redact(pdu.json, pdu.roomVersion);
  const content = json['content'];
  return { ...pdu, content: isJsonObject(content) ? content : {}, json };
}

function sha256(data: string | Uint8Array): Uint8Array {
  return createHash('sha256').update(data).digest();
}
