import { parseJson, stringifyJson, type JsonObject } from '@exeunt/signing';
import type { LeavingEvent } from './domain-events.js';

/** A domain event as a row of the log. */
export interface StoredLeavingEvent {
  readonly type: string;
  readonly schemaVersion: number;
  /** JSON of the domain event without its type; numbers of PDUs as they were written. */
  readonly payload: string;
}

/** Turns the payload of one schema version into the next version's. */
export type Upcaster = (payload: JsonObject) => JsonObject;

/** Of each type, the upcasters from version 0 on; the current version is how many there are. */
export type Upcasters = Readonly<Record<LeavingEvent['type'], readonly Upcaster[]>>;

/**
 * Every form a domain event ever had, by the way it took since. Whoever changes the stored form of one adds the
 * function that makes the new form of the old, and never edits one that is here. A field that may be absent, and that
 * earlier releases may pass over, needs none.
 */
export const upcasters: Upcasters = {
  InviteReceived: [],
  InviteRetracted: [],
  LeaveHandshakeStarted: [],
  TemplateRefused: [],
  ResidentServerRefused: [],
  ResidentServerFailed: [],
  LeaveSigned: [],
  SendOutcomeUnknown: [],
  SignedLeaveAbandoned: [],
  RoundFailed: [],
  LeaveRetried: [],
  LeaveCompleted: [],
  LeaveRefused: [],
  LeaveCancelled: [],
};

/** PDUs are at most 100 levels deep where they come in; the payload puts them a little deeper. */
const maxDepth = 1000;

/** The row of a domain event, in the current schema version. */
export function encodeLeavingEvent(event: LeavingEvent, known: Upcasters = upcasters): StoredLeavingEvent {
  const { type, ...payload } = event;
  return {
    type,
    schemaVersion: known[type].length,
    payload: stringifyJson(payload as unknown as JsonObject),
  };
}

/**
 * The domain event of a row, of this or any earlier schema version. Throws where a later release wrote it: this one
 * can't know what it says.
 */
export function decodeLeavingEvent(stored: StoredLeavingEvent, known: Upcasters = upcasters): LeavingEvent {
  const { type, schemaVersion } = stored;
  const path = Object.hasOwn(known, type) ? known[type as LeavingEvent['type']] : undefined;
  if (path === undefined || schemaVersion > path.length) {
    throw new Error(`the log holds a ${type} of schema version ${schemaVersion}, written by a later release`);
  }
  let payload = parseJson(stored.payload, { maxDepth }) as JsonObject;
  for (const upcast of path.slice(schemaVersion)) payload = upcast(payload);
  return { type, ...payload } as unknown as LeavingEvent;
}
