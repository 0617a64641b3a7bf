import { isPduFault, maxPduBytes, parsePdu, type RoomId } from '@exeunt/pdu';
import type { Refusal } from '@exeunt/room';
import type { RoomVersion } from '@exeunt/room-version';
import { isJsonObject, stringifyJson, type JsonObject } from '@exeunt/signing';

/** Most entries that are kept of what the inviting server shows. */
const maxEntries = 50;

/**
 * Since version 12 the state shown with an invite must hold the create event whole, and the room must be named after
 * it: that alone shows that the room is what its ID says. Before 12 nothing is asked, while servers migrate. The
 * signatures of the entries are not checked: nothing is decided by them. (IN-07, IN-08)
 */
export function checkInviteState(
  entries: readonly unknown[],
  roomId: RoomId,
  version: RoomVersion,
): Refusal | undefined {
  if (version.roomIdFormat !== 'create-hash') return undefined;
  const create = entries.filter(isJsonObject).find((entry) => entry['type'] === 'm.room.create');
  const no = (detail: string): Refusal => ({ refused: 'wrong-parameter', rule: 'IN-07', detail });
  if (create === undefined) return no('invite_room_state has no m.room.create event');
  const pdu = parsePdu(create, version);
  if (isPduFault(pdu)) return no(`the create event in invite_room_state is no whole PDU: ${pdu.detail}`);
  return pdu.roomId === roomId ? undefined : no('the create event in invite_room_state founds another room');
}

/** What is kept of the state shown: entries with the parts of stripped state, within bounds. */
export function shownState(entries: readonly unknown[]): readonly JsonObject[] {
  return entries
    .filter(isJsonObject)
    .filter(
      (entry) =>
        typeof entry['type'] === 'string' &&
        typeof entry['sender'] === 'string' &&
        typeof entry['state_key'] === 'string' &&
        isJsonObject(entry['content']),
    )
    .filter((entry) => Buffer.byteLength(stringifyJson(entry)) <= maxPduBytes)
    .slice(0, maxEntries);
}

/** As clients are shown it. Spec v1.19, client-server-api, Stripped state. (IN-08) */
export function stripped(entry: JsonObject): JsonObject {
  const { type, state_key, sender, content } = entry;
  return { type: type!, state_key: state_key!, sender: sender!, content: content! };
}
