import type { RoomVersion } from '@exeunt/room-version';
import { encodeUnpaddedBase64, encodeUrlSafeUnpaddedBase64 } from '@exeunt/signing';
import type { EventId, RoomId, ServerName, UserId } from './pdu.js';

/** Most bytes of UTF-8 that a user ID, room ID, event ID, event type or state key may have. (EV-08, ID-12) */
export const maxIdentifierBytes = 255;

/** True where `text` has at most 255 bytes in UTF-8; its length in JavaScript says less. (EV-08, ID-12) */
export function isWithinIdentifierBytes(text: string): boolean {
  // A UTF-16 code unit takes one to three bytes, so most texts are settled without encoding them.
  if (text.length * 3 <= maxIdentifierBytes) return true;
  return text.length <= maxIdentifierBytes && Buffer.byteLength(text, 'utf8') <= maxIdentifierBytes;
}

const dnsName = /^[A-Za-z0-9.-]{1,255}$/;
const portDigits = /^[0-9]{1,5}$/;
const ipv4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$/;
const ipv6Group = /^[0-9A-Fa-f]{1,4}$/;

/**
 * A server name `host[:port]`: the host a DNS name, an IPv4 address or a bracketed IPv6 address, the port one to
 * five digits. Undefined for anything else. Case is kept, since server names compare case-sensitively, and the
 * port is not held against 65535, which the grammar does not ask. A dotted quad with a number above 255 is a DNS
 * name to the grammar and is accepted as one. (ID-01, ID-02; spec v1.19, appendices, server name)
 */
export function parseServerName(text: string): ServerName | undefined {
  const hostLength = lengthOfHost(text);
  if (hostLength === undefined) return undefined;
  if (hostLength < text.length && !portDigits.test(text.slice(hostLength + 1))) return undefined;
  const host = text.slice(0, hostLength);
  const isHost = host.startsWith('[') ? isIpv6(host.slice(1, -1)) : dnsName.test(host);
  return isHost ? (text as ServerName) : undefined;
}

/**
 * The host of a server name, without its port. An IPv6 address keeps its brackets, as in a URL or a Host
 * header: strip them before dialling. (ID-01)
 */
export function hostOf(serverName: ServerName): string {
  return serverName.slice(0, lengthOfHost(serverName));
}

/** The port of a server name, 0 to 99999 by its grammar; undefined where it has none. (ID-01) */
export function portOf(serverName: ServerName): number | undefined {
  const hostLength = hostOf(serverName).length;
  return hostLength < serverName.length ? Number(serverName.slice(hostLength + 1)) : undefined;
}

/** Index of the colon before the port, or of the end; undefined where a bracket is left open. */
function lengthOfHost(text: string): number | undefined {
  if (text.startsWith('[')) {
    const bracket = text.indexOf(']');
    if (bracket < 0) return undefined;
    return bracket + 1 === text.length || text[bracket + 1] === ':' ? bracket + 1 : undefined;
  }
  const colon = text.indexOf(':');
  return colon < 0 ? text.length : colon;
}

/** Eight groups, `::` for at least one of them once, and an IPv4 address for the last two (RFC 4291, 2.2). */
function isIpv6(text: string): boolean {
  if (text.length < 2 || text.length > 45) return false;
  const halves = text.split('::');
  if (halves.length > 2) return false;
  let groups = 0;
  for (const [half, part] of halves.entries()) {
    if (part === '') {
      if (halves.length === 1) return false;
      continue;
    }
    const pieces = part.split(':');
    for (const [index, piece] of pieces.entries()) {
      const isLast = half === halves.length - 1 && index === pieces.length - 1;
      if (ipv6Group.test(piece)) groups += 1;
      else if (isLast && ipv4.test(piece)) groups += 2;
      else return false;
    }
  }
  return halves.length === 2 ? groups < 8 : groups === 8;
}

/**
 * A user ID as events may hold it: `@`, a localpart of any characters but `:` and NUL (historical IDs have
 * spaces, upper case, even an empty localpart), `:`, a valid server name; at most 255 bytes, no lone surrogates.
 * Undefined for anything else. For IDs of new local users see `isStrictUserId`. (ID-04, ID-05, ID-06, ID-12)
 */
export function parseUserId(text: string): UserId | undefined {
  if (!isSigilLocalpartDomain(text, '@')) return undefined;
  return text as UserId;
}

const strictLocalpart = /^[a-z0-9._=\-/+]+$/;

