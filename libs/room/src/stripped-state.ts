import type { UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import type { Room } from './room.js';
import { stateKeyOf } from './state-resolution/state-key.js';
import type { StateRef } from './state-ref.js';

/** Spec v1.19, client-server-api, Stripped state. */
const shownTypes = [
  'm.room.create',
  'm.room.join_rules',
  'm.room.name',
  'm.room.avatar',
  'm.room.topic',
  'm.room.canonical_alias',
  'm.room.encryption',
] as const;

/**
 * What somebody outside the room is shown of it, so that they know which room it is: the entries of the state `ref`
 * that stripped state is made of, and the membership of `members`. Whole PDUs, as they are in federation; the create
 * event first, and always. (IN-07, KN-02)
 */
export function strippedState(
  room: Room,
  ref: StateRef,
  members: readonly UserId[] = [],
): readonly JsonObject[] {
  const keys = [
    ...shownTypes.map((type) => stateKeyOf(type, '')),
    ...members.map((userId) => stateKeyOf('m.room.member', userId)),
  ];
  room.require({ state: keys });
  const events = keys.map((key) => room.entryOf(ref, key)).filter((eventId) => eventId !== undefined);
  room.require({ events });
  return events.map((eventId) => room.pdu(eventId).json);
}
