export * from './format.js';
export * from './hashes.js';
export * from './identifiers.js';
export type { Branded, EventId, Pdu, RoomId, ServerName, UserId } from './pdu.js';
export * from './redaction.js';
export * from './signatures.js';
