import { parseEventId, parseRoomId, parseServerName, type ServerName } from '@exeunt/pdu';
import { isJsonObject, memberOf, parseJson, stringifyJson, type JsonObject } from '@exeunt/signing';
import { parseTraceparent } from '@exeunt/tracing';

/** A message of `exeunt.outbound-pdus.v1`, read. */
export interface OutboundPdu {
  /** `ce_id`: the same for every repeat of the message. */
  readonly id: string;
  readonly roomId: string;
  readonly eventId: string;
  /** Never empty. */
  readonly destinations: readonly ServerName[];
  /** JSON text of the PDU in federation format, equal in meaning to what was accepted. (BR-04) */
  readonly pdu: string;
  /**
   * `ce_time`, ms since the epoch: when the PDU was accepted, by the clock of who accepted it. Absent where the message
   * does not say, or not in a way that can be read.
   */
  readonly acceptedAt?: number;
  /** Of the request that made it accepted, as W3C writes it; absent where the message names none. */
  readonly traceparent?: string;
}

/** The envelope is two levels round a PDU that was within the limit of 100 by itself. */
const MAX_DEPTH = 110;

/** The outbound PDU of a message, or why it can't be read. */
export function readOutboundPdu(message: {
  readonly headers: Readonly<Record<string, string>>;
  readonly value: string;
}): OutboundPdu | { readonly unreadable: string } {
  const id = message.headers.ce_id;
  if (id === undefined || id === '' || id.includes('\0') || !id.isWellFormed()) {
    return { unreadable: 'the header ce_id is missing or no text' };
  }
  let value;
  try {
    value = parseJson(message.value, { maxDepth: MAX_DEPTH });
  } catch (cause) {
    return { unreadable: `the value can't be parsed: ${(cause as Error).message}` };
  }
  if (!isJsonObject(value)) return { unreadable: 'the value is not an object' };
  const roomId = textOf(value, 'room_id', parseRoomId);
  if (roomId === undefined) return { unreadable: 'room_id is not a room ID' };
  const eventId = textOf(value, 'event_id', parseEventId);
  if (eventId === undefined) return { unreadable: 'event_id is not an event ID' };
  const pdu = memberOf(value, 'pdu');
  if (!isJsonObject(pdu)) return { unreadable: 'pdu is not an object' };
  const given = memberOf(value, 'destinations');
  if (!Array.isArray(given) || given.length === 0)
    return { unreadable: 'destinations are not a list of servers' };
  const destinations: ServerName[] = [];
  for (const name of given) {
    const destination = typeof name === 'string' ? parseServerName(name) : undefined;
    if (destination === undefined) {
      return { unreadable: `not a server name: ${JSON.stringify(name).slice(0, 300)}` };
    }
    destinations.push(destination);
  }
  const acceptedAt = timeOf(message.headers.ce_time);
  // A trace that can't be read is no reason to send nothing.
  const { ce_traceparent: traceparent } = message.headers;
  return {
    id,
    roomId,
    eventId,
    destinations,
    pdu: stringifyJson(pdu),
    ...(acceptedAt === undefined ? {} : { acceptedAt }),
    ...(traceparent !== undefined && parseTraceparent(traceparent) !== undefined ? { traceparent } : {}),
  };
}

/** RFC 3339, as CloudEvents has it. `Date.parse` alone takes `1` for a year. */
function timeOf(text: string | undefined): number | undefined {
  if (
    text === undefined ||
    !/^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$/.test(text)
  ) {
    return undefined;
  }
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : at;
}

/** What says it is older was dated by a clock that is wrong: no outbox and no broker keeps anything for so long. */
const OLDEST_MS = 30 * 86_400_000;

/**
 * Since when a PDU that is queued at `now` has been waiting, ms since the epoch: since it was accepted, as far as that
 * can be believed, and never since later than now, though the clock of who accepted it may be ahead of ours.
 */
export function waitingSince(acceptedAt: number | undefined, now: number): number {
  if (acceptedAt === undefined || acceptedAt < now - OLDEST_MS) return now;
  return Math.min(acceptedAt, now);
}

function textOf<T>(object: JsonObject, key: string, parse: (text: string) => T | undefined): T | undefined {
  const text = memberOf(object, key);
  return typeof text === 'string' ? parse(text) : undefined;
}
