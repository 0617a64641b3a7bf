import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import type { StoredStateRef } from './state-ref.js';

/** The memberships of `m.room.member`, with `none` for a user the room has no member event of. */
export type Membership = 'join' | 'invite' | 'knock' | 'leave' | 'ban' | 'none';

/** One entry of the current state that a domain event replaced. */
export interface StateChange {
  readonly type: string;
  readonly stateKey: string;
  /** The event that holds the entry from now on; `null` where state resolution took the entry away. */
  readonly eventId: EventId | null;
  /** Of `m.room.member` entries alone: what the membership was and is. */
  readonly membership?: { readonly from: Membership; readonly to: Membership };
}

/** We know the room from now on: it was created here, or imported. First in every room's log. */
export interface RoomIngested {
  readonly type: 'RoomIngested';
  readonly roomId: RoomId;
  readonly roomVersion: string;
  readonly createEventId: EventId;
  readonly via: 'creation' | 'graph' | 'snapshot';
}

/** The point of the graph that an imported snapshot describes: later PDUs may cite these as parents. */
export interface SnapshotPlaced {
  readonly type: 'SnapshotPlaced';
  readonly forwardExtremities: readonly EventId[];
  readonly depth: number;
}

/** Where a PDU came from: the server that handed it in, or ourselves. */
export interface PduFact {
  readonly eventId: EventId;
  /** Federation format, without `unsigned`; redacted where its content hash did not match. */
  readonly pdu: JsonObject;
  readonly origin: ServerName;
  /** When it was decided on, ms since the epoch. */
  readonly decidedAt: number;
}

/** The PDU is part of the room. */
export interface PduAccepted extends PduFact {
  readonly type: 'PduAccepted';
  /**
   * `graph`: a node of the event graph. `state`: an entry of an imported snapshot's state, outside the graph.
   * `auth-chain`: known so that it can be cited, nothing more.
   */
  readonly place: 'graph' | 'state' | 'auth-chain';
  /** The state after the PDU; `current` where that is the room's current state from this position on. */
  readonly stateAfter: StoredStateRef | 'current' | 'none';
  /** What changed in the room's current state, which is resolved over all forward extremities. */
  readonly changes: readonly StateChange[];
  /** The room is forked by leaves alone from here on, over the current state at this position. See fork.ts. */
  readonly forkBase?: number;
  /** Servers whose last joined member went with this PDU. Sorted, never empty. */
  readonly serversLeft?: readonly ServerName[];
}

/** The PDU failed the auth rules against its own auth events or the state before it. (PD-04, PD-05) */
export interface PduRejected extends PduFact {
  readonly type: 'PduRejected';
  readonly rule: string;
  readonly detail: string;
  /** The state after its parents; it counts as if the PDU had not been. (PD-08) */
  readonly stateAfter: StoredStateRef | 'none';
}

/** The PDU was allowed where it stands in the graph, but not by the current state. (PD-06, PD-10) */
export interface PduSoftFailed extends PduFact {
  readonly type: 'PduSoftFailed';
  readonly rule: string;
  readonly detail: string;
  readonly stateAfter: StoredStateRef;
}

/** The facts a room's log is made of. A room is these, folded in order, and nothing else. */
export type DomainEvent = RoomIngested | SnapshotPlaced | PduAccepted | PduRejected | PduSoftFailed;

/** That a PDU must be sent, decided together with its acceptance. (BR-02) */
export interface Broadcast {
  readonly eventId: EventId;
  readonly pdu: JsonObject;
  /** Sorted, without duplicates, never empty. */
  readonly destinations: readonly ServerName[];
}

/** The user IDs and memberships an operator counts by. */
export type MemberCounts = Readonly<Record<Exclude<Membership, 'none'>, number>>;

export type { EventId, RoomId, ServerName, UserId };
