import type { EventId, RoomId, ServerName } from '@exeunt/pdu';
import type { Broadcast, DomainEvent, Facts, FactsNeeded, RoomHeader, StateEntry } from '@exeunt/room';

/** A domain event where it stands in its room's log. */
export interface LoggedEvent {
  /** 1 for the first of the room, without gaps. */
  readonly position: number;
  readonly domainEvent: DomainEvent;
}

/** Everything that one decision, or a burst of decisions on one room, makes durable at once. */
export interface Append {
  readonly roomId: RoomId;
  /** The position of the room's last domain event; 0 for a room that is not in the store. */
  readonly expectedPosition: number;
  /** Never empty; they get the positions from `expectedPosition + 1` on. */
  readonly domainEvents: readonly DomainEvent[];
  /** The room's header after the last of them. */
  readonly header: RoomHeader;
  /** Changed resident servers with their new count of joined members; 0 takes the row away. */
  readonly residents: readonly (readonly [ServerName, number])[];
  readonly broadcasts: readonly Broadcast[];
  /** Of PDUs that are put into the graph: the W3C `traceparent` of the request that each came by, where it has one. */
  readonly traceparents?: ReadonlyMap<EventId, string>;
}

/**
 * Where rooms' logs are kept.
 *
 * Guarantees: an append is durable as a whole or not at all before its promise resolves, with its state rows and
 * its outbox rows; of two appends that expect the same position one conflicts, whatever process they come from;
 * positions of a room have no gap. Does not guarantee: any order between rooms, nor that what was read is still
 * the newest.
 */
export interface EventStore {
  /** `conflict` where the room's log is not at `expectedPosition`; nothing is written then. */
  append(append: Append): Promise<'appended' | 'conflict'>;
  header(roomId: RoomId): Promise<RoomHeader | undefined>;
  /** `moved` where the room's log is no longer at `position`. */
  facts(roomId: RoomId, position: number, needed: FactsNeeded): Promise<Facts | 'moved'>;
  /** Domain events with positions from `from` on, in order; at most `limit`. */
  read(roomId: RoomId, from: number, limit: number): Promise<readonly LoggedEvent[]>;
  /**
   * The state as the current state was at `position`, in order of type and state_key, optionally of one type or
   * one entry alone; entries that were taken away are left out. At most `limit` entries, after the key `after`.
   */
  stateAt(
    roomId: RoomId,
    position: number,
    filter: {
      readonly type?: string;
      readonly stateKey?: string;
      readonly after?: readonly [type: string, stateKey: string];
      readonly limit: number;
    },
  ): Promise<readonly StateEntry[]>;
  /** The PDUs as they are in the log, of those that are known. */
  pdus(roomId: RoomId, eventIds: readonly EventId[]): Promise<ReadonlyMap<EventId, DomainEvent>>;
  /** Headers in order of room ID, after `after`; at most `limit`. */
  rooms(after: string | undefined, limit: number): Promise<readonly RoomHeader[]>;
  /** All resident servers with their count of joined members. */
  residents(roomId: RoomId): Promise<readonly (readonly [ServerName, number])[]>;
}
