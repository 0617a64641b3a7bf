import type { JsonNumber, JsonObject } from '@exeunt/signing';
import type { RoomVersion } from '@exeunt/room-version';

declare const brand: unique symbol;
/** A string that only its parse function makes, so that one who holds it need not check it again. */
export type Branded<Name extends string> = string & { readonly [brand]: Name };

/** `host[:port]`. (ID-01) */
export type ServerName = Branded<'ServerName'>;
/** `@localpart:domain`, historical ones included. (ID-04, ID-05) */
export type UserId = Branded<'UserId'>;
/** `!localpart:domain`, or `!` and 43 URL-safe base64 characters. (ID-07, ID-08) */
export type RoomId = Branded<'RoomId'>;
/** `$opaque:domain` in versions 1 and 2, `$` and a reference hash from 3 on. (ID-09, SG-03) */
export type EventId = Branded<'EventId'>;

/**
 * A Matrix event in federation format whose shape has been checked for its room version. Signatures, hashes
 * and authorisation are other functions' business.
 */
export interface Pdu {
  readonly roomVersion: RoomVersion;
  /** Computed from version 3 on, the PDU's own before that. */
  readonly eventId: EventId;
  /** In version 12 computed for the create event, which has none of its own. */
  readonly roomId: RoomId;
  readonly type: string;
  readonly sender: UserId;
  /** Absent where the PDU is not a state event. */
  readonly stateKey?: string;
  readonly content: JsonObject;
  /** IDs only, in the PDU's order. */
  readonly prevEvents: readonly EventId[];
  /** IDs only, in the PDU's order. */
  readonly authEvents: readonly EventId[];
  /** Lossless: above 2^53-1 it is a `JsonNumber`. */
  readonly depth: number | JsonNumber;
  /** Milliseconds since the epoch. */
  readonly originServerTs: number;
  /** The whole PDU as received, without `unsigned`. What is hashed, signed, stored and sent on. */
  readonly json: JsonObject;
}
