import type { EventId } from '@exeunt/pdu';
import { stateKeyOf, type StateKey } from './state-resolution/state-key.js';

/**
 * The room state at some point of the graph, as a difference: the current state as it was at position `base` of
 * the room's log, with `overlay` put over it (`null` takes an entry away). A fork therefore costs what differs.
 */
export interface StateRef {
  readonly base: number;
  readonly overlay: ReadonlyMap<StateKey, EventId | null>;
}

/** The stored form of a {@link StateRef}: `[base, [[type, state_key, event ID or null], …]]`. */
export type StoredStateRef = readonly [
  base: number,
  overlay: readonly (readonly [type: string, stateKey: string, eventId: EventId | null])[],
];

const nothing: ReadonlyMap<StateKey, EventId | null> = new Map();

/** The current state as it was at `position`. */
export function trunkAt(position: number): StateRef {
  return { base: position, overlay: nothing };
}

/** `ref` with one more entry replaced. */
export function withEntry(ref: StateRef, type: string, stateKey: string, eventId: EventId | null): StateRef {
  return { base: ref.base, overlay: new Map(ref.overlay).set(stateKeyOf(type, stateKey), eventId) };
}
