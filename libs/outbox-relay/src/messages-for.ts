import type { OutboxEntry } from '@exeunt/event-store';
import { OUTBOUND_PDUS_TOPIC, ROOM_EVENTS_TOPIC, stableHash, type BusMessage } from '@exeunt/message-bus';
import { stringifyJson } from '@exeunt/signing';

/** `ce_type` of a message of `exeunt.room-events.v1`. */
export const PDU_ACCEPTED_TYPE = 'exeunt.pdu-accepted.v1';
/** `ce_type` of a message of `exeunt.outbound-pdus.v1`. */
export const OUTBOUND_PDU_TYPE = 'exeunt.outbound-pdu.v1';
/** `ce_source` of both. */
export const ROOM_LOG_SOURCE = '/exeunt/room-log';

/**
 * Most destinations in one message. Brokers take a megabyte by default; a server name has up to 255 bytes and a PDU
 * up to 64 KiB.
 */
const MAX_DESTINATIONS = 2_000;

/**
 * What the platform is told of an accepted PDU: one message for the room's readers and one for each bucket of
 * destinations that is not empty, in CloudEvents 1.0 binary mode. There are as many buckets as the topic of outbound
 * PDUs has partitions, and the key is the number of the bucket: a destination always comes out of one partition. More
 * than 2,000 destinations of one bucket are spread over several messages.
 *
 * The same entry gives the same messages, `ce_id` included, so that a repeat can be recognised. `ce_time` is when the
 * PDU was decided on, and `ce_traceparent` names the request that brought it, where that was traced (CloudEvents,
 * Distributed Tracing extension: the trace that a transmission began with, whatever hops come after).
 */
export function messagesFor(entry: OutboxEntry, partitionsOf: (topic: string) => number): BusMessage[] {
  const { roomId, roomVersion, position, domainEvent, destinations, traceparent } = entry;
  const id = `${roomId}/${position}`;
  const headers = (type: string, ceId: string) => ({
    ce_specversion: '1.0',
    ce_id: ceId,
    ce_source: ROOM_LOG_SOURCE,
    ce_type: type,
    ce_subject: domainEvent.eventId,
    ce_time: new Date(domainEvent.decidedAt).toISOString(),
    ...(traceparent === undefined ? {} : { ce_traceparent: traceparent }),
    'content-type': 'application/json',
  });
  const about = {
    room_id: roomId,
    room_version: roomVersion,
    event_id: domainEvent.eventId,
    position,
    origin: domainEvent.origin,
  };
  const messages: BusMessage[] = [
    {
      topic: ROOM_EVENTS_TOPIC,
      key: roomId,
      headers: headers(PDU_ACCEPTED_TYPE, id),
      value: stringifyJson({
        ...about,
        ...(domainEvent.serversLeft === undefined ? {} : { servers_left: domainEvent.serversLeft }),
        pdu: domainEvent.pdu,
      }),
    },
  ];
  const buckets = bucketsOf(destinations, partitionsOf(OUTBOUND_PDUS_TOPIC));
  for (const [bucket, all] of [...buckets].sort(([a], [b]) => a - b)) {
    for (let start = 0; start < all.length; start += MAX_DESTINATIONS) {
      const part = start === 0 ? '' : `.${start / MAX_DESTINATIONS}`;
      messages.push({
        topic: OUTBOUND_PDUS_TOPIC,
        key: `${bucket}`,
        headers: headers(OUTBOUND_PDU_TYPE, `${id}/${bucket}${part}`),
        value: stringifyJson({
          ...about,
          destinations: all.slice(start, start + MAX_DESTINATIONS),
          pdu: domainEvent.pdu,
        }),
      });
    }
  }
  return messages;
}

function bucketsOf(destinations: readonly string[], count: number): Map<number, string[]> {
  const buckets = new Map<number, string[]>();
  for (const destination of destinations) {
    const bucket = stableHash(destination) % count;
    const others = buckets.get(bucket);
    if (others === undefined) buckets.set(bucket, [destination]);
    else others.push(destination);
  }
  return buckets;
}
