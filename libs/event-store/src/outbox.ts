import type { PduAccepted, RoomId, ServerName } from '@exeunt/room';

/** An accepted PDU that the rest of the platform has not been told of yet. */
export interface OutboxEntry {
  /** Opaque; for {@link Outbox.done} alone. */
  readonly id: string;
  readonly roomId: RoomId;
  readonly roomVersion: string;
  /** Where the domain event stands in the room's log. */
  readonly position: number;
  readonly domainEvent: PduAccepted;
  /** The servers that the PDU must be sent to; empty where nobody else has to hear of it. */
  readonly destinations: readonly ServerName[];
  /** Of the request that made it accepted, as W3C writes it; absent where that was not traced. */
  readonly traceparent?: string;
}

/**
 * The accepted PDUs still to be published, in an order that keeps each room's own.
 *
 * Guarantees: an entry is visible once its append is durable and no append that could sort before it is still
 * under way, so that a reader never skips one that commits late. Does not guarantee that an entry is given once:
 * one that was taken and not done comes again.
 */
export interface Outbox {
  /** The oldest entries, at most `limit`; the same again until they are done. */
  take(limit: number): Promise<readonly OutboxEntry[]>;
  /** Takes entries away for good. Call it after they are durable elsewhere. */
  done(entries: readonly OutboxEntry[]): Promise<void>;
  /** Calls `listener` whenever this process has put something in; gives back how to stop. */
  onEntry(listener: () => void): () => void;
}
