import type { EventId } from '@exeunt/pdu';
import type { StateMap } from './event-graph.js';
import type { StateKey } from './state-key.js';

/** State sets, taken apart. */
export interface SplitState {
  /** The keys that every set has, with the same event. */
  readonly unconflicted: Map<StateKey, EventId>;
  /** The other keys, each with its different events in the order in which the sets have them. */
  readonly conflicted: Map<StateKey, EventId[]>;
}

/**
 * Takes state sets apart into the unconflicted state map and the conflicted state. A key that one set lacks is
 * conflicted, even where the other sets agree on it.
 *
 * SR-20; rooms/v2, State resolution: Definitions.
 */
export function splitConflicted(sets: readonly StateMap[]): SplitState {
  const candidates = new Map<StateKey, { readonly ids: EventId[]; sets: number }>();
  for (const set of sets) {
    for (const [key, id] of set) {
      const seen = candidates.get(key);
      if (seen === undefined) {
        candidates.set(key, { ids: [id], sets: 1 });
      } else {
        seen.sets += 1;
        // At most one ID a set, so this list is as short as there are parents.
        if (!seen.ids.includes(id)) seen.ids.push(id);
      }
    }
  }

  const unconflicted = new Map<StateKey, EventId>();
  const conflicted = new Map<StateKey, EventId[]>();
  for (const [key, { ids, sets: count }] of candidates) {
    const only = ids.length === 1 && count === sets.length ? ids[0] : undefined;
    if (only === undefined) conflicted.set(key, ids);
    else unconflicted.set(key, only);
  }
  return { unconflicted, conflicted };
}
