import type { EventId } from '@exeunt/pdu';
import type { AuthEdges } from './event-graph.js';
import { authChain } from './auth-chain.js';

/**
 * The conflicted state subgraph: every event on a path of auth edges from one conflicted event to another, both
 * ends included. A conflicted event that no path joins to another is not in it.
 *
 * SR-31; rooms/v12, State resolution: Definitions, "Conflicted state subgraph". Since version 12.
 */
export function conflictedSubgraph(conflicted: Iterable<EventId>, authEventsOf: AuthEdges): Set<EventId> {
  const ends = new Set(conflicted);

  // An event is on a path if it is, or is reached from, a conflicted event …
  const reached = authChain(ends, authEventsOf);
  const citing = new Map<EventId, EventId[]>();
  for (const id of new Set([...ends, ...reached])) {
    for (const cited of authEventsOf(id)) {
      const citers = citing.get(cited);
      if (citers === undefined) citing.set(cited, [id]);
      else citers.push(id);
    }
  }
  // … and is, or reaches, a conflicted event. The same walk, on the edges turned round.
  const reaching = authChain(ends, (id) => citing.get(id) ?? []);

  const subgraph = new Set<EventId>();
  for (const id of reached) {
    if (reaching.has(id) || ends.has(id)) subgraph.add(id);
  }
  for (const id of ends) {
    if (reaching.has(id)) subgraph.add(id);
  }
  return subgraph;
}
