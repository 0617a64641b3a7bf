import { roomVersion, roomVersionIds, type RoomVersion } from '@exeunt/room-version';
import { withKeys, type JsonObject, type JsonValue } from '@exeunt/signing';

/** For specs: the record of every known version. */
export const everyVersion: readonly RoomVersion[] = roomVersionIds.map(versionNamed);

/** For specs: the record of a version that is known to exist. */
export function versionNamed(id: string): RoomVersion {
  const version = roomVersion(id);
  if (version === undefined) throw new Error(`no room version ${id}`);
  return version;
}

/** For specs: a well-formed reference of the version, told from others by one letter. */
export function referenceIn(version: RoomVersion, letter: string): JsonValue {
  return version.referencesArePairs
    ? [`$${letter}:resident.test`, { sha256: letter.repeat(43) }]
    : `$${letter.repeat(43)}`;
}

/** For specs: an unsigned leave in the format of the version, with some fields changed. */
export function leaveIn(version: RoomVersion, changes: JsonObject = {}): JsonObject {
  const leave: JsonObject = {
    type: 'm.room.member',
    room_id: version.roomIdFormat === 'domain' ? '!room:resident.test' : `!${'c'.repeat(43)}`,
    sender: '@kim:leaver.test',
    state_key: '@kim:leaver.test',
    content: { membership: 'leave', reason: 'déjà vu' },
    origin_server_ts: 1_700_000_000_000,
    depth: 12,
    prev_events: [referenceIn(version, 'p')],
    auth_events: [referenceIn(version, 'a'), referenceIn(version, 'b')],
    hashes: { sha256: 'h'.repeat(43) },
    signatures: {},
    ...(version.eventIdFormat === 'opaque-in-pdu' ? { event_id: '$leave:leaver.test' } : {}),
  };
  return withKeys(leave, changes);
}
