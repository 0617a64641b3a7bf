import type { EventId } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { authChain } from './auth-chain.js';
import { authEdgesOf, type EventGraph, type StateMap } from './event-graph.js';
import { resolveV1 } from './resolve-v1.js';
import { resolveV2 } from './resolve-v2.js';
import { splitConflicted } from './split-conflicted.js';
import type { StateKey } from './state-key.js';

/**
 * What differs between state sets, with questions about the rest instead of the rest itself. A key is conflicted
 * unless every set has it with the same event. (SR-20)
 */
export interface Conflict {
  /** Each conflicted key with all its different events. */
  readonly conflicted: ReadonlyMap<StateKey, readonly EventId[]>;
  /** For each state set its entries of the conflicted keys; a key it lacks is absent or `undefined`. */
  readonly candidateSets: readonly ReadonlyMap<StateKey, EventId | undefined>[];
  /** The event that all sets have under this key; `undefined` for a conflicted key, or one that no set has. */
  readonly unconflicted: (key: StateKey) => EventId | undefined;
  /**
   * Whether the event is an unconflicted entry or in the auth chain of one. Asked only for events that some chains
   * of conflicted entries have and others lack.
   *
   * By the letter of the spec an entry is not in its own chain; the servers that are out there count it in, and
   * servers that resolve differently split the room. See docs/decisions/0002-auth-difference.md.
   */
  readonly isInUnconflictedAuthChain: (id: EventId) => boolean;
}

/**
 * Resolves state sets that differ, at a cost that follows what differs and not what exists.
 *
 * Gives the event of every key that is not unconflicted: of the conflicted keys, where one that resolves to
 * nothing is absent, and of keys that no set has but the auth difference brings back. What {@link resolve} gives
 * is the unconflicted state map together with this. May throw what the caller's functions throw.
 *
 * SR-01 to SR-32; rooms/v1, rooms/v2 and rooms/v12, State resolution.
 */
export function resolveConflicted(
  version: RoomVersion,
  conflict: Conflict,
  graph: EventGraph,
): Map<StateKey, EventId> {
  switch (version.stateResolution) {
    case 'v1':
      return resolveV1(version, conflict, graph);
    case 'v2':
    case 'v2.1':
      return resolveV2(version, conflict, graph);
    default:
      return version.stateResolution satisfies never;
  }
}

/**
 * The resolution of whole state sets, usually those after each parent of an event. Without sets it is empty; of
 * one set it is that set. May throw what the graph throws.
 *
 * SR-01 to SR-32; rooms/v1, rooms/v2 and rooms/v12, State resolution.
 */
export function resolve(
  version: RoomVersion,
  sets: readonly StateMap[],
  graph: EventGraph,
): Map<StateKey, EventId> {
  const { unconflicted, conflicted } = splitConflicted(sets);
  if (conflicted.size === 0) return unconflicted;

  let unconflictedChain: Set<EventId> | undefined;
  const resolved = resolveConflicted(
    version,
    {
      conflicted,
      candidateSets: sets.map((set) => new Map([...conflicted.keys()].map((key) => [key, set.get(key)]))),
      unconflicted: (key) => unconflicted.get(key),
      isInUnconflictedAuthChain: (id) => {
        unconflictedChain ??= new Set([
          ...unconflicted.values(),
          ...authChain(unconflicted.values(), authEdgesOf(graph)),
        ]);
        return unconflictedChain.has(id);
      },
    },
    graph,
  );
  for (const [key, id] of resolved) unconflicted.set(key, id);
  return unconflicted;
}