/** True where the localpart is one that a new user may be given: not empty, of `a-z 0-9 . _ = - / +`. (ID-04) */
export function isStrictUserId(userId: UserId): boolean {
  return strictLocalpart.test(userId.slice(1, userId.indexOf(':')));
}

const createHashRoomId = /^![A-Za-z0-9_-]{43}$/;

/**
 * A room ID of `version`, or of any version where none is given: `!localpart:domain` with a non-empty localpart
 * and a valid server name, at most 255 bytes; or `!` and 43 characters of URL-safe base64 (version 12).
 * Undefined for anything else. (ID-07, ID-08, ID-12)
 */
export function parseRoomId(text: string, version?: RoomVersion): RoomId | undefined {
  if (version?.roomIdFormat !== 'domain' && createHashRoomId.test(text)) return text as RoomId;
  if (version?.roomIdFormat === 'create-hash') return undefined;
  if (text.startsWith('!:') || !isSigilLocalpartDomain(text, '!')) return undefined;
  return text as RoomId;
}

const eventIdOfHash = /^\$[A-Za-z0-9+/]{43}$/;
const eventIdOfUrlSafeHash = /^\$[A-Za-z0-9_-]{43}$/;

/**
 * An event ID of `version`, or of any version where none is given: `$opaque:domain` with a non-empty opaque part
 * and a valid server name, at most 255 bytes (versions 1 and 2); `$` and 43 characters of standard base64
 * (version 3) or URL-safe base64 (4 and later). Undefined for anything else. (ID-06, ID-09, SG-03)
 */
export function parseEventId(text: string, version?: RoomVersion): EventId | undefined {
  return isEventId(text, version) ? (text as EventId) : undefined;
}

function isEventId(text: string, version: RoomVersion | undefined): boolean {
  switch (version?.eventIdFormat) {
    case 'opaque-in-pdu':
      return !text.startsWith('$:') && isSigilLocalpartDomain(text, '$');
    case 'reference-hash':
      return eventIdOfHash.test(text);
    case 'url-safe-reference-hash':
      return eventIdOfUrlSafeHash.test(text);
    case undefined:
      return (
        eventIdOfUrlSafeHash.test(text) ||
        eventIdOfHash.test(text) ||
        (!text.startsWith('$:') && isSigilLocalpartDomain(text, '$'))
      );
  }
}

function isSigilLocalpartDomain(text: string, sigil: string): boolean {
  if (!text.startsWith(sigil)) return false;
  const colon = text.indexOf(':');
  if (colon < 0 || !isWithinIdentifierBytes(text)) return false;
  if (text.includes('\0') || !text.isWellFormed()) return false;
  return parseServerName(text.slice(colon + 1)) !== undefined;
}

/**
 * The server name in a user ID, or in an event ID of versions 1 and 2: what follows the first colon, since the
 * domain may hold colons of its own and the localpart may not. Throws on an event ID without a domain, which is
 * to be asked of no event of version 3 or later. (ID-06)
 */
export function serverNameOf(id: UserId | EventId): ServerName {
  const colon = id.indexOf(':');
  if (colon < 0) throw new TypeError(`${id} has no domain`);
  return id.slice(colon + 1) as ServerName;
}

/**
 * The domain in a room ID; undefined for one of version 12, which has none. It says who made the ID and nothing
 * about who is in the room: never derive a destination from it. (ID-07, ID-08)
 */
export function domainOfRoomId(roomId: RoomId): ServerName | undefined {
  const colon = roomId.indexOf(':');
  return colon < 0 ? undefined : (roomId.slice(colon + 1) as ServerName);
}

/**
 * The event ID that a reference hash (32 bytes) makes in a version from 3 on. Throws in versions 1 and 2, where
 * the ID is not derived. (SG-03)
 */
export function eventIdOfReferenceHash(hash: Uint8Array, version: RoomVersion): EventId {
  switch (version.eventIdFormat) {
    case 'reference-hash':
      return `$${encodeUnpaddedBase64(hash)}` as EventId;
    case 'url-safe-reference-hash':
      return `$${encodeUrlSafeUnpaddedBase64(hash)}` as EventId;
    case 'opaque-in-pdu':
      throw new TypeError(`event IDs of room version ${version.id} are not made from hashes`);
  }
}

/** The ID of the room that a create event of version 12 founds: its event ID with `!` for `$`. (ID-08) */
export function roomIdOfCreateEventId(createEventId: EventId): RoomId {
  return `!${createEventId.slice(1)}` as RoomId;
}
