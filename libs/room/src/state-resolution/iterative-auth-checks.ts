import type { EventId } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { checkAuthRules, type StateLookup } from '../auth-rules/check-auth.js';
import type { EventGraph } from './event-graph.js';
import { stateKeyOf, type StateKey } from './state-key.js';

/** A state that grows while it is read. */
export interface GrowingState {
  get(key: StateKey): EventId | undefined;
  set(key: StateKey, id: EventId): unknown;
}

/**
 * Applies to `state` each of the sorted events that the auth rules allow in it, and passes over the others. An
 * entry that a rule asks for and the state lacks comes from the event's own auth events, unless that auth event
 * was rejected.
 *
 * SR-27; rooms/v2, State resolution: Definitions, "Iterative auth checks".
 */
export function iterativeAuthChecks(
  version: RoomVersion,
  sorted: Iterable<EventId>,
  state: GrowingState,
  graph: EventGraph,
): void {
  for (const id of sorted) {
    const pdu = graph.event(id);
    if (pdu?.stateKey === undefined) continue;

    const lookup: StateLookup = (type, stateKey) => {
      const entry = state.get(stateKeyOf(type, stateKey));
      if (entry !== undefined) return graph.event(entry);
      for (const auth of pdu.authEvents) {
        const cited = graph.event(auth);
        if (cited?.type === type && cited.stateKey === stateKey && !graph.isRejected(auth)) return cited;
      }
      return undefined;
    };
    // Since version 12 the room ID implies the create event, and no event cites it.
    const create = version.privilegedCreators ? graph.create() : lookup('m.room.create', '');

    if (checkAuthRules(pdu, version, lookup, { create }).allowed) {
      state.set(stateKeyOf(pdu.type, pdu.stateKey), id);
    }
  }
}
