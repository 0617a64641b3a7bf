import type { EventId } from '@exeunt/pdu';
import type { AuthEdges } from './event-graph.js';

/**
 * The auth chain of some events: all that can be reached from them by auth edges. The events themselves are not
 * in it, unless another of them reaches them. Each event is visited once, without recursion.
 *
 * rooms/v2, State resolution: Definitions, "Auth chain".
 */
export function authChain(events: Iterable<EventId>, authEventsOf: AuthEdges): Set<EventId> {
  const chain = new Set<EventId>();
  const walked = new Set<EventId>(events);
  const pending = [...walked];
  for (let id = pending.pop(); id !== undefined; id = pending.pop()) {
    for (const cited of authEventsOf(id)) {
      chain.add(cited);
      if (walked.has(cited)) continue;
      walked.add(cited);
      pending.push(cited);
    }
  }
  return chain;
}

/**
 * The auth difference of some chains: what is in one of them but not in all.
 *
 * SR-21; rooms/v2, State resolution: Definitions, "Auth difference".
 */
export function authChainDifference(chains: readonly ReadonlySet<EventId>[]): Set<EventId> {
  const occurrences = new Map<EventId, number>();
  for (const chain of chains) {
    for (const id of chain) occurrences.set(id, (occurrences.get(id) ?? 0) + 1);
  }
  const difference = new Set<EventId>();
  for (const [id, count] of occurrences) {
    if (count < chains.length) difference.add(id);
  }
  return difference;
}
