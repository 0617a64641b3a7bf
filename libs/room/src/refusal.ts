import type { EventId } from '@exeunt/pdu';

/** Every way a room says no. What the caller is told, logged, and shown is made of this one value. */
export type RefusalKind =
  /** We don't know the room, or no local user is joined to it. (ML-16) */
  | 'not-resident'
  /** The asking server has no member joined to the room. (FE-05) */
  | 'server-not-in-room'
  /** The room's `m.room.server_acl` denies the asking server. (AC-05) */
  | 'server-denied'
  /** A number in the PDU is not allowed in canonical JSON. (CJ-05) */
  | 'not-canonical'
  /** The PDU lacks a key or has one of a wrong type, or cites too many events. */
  | 'bad-format'
  /** Over the size limits. (EV-07, EV-08) */
  | 'too-large'
  /** Well formed, but not the thing this endpoint takes. (SL-03, SL-07) */
  | 'wrong-parameter'
  /** A required signature is absent or wrong. (PD-02) */
  | 'bad-signature'
  /** The user isn't one of the asking server's. (ML-02) */
  | 'user-not-of-origin'
  /** The asking server doesn't know the room's version. (KN-01) */
  | 'incompatible-room-version'
  /** The user isn't one of ours. */
  | 'user-not-local'
  /** An event it cites is not known here, so it can't be judged. (SL-13) */
  | 'unknown-reference'
  /** The event that is asked for is not known here, or was rejected, or the state at it isn't known. (FE-05) */
  | 'unknown-event'
  /** The auth rules refuse it. (PD-04, PD-05) */
  | 'not-authorised'
  /** The current state refuses it. (PD-06, SL-12) */
  | 'soft-failed';

/** An expected no: the rule it rests on and the facts that were looked at. Never thrown. */
export interface Refusal {
  readonly refused: RefusalKind;
  /** The requirement, e.g. `AU-20`; a line of docs/spec-map.md. */
  readonly rule: string;
  /** One sentence for people, naming the values that were compared. */
  readonly detail: string;
  /** The events that were looked at. */
  readonly events?: readonly EventId[];
  /** Which state was looked at. */
  readonly state?: 'auth-events' | 'state-before' | 'current-state';
  /** Of `incompatible-room-version`: the room's. */
  readonly roomVersion?: string;
}

export function isRefusal(value: object): value is Refusal {
  return 'refused' in value;
}
