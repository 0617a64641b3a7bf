export type { RedactionRules, RoomVersion } from './room-version.js';
export { defaultRoomVersion, isRoomVersionId, roomVersion, roomVersionIds } from './room-versions.js';
