import type { EventId, Pdu } from '@exeunt/pdu';
import type { StateKey } from './state-key.js';

/** A room state: the event that each (type, state_key) pair has. */
export type StateMap = ReadonlyMap<StateKey, EventId>;

/**
 * The events that a resolution looks at. Any method may throw the caller's own exception, for "not loaded yet":
 * it passes through untouched, and nothing is kept from one run to the next.
 */
export interface EventGraph {
  /** An event, rejected ones included; `undefined` where it is unknown, which resolves as if it were not there. */
  event(id: EventId): Pdu | undefined;
  /** Whether the event failed the auth rules when it was received. Asked of auth events only. (SR-27) */
  isRejected(id: EventId): boolean;
  /** The room's create event. Asked only where no event cites it, in version 12. (SR-32) */
  create(): Pdu | undefined;
}

/** From an event's ID to the IDs of its auth events: an edge of the auth graph. */
export type AuthEdges = (id: EventId) => readonly EventId[];

/** The auth graph of `graph`; an unknown event has no edges. */
export function authEdgesOf(graph: EventGraph): AuthEdges {
  return (id) => graph.event(id)?.authEvents ?? [];
}

/** The event among `pdu`'s auth events that has this type and state_key; the first one, if it cites several. */
export function citedEvent(
  pdu: Pdu,
  type: string,
  stateKey: string,
  graph: Pick<EventGraph, 'event'>,
): Pdu | undefined {
  for (const id of pdu.authEvents) {
    const cited = graph.event(id);
    if (cited?.type === type && cited.stateKey === stateKey) return cited;
  }
  return undefined;
}
