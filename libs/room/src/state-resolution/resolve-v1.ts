import { createHash } from 'node:crypto';
import type { EventId, Pdu } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { checkAuthRules, type StateLookup } from '../auth-rules/check-auth.js';
import type { EventGraph } from './event-graph.js';
import type { Conflict } from './resolve.js';
import { stateKeyOf, typeAndStateKeyOf, type StateKey } from './state-key.js';

/**
 * Sorts candidates for one key: ascending `depth`, then descending SHA-1 of the event ID.
 *
 * SR-10; rooms/v1, State resolution.
 */
export function v1Order<Candidate extends Pick<Pdu, 'eventId' | 'depth'>>(
  candidates: readonly Candidate[],
): Candidate[] {
  return candidates
    .map((candidate) => ({
      candidate,
      depth: depthOf(candidate),
      hash: createHash('sha1').update(candidate.eventId, 'utf8').digest('hex'),
    }))
    .sort((x, y) =>
      x.depth !== y.depth ? (x.depth < y.depth ? -1 : 1) : x.hash === y.hash ? 0 : x.hash > y.hash ? -1 : 1,
    )
    .map(({ candidate }) => candidate);
}

/** Lossless, because depth goes up to 2^63-1 in this version. (RV-05) */
function depthOf({ depth }: Pick<Pdu, 'depth'>): bigint {
  if (typeof depth === 'number') return Number.isSafeInteger(depth) ? BigInt(depth) : 0n;
  return /^-?[0-9]+$/.test(depth.source) ? BigInt(depth.source) : 0n;
}

/** The passes over keys on which authorisation rests; the keys of a pass do not see one another's results. */
const passes = ['m.room.power_levels', 'm.room.join_rules', 'm.room.member'];

/**
 * Resolves by algorithm 1. Gives what {@link Conflict} describes.
 *
 * SR-10, SR-11; rooms/v1, State resolution. The text speaks of one list a type; a list for each (type, state_key)
 * is the only reading that works for members.
 */
export function resolveV1(
  version: RoomVersion,
  conflict: Conflict,
  graph: EventGraph,
): Map<StateKey, EventId> {
  // R starts as the union of the states without the conflicting events. A conflict is between different events:
  // a key that some of the states lack is not one.
  const resolved = new Map<StateKey, EventId>();
  const conflicts: { readonly key: StateKey; readonly type: string; readonly candidates: readonly Pdu[] }[] =
    [];
  for (const [key, ids] of conflict.conflicted) {
    const [first, ...others] = ids;
    if (first === undefined) continue;
    if (others.length === 0) {
      resolved.set(key, first);
      continue;
    }
    const candidates = ids.map((id) => graph.event(id)).filter((pdu) => pdu !== undefined);
    conflicts.push({ key, type: typeAndStateKeyOf(key).type, candidates: v1Order(candidates) });
  }

  const isAllowed = (pdu: Pdu, key: StateKey, before: EventId | undefined): boolean => {
    const state: StateLookup = (type, stateKey) => {
      const wanted = stateKeyOf(type, stateKey);
      const id =
        (wanted === key ? before : undefined) ?? resolved.get(wanted) ?? conflict.unconflicted(wanted);
      return id === undefined ? undefined : graph.event(id);
    };
    return checkAuthRules(pdu, version, state, { create: state('m.room.create', '') }).allowed;
  };

  // Power levels, then join rules, then members: the first event of the list is taken as it is, each next one
  // while it is allowed in R; the first that is not ends the list.
  for (const pass of passes) {
    const results: [StateKey, EventId][] = [];
    for (const { key, type, candidates } of conflicts) {
      const [first, ...others] = candidates;
      if (type !== pass || first === undefined) continue;
      let chosen = first.eventId;
      for (const next of others) {
        if (!isAllowed(next, key, chosen)) break;
        chosen = next.eventId;
      }
      results.push([key, chosen]);
    }
    for (const [key, id] of results) resolved.set(key, id);
  }

  // All other conflicts: the event of the highest depth, then of the lowest SHA-1, that is allowed in R. Where
  // none is, the text is silent: the one of the least depth stays, as in other servers.
  const results: [StateKey, EventId][] = [];
  for (const { key, type, candidates } of conflicts) {
    if (passes.includes(type)) continue;
    const chosen = candidates.findLast((pdu) => isAllowed(pdu, key, undefined)) ?? candidates[0];
    if (chosen !== undefined) results.push([key, chosen.eventId]);
  }
  for (const [key, id] of results) resolved.set(key, id);
  return resolved;
}
