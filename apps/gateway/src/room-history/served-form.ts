import type { EventStore } from '@exeunt/event-store';
import { redact, type EventId, type Pdu, type RoomId, type ServerName } from '@exeunt/pdu';
import { isRedacted, visibilityOf, wasIn, type Room, type Visibility } from '@exeunt/room';
import { lookBack } from '@exeunt/room-store';
import type { JsonObject } from '@exeunt/signing';

/** More changes of one server's members in a room of restricted visibility are not looked through. */
const maxMemberEntries = 20_000;
/** Anybody in a room may redact one event again and again. */
const redactionsAtOnce = 200;

/**
 * PDUs as a server may have them: as signed, or in redacted form where a redaction applies, and where the history
 * visibility is `joined` or `invited` and the server was not in the room then. (FE-08, RV-09)
 */
export async function servedForms(
  store: EventStore,
  roomId: RoomId,
  reader: ServerName,
  pdus: readonly Pdu[],
): Promise<readonly JsonObject[]> {
  const redacted = await redactedOf(store, roomId, pdus);
  const hidden = await hiddenFrom(store, roomId, reader, pdus);
  return pdus.map((pdu) =>
    redacted.has(pdu.eventId) || hidden.has(pdu.eventId) ? redact(pdu.json, pdu.roomVersion) : pdu.json,
  );
}

/**
 * As {@link servedForms} by ID, of those that are known, whatever the history visibility: state is for all that are in
 * the room.
 */
export async function servedState(
  store: EventStore,
  roomId: RoomId,
  eventIds: readonly EventId[],
): Promise<readonly JsonObject[]> {
  const pdus = await lookBack(store, roomId, (room) => {
    room.require({ events: eventIds });
    return eventIds.filter((eventId) => room.hasPdu(eventId)).map((eventId) => room.pdu(eventId));
  });
  const redacted = await redactedOf(store, roomId, pdus);
  return pdus.map((pdu) => (redacted.has(pdu.eventId) ? redact(pdu.json, pdu.roomVersion) : pdu.json));
}

/** Those that are redacted. */
async function redactedOf(
  store: EventStore,
  roomId: RoomId,
  pdus: readonly Pdu[],
): Promise<ReadonlySet<EventId>> {
  const named = await store.redactionsOf(
    roomId,
    pdus.map(({ eventId }) => eventId),
  );
  const redacted = new Set<EventId>();
  for (let from = 0; from < named.length; from += redactionsAtOnce) {
    const some = named.slice(from, from + redactionsAtOnce);
    const found = await lookBack(store, roomId, (room) =>
      pdus.filter((pdu) =>
        isRedacted(
          room,
          pdu,
          some.flatMap(({ redacted, by }) => (redacted === pdu.eventId ? [by] : [])),
        ),
      ),
    );
    for (const { eventId } of found) redacted.add(eventId);
  }
  return redacted;
}

/** Those that the history visibility keeps from the reader. */
async function hiddenFrom(
  store: EventStore,
  roomId: RoomId,
  reader: ServerName,
  pdus: readonly Pdu[],
): Promise<ReadonlySet<EventId>> {
  const restricted = await lookBack(store, roomId, (room) => restrictedOf(room, pdus));
  if (restricted.length === 0) return new Set();
  const members = await store.membersOf(roomId, reader, maxMemberEntries);
  return lookBack(
    store,
    roomId,
    (room) =>
      new Set(
        restricted
          .filter(([, visibility]) => !wasIn(room, visibility, reader, members))
          .map(([eventId]) => eventId),
      ),
  );
}

function restrictedOf(room: Room, pdus: readonly Pdu[]): readonly (readonly [EventId, Visibility])[] {
  room.require({ events: pdus.map(({ eventId }) => eventId) });
  return pdus.flatMap(({ eventId }) => {
    const visibility = visibilityOf(room, eventId);
    return visibility === undefined ? [] : [[eventId, visibility] as const];
  });
}
