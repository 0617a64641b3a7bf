import { roomIdOfCreateEventId, type Pdu } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { authEventTypes } from './auth-event-types.js';
import { allowed, refused, type AuthVerdict } from './verdict.js';

/** An event that a PDU cites in `auth_events`, and whether it was itself rejected. */
export interface CitedAuthEvent {
  readonly pdu: Pdu;
  readonly rejected: boolean;
}

/**
 * Whether a PDU cites the auth events it should. `cited` is all of them, in any order; `facts.create` the accepted
 * create event of the room, needed in version 12 only. Types and keys are compared, not whether an entry was
 * current: that is for the rules against the state before the event. (AE-08)
 *
 * A create event is decided by its own rule before this one comes up, and is allowed here.
 *
 * AE-01 to AE-06; rooms/v1 rule 2, rooms/v12 rules 2 and 3.
 */
export function checkAuthEvents(
  pdu: Pdu,
  version: RoomVersion,
  cited: readonly CitedAuthEvent[],
  facts: { readonly create: Pdu | undefined },
): AuthVerdict {
  if (pdu.type === 'm.room.create') return allowed;

  // Since version 12: the room_id isn't the ID of an accepted create event, with ! for $: reject.
  if (version.roomIdFormat === 'create-hash') {
    if (facts.create === undefined || roomIdOfCreateEventId(facts.create.eventId) !== pdu.roomId) {
      return refused('AE-06', `${pdu.roomId} is not the ID of an accepted create event.`);
    }
  }

  // Two entries have the same type and state_key: reject.
  const seen = new Map<string, Set<string | undefined>>();
  for (const { pdu: entry } of cited) {
    const keys = seen.get(entry.type) ?? new Set();
    if (keys.has(entry.stateKey)) return refused('AE-01', `The auth events have ${nameOf(entry)} twice.`);
    seen.set(entry.type, keys.add(entry.stateKey));
  }

  // An entry isn't one that the auth events selection takes: reject. Since version 12 create is such an entry.
  const selection = authEventTypes(pdu, version);
  for (const { pdu: entry } of cited) {
    if (!selection.some(({ type, stateKey }) => type === entry.type && stateKey === entry.stateKey)) {
      return refused('AE-02', `The auth events have ${nameOf(entry)}, which does not belong there.`);
    }
  }

  // An entry was itself rejected: reject.
  for (const { pdu: entry, rejected } of cited) {
    if (rejected) return refused('AE-03', `The auth event ${entry.eventId} was rejected.`);
  }

  // Until version 11: there is no create event among the entries: reject.
  if (!version.privilegedCreators && !cited.some(({ pdu: entry }) => entry.type === 'm.room.create')) {
    return refused('AE-04', 'The auth events have no create event.');
  }

  // An entry is of another room: reject.
  for (const { pdu: entry } of cited) {
    if (entry.roomId !== pdu.roomId) {
      return refused('AE-05', `The auth event ${entry.eventId} is of ${entry.roomId}, not of ${pdu.roomId}.`);
    }
  }
  return allowed;
}

function nameOf(entry: Pdu): string {
  return entry.stateKey === undefined
    ? JSON.stringify(entry.type)
    : `${JSON.stringify(entry.type)} with state_key ${JSON.stringify(entry.stateKey)}`;
}
