import type { EventId } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { authChain, authChainDifference } from './auth-chain.js';
import { conflictedSubgraph } from './conflicted-subgraph.js';
import { authEdgesOf, type EventGraph } from './event-graph.js';
import { iterativeAuthChecks } from './iterative-auth-checks.js';
import { mainlineOrder } from './mainline-ordering.js';
import {
  comparePowerRank,
  isPowerEvent,
  powerRankOf,
  reverseTopologicalPowerOrder,
} from './power-ordering.js';
import type { Conflict } from './resolve.js';
import { stateKeyOf, type StateKey } from './state-key.js';

/**
 * Resolves by algorithm 2, or 2.1 where the version says so. Gives what {@link Conflict} describes.
 *
 * SR-20 to SR-32; rooms/v2 and rooms/v12, State resolution: Algorithm.
 */
export function resolveV2(
  version: RoomVersion,
  conflict: Conflict,
  graph: EventGraph,
): Map<StateKey, EventId> {
  const authEventsOf = authEdgesOf(graph);
  const full = fullConflictedSet(version, conflict, graph);

  // 1. X is all power events of the full conflicted set, and what of their auth chains is in that set too, in
  //    reverse topological power ordering.
  const powerEvents = [...full].filter((id) => {
    const pdu = graph.event(id);
    return pdu !== undefined && isPowerEvent(pdu);
  });
  const x = new Set(powerEvents);
  for (const id of authChain(powerEvents, authEventsOf)) {
    if (full.has(id)) x.add(id);
  }
  const rankOf = new Map(
    [...x].flatMap((id) => {
      const pdu = graph.event(id);
      return pdu === undefined ? [] : [[id, powerRankOf(pdu, version, graph)] as const];
    }),
  );
  const sortedPowerEvents = reverseTopologicalPowerOrder(rankOf.keys(), authEventsOf, (a, b) =>
    comparePowerRank(rankOf.get(a)!, rankOf.get(b)!),
  );

  // 2. Iterative auth checks on X, starting from the unconflicted state map; since version 12 (algorithm 2.1)
  //    from an empty one.
  const startsEmpty = version.stateResolution === 'v2.1';
  const resolved = new Map<StateKey, EventId>();
  const partial = {
    get: (key: StateKey) => resolved.get(key) ?? (startsEmpty ? undefined : conflict.unconflicted(key)),
    set: (key: StateKey, id: EventId) => resolved.set(key, id),
  };
  iterativeAuthChecks(version, sortedPowerEvents, partial, graph);

  // 3. The remaining events in mainline order of the power levels of the state so far.
  const remaining = [...full].filter((id) => !x.has(id));
  const sortedRemaining = mainlineOrder(remaining, partial.get(stateKeyOf('m.room.power_levels', '')), graph);

  // 4. Iterative auth checks on them.
  iterativeAuthChecks(version, sortedRemaining, partial, graph);

  // 5. What is unconflicted stands, whatever the auth difference made of it.
  for (const key of resolved.keys()) {
    if (!conflict.conflicted.has(key) && conflict.unconflicted(key) !== undefined) resolved.delete(key);
  }
  return resolved;
}

/**
 * The conflicted state set, the auth difference and, since version 12, the conflicted state subgraph.
 *
 * The full auth chain of set i is Kᵢ ∪ U, where U is the chain of the unconflicted entries, which all sets share.
 * So the auth difference is (∪ Kᵢ − ∩ Kᵢ) − U, and of U only membership is asked.
 */
function fullConflictedSet(version: RoomVersion, conflict: Conflict, graph: EventGraph): Set<EventId> {
  const authEventsOf = authEdgesOf(graph);
  const full = new Set<EventId>();
  for (const candidates of conflict.conflicted.values()) {
    for (const id of candidates) full.add(id);
  }

  const additions =
    version.stateResolution === 'v2.1' ? conflictedSubgraph(full, authEventsOf) : new Set<EventId>();

  const chains = conflict.candidateSets.map((set) =>
    authChain(
      [...set.values()].filter((id) => id !== undefined),
      authEventsOf,
    ),
  );
  for (const id of authChainDifference(chains)) {
    if (full.has(id) || additions.has(id) || conflict.isInUnconflictedAuthChain(id)) continue;
    additions.add(id);
  }

  for (const id of additions) full.add(id);
  return full;
}
