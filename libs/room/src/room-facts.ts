import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import type { MemberCounts, Membership } from './domain-events.js';
import type { StoredStateRef } from './state-ref.js';

/**
 * What is always known of a room: the fold of its log without anything that grows with its members. One stored
 * row.
 */
export interface RoomHeader {
  readonly roomId: RoomId;
  readonly roomVersion: string;
  readonly createEventId: EventId;
  /** Of the last domain event; the first has 1. */
  readonly position: number;
  /** The last position at which the current state changed. */
  readonly stateChangedAt: number;
  /** Largest depth among the forward extremities. A decimal string, for it may exceed 2^53. */
  readonly depth: string;
  readonly forwardExtremities: readonly ForwardExtremity[];
  readonly memberCounts: MemberCounts;
  /**
   * Where the graph is forked by leaves alone: the position whose current state all forward extremities have,
   * but for leaves that can't affect one another. Absent otherwise. See fork.ts.
   */
  readonly forkBase?: number;
}

/** An accepted event that no accepted event cites as a parent yet. */
export interface ForwardExtremity {
  readonly eventId: EventId;
  /** A decimal string, for it may exceed 2^53. */
  readonly depth: string;
}

/** What one log position says of one (type, state_key). */
export interface StateEntry {
  readonly type: string;
  readonly stateKey: string;
  /** The current state has this entry from here on, until the next one of the same key. */
  readonly position: number;
  readonly eventId: EventId | null;
}

/** What one log position says of one user's membership. */
export interface MemberEntry {
  readonly userId: UserId;
  /** The current state has this membership from here on, until the next entry of the same user. */
  readonly position: number;
  readonly membership: Membership;
}

/** A PDU the room knows, with what was decided on it. */
export interface KnownPdu {
  readonly eventId: EventId;
  readonly position: number;
  readonly status: 'accepted' | 'rejected' | 'soft-failed';
  readonly place: 'graph' | 'state' | 'auth-chain';
  /** Absent where it has no place in the graph. A base of 0 never occurs. */
  readonly stateAfter?: StoredStateRef;
  readonly rule?: string;
  readonly detail?: string;
  readonly pdu: JsonObject;
}

/**
 * Facts that a decision found missing. The shell loads them and decides again; nothing that is not asked for is
 * read, so a decision on a cold room costs what the decision looks at.
 */
export interface FactsNeeded {
  /** Entries of the current state, with their whole history. */
  readonly state: readonly { readonly type: string; readonly stateKey: string }[];
  /** PDUs, by ID. */
  readonly events: readonly EventId[];
  /** Which entries of the current state changed after one position and up to another. */
  readonly changes: readonly { readonly after: number; readonly upTo: number }[];
  /** State events that cite one of these among their auth events. */
  readonly citing: readonly EventId[];
  /** How many joined members these servers have. */
  readonly residents: readonly ServerName[];
  readonly allResidents: boolean;
}

/** The answer to {@link FactsNeeded}, all of it as of the header's position. */
export interface Facts {
  /** Of every key asked for, all entries in order of position; a key without entries is absent. */
  readonly state: readonly StateEntry[];
  /** The known ones of those asked for. */
  readonly events: readonly KnownPdu[];
  /** Of those asked for: forward extremities of an imported snapshot whose PDU did not come with it. */
  readonly placed?: readonly { readonly eventId: EventId; readonly position: number }[];
  readonly changes: readonly {
    readonly after: number;
    readonly upTo: number;
    readonly keys: readonly { readonly type: string; readonly stateKey: string }[];
  }[];
  readonly citing: readonly { readonly cited: EventId; readonly by: readonly EventId[] }[];
  /** Server and how many joined members it has; a server without any is absent. */
  readonly residents: readonly (readonly [ServerName, number])[];
}
