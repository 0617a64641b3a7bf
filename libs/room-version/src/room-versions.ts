import type { RoomVersion } from './room-version.js';

const version1: RoomVersion = {
  id: '1',
  eventIdFormat: 'opaque-in-pdu',
  referencesArePairs: true,
  maxDepth: 2n ** 63n - 1n,
  redaction: 'R1',
  stateResolution: 'v1',
  strictCanonicalJson: false,
  powerLevelValues: 'integers-strings-floats',
  enforcesKeyValidity: false,
  roomIdFormat: 'domain',
  createHasCreator: true,
  privilegedCreators: false,
  aliasesRule: true,
  redactionAuthRule: true,
  redactsInContent: false,
  checksNotificationLevels: false,
  knocking: false,
  restrictedJoins: false,
  knockRestricted: false,
};

const version2: RoomVersion = { ...version1, id: '2', stateResolution: 'v2' };

const version3: RoomVersion = {
  ...version2,
  id: '3',
  eventIdFormat: 'reference-hash',
  referencesArePairs: false,
  redactionAuthRule: false,
};

const version4: RoomVersion = { ...version3, id: '4', eventIdFormat: 'url-safe-reference-hash' };

const version5: RoomVersion = { ...version4, id: '5', enforcesKeyValidity: true };

const version6: RoomVersion = {
  ...version5,
  id: '6',
  maxDepth: 2n ** 53n - 1n,
  redaction: 'R6',
  strictCanonicalJson: true,
  powerLevelValues: 'integers-strings',
  aliasesRule: false,
  checksNotificationLevels: true,
};

const version7: RoomVersion = { ...version6, id: '7', knocking: true };

const version8: RoomVersion = { ...version7, id: '8', redaction: 'R8', restrictedJoins: true };

const version9: RoomVersion = { ...version8, id: '9', redaction: 'R9' };

const version10: RoomVersion = {
  ...version9,
  id: '10',
  powerLevelValues: 'integers',
  knockRestricted: true,
};

const version11: RoomVersion = {
  ...version10,
  id: '11',
  redaction: 'R11',
  createHasCreator: false,
  redactsInContent: true,
};

const version12: RoomVersion = {
  ...version11,
  id: '12',
  stateResolution: 'v2.1',
  roomIdFormat: 'create-hash',
  privilegedCreators: true,
};

const versions = [
  version1,
  version2,
  version3,
  version4,
  version5,
  version6,
  version7,
  version8,
  version9,
  version10,
  version11,
  version12,
].map((version) => Object.freeze(version));

const byId = new Map(versions.map((version) => [version.id, version]));

/** The identifiers of all versions known here, in the order in which the spec lists them. (RV-04) */
export const roomVersionIds: readonly string[] = Object.freeze(versions.map((version) => version.id));

/**
 * The record of a room version, one frozen object a version, so that two may be compared with `===`. Undefined
 * for an identifier not in `roomVersionIds`, whether well formed or not; identifiers are never normalised.
 * (RV-01, RV-03, RV-04; spec v1.19, room versions, complete list)
 */
export function roomVersion(id: string): RoomVersion | undefined {
  return byId.get(id);
}

/** What a new room gets where nobody asks for another version. The spec leaves the choice to the server. */
export const defaultRoomVersion: RoomVersion = version11;

const roomVersionId = /^[a-z0-9.-]{1,32}$/;

/**
 * True for 1 to 32 of `a-z`, `0-9`, `.` and `-`. Says that the text may name a version, not that we know it.
 * (RV-01; spec v1.19, room versions, grammar)
 */
export function isRoomVersionId(text: string): boolean {
  return roomVersionId.test(text);
}
