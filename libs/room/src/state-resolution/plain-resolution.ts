import { createHash } from 'node:crypto';
import type { EventId, Pdu } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { memberOf } from '@exeunt/signing';
import { checkAuthRules } from '../auth-rules/check-auth.js';
import { comparePower, PowerLevels, type Power } from '../auth-rules/power-levels.js';
import type { EventGraph, StateMap } from './event-graph.js';
import { stateKeyOf, typeAndStateKeyOf, type StateKey } from './state-key.js';

/**
 * The resolution of state sets written down definition by definition, without a thought for cost: what tests hold
 * `resolve` against. It shares the auth rules with it, and nothing of the algorithms. Every event that is cited
 * must be in the graph. Not for use in the service.
 *
 * rooms/v1, rooms/v2 and rooms/v12, State resolution.
 */
export function plainResolution(
  version: RoomVersion,
  sets: readonly StateMap[],
  graph: EventGraph,
): Map<StateKey, EventId> {
  return version.stateResolution === 'v1'
    ? plainV1(version, sets, graph)
    : plainV2(version, sets, graph, version.stateResolution === 'v2.1');
}

function plainV1(version: RoomVersion, sets: readonly StateMap[], graph: EventGraph): Map<StateKey, EventId> {
  const event = (id: EventId): Pdu => graph.event(id)!;
  const sha1 = (id: EventId): string => createHash('sha1').update(id).digest('hex');
  const keys = new Set(sets.flatMap((set) => [...set.keys()]));
  const idsOf = (key: StateKey): EventId[] => [...new Set(sets.flatMap((set) => set.get(key) ?? []))];

  let r = new Map<StateKey, EventId>();
  for (const key of keys) {
    if (idsOf(key).length === 1) r.set(key, idsOf(key)[0]!);
  }
  const isAllowed = (id: EventId, state: StateMap): boolean => {
    const lookup = (type: string, stateKey: string): Pdu | undefined => {
      const found = state.get(stateKeyOf(type, stateKey));
      return found && event(found);
    };
    return checkAuthRules(event(id), version, lookup, { create: lookup('m.room.create', '') }).allowed;
  };
  const sorted = (key: StateKey): EventId[] =>
    idsOf(key).sort(
      (x, y) => Number(event(x).depth) - Number(event(y).depth) || (sha1(x) < sha1(y) ? 1 : -1),
    );
  const conflicted = [...keys].filter((key) => idsOf(key).length > 1);
  const authTypes = ['m.room.power_levels', 'm.room.join_rules', 'm.room.member'];

  for (const type of authTypes) {
    const before = new Map(r);
    for (const key of conflicted.filter((candidate) => typeAndStateKeyOf(candidate).type === type)) {
      const own = new Map(before);
      for (const [index, id] of sorted(key).entries()) {
        if (index > 0 && !isAllowed(id, own)) break;
        own.set(key, id);
      }
      r.set(key, own.get(key)!);
    }
  }

  const before = r;
  r = new Map(r);
  for (const key of conflicted.filter(
    (candidate) => !authTypes.includes(typeAndStateKeyOf(candidate).type),
  )) {
    const deepestFirst = sorted(key).reverse();
    r.set(key, deepestFirst.find((id) => isAllowed(id, before)) ?? deepestFirst.at(-1)!);
  }
  return r;
}

function plainV2(
  version: RoomVersion,
  sets: readonly StateMap[],
  graph: EventGraph,
  isV21: boolean,
): Map<StateKey, EventId> {
  const event = (id: EventId): Pdu => graph.event(id)!;

  // Auth chain.
  const chains = new Map<EventId, Set<EventId>>();
  const chainOf = (id: EventId): Set<EventId> => {
    let chain = chains.get(id);
    if (chain === undefined) {
      chain = new Set(event(id).authEvents.flatMap((auth) => [auth, ...chainOf(auth)]));
      chains.set(id, chain);
    }
    return chain;
  };

  // Unconflicted state map and conflicted state set.
  const unconflicted = new Map<StateKey, EventId>();
  const conflicted = new Set<EventId>();
  for (const set of sets) {
    for (const [key, id] of set) {
      if (sets.every((other) => other.get(key) === id)) unconflicted.set(key, id);
      else conflicted.add(id);
    }
  }

  // Auth difference.
  const fullChains = sets.map((set) => new Set([...set.values()].flatMap((id) => [id, ...chainOf(id)])));
  const union = new Set(fullChains.flatMap((chain) => [...chain]));
  const difference = [...union].filter((id) => !fullChains.every((chain) => chain.has(id)));

  // Conflicted state subgraph: what lies between two conflicted events, ends included.
  const between = [...new Set([...union, ...conflicted])].filter((id) =>
    [...conflicted].some((from) =>
      [...conflicted].some(
        (to) =>
          chainOf(from).has(to) &&
          (id === from || chainOf(from).has(id)) &&
          (id === to || chainOf(id).has(to)),
      ),
    ),
  );

  // Full conflicted set.
  const full = new Set([...conflicted, ...difference, ...(isV21 ? between : [])]);

  // Power events, and the order by power.
  const isPowerEvent = (id: EventId): boolean => {
    const { type, sender, stateKey, content } = event(id);
    if (stateKey === undefined) return false;
    if (type === 'm.room.power_levels' || type === 'm.room.join_rules') return true;
    const membership = memberOf(content, 'membership');
    return (
      type === 'm.room.member' && (membership === 'leave' || membership === 'ban') && sender !== stateKey
    );
  };
  const cited = (id: EventId, type: string): Pdu | undefined =>
    event(id)
      .authEvents.map(event)
      .find((auth) => auth.type === type && auth.stateKey === '');
  const power = (id: EventId): Power =>
    new PowerLevels(version, {
      event: cited(id, 'm.room.power_levels'),
      create: version.privilegedCreators ? graph.create() : cited(id, 'm.room.create'),
    }).powerOf(event(id).sender);
  const byTime = (x: EventId, y: EventId): number =>
    event(x).originServerTs - event(y).originServerTs || (x < y ? -1 : 1);
  const byPower = (x: EventId, y: EventId): number => comparePower(power(y), power(x)) || byTime(x, y);

  // Iterative auth checks.
  const iterate = (start: StateMap, ids: readonly EventId[]): Map<StateKey, EventId> => {
    const state = new Map(start);
    for (const id of ids) {
      const pdu = event(id);
      const merged = new Map<StateKey, EventId>();
      for (const auth of pdu.authEvents) {
        const { type, stateKey } = event(auth);
        if (stateKey !== undefined && !graph.isRejected(auth)) merged.set(stateKeyOf(type, stateKey), auth);
      }
      for (const [key, value] of state) merged.set(key, value);
      const lookup = (type: string, stateKey: string): Pdu | undefined => {
        const found = merged.get(stateKeyOf(type, stateKey));
        return found && event(found);
      };
      const create = version.privilegedCreators ? graph.create() : lookup('m.room.create', '');
      if (pdu.stateKey !== undefined && checkAuthRules(pdu, version, lookup, { create }).allowed) {
        state.set(stateKeyOf(pdu.type, pdu.stateKey), id);
      }
    }
    return state;
  };

  // 1.
  const powerEvents = [...full].filter(isPowerEvent);
  const x = new Set(powerEvents);
  for (const id of powerEvents) {
    for (const auth of chainOf(id)) if (full.has(auth)) x.add(auth);
  }
  const powerList: EventId[] = [];
  const left = new Set(x);
  while (left.size > 0) {
    const available = [...left].filter((id) => ![...left].some((other) => chainOf(id).has(other)));
    const next = available.sort(byPower)[0]!;
    powerList.push(next);
    left.delete(next);
  }

  // 2.
  let state = iterate(isV21 ? new Map() : unconflicted, powerList);

  // 3.
  const mainline: EventId[] = [];
  for (
    let p = state.get(stateKeyOf('m.room.power_levels', ''));
    p !== undefined;
    p = cited(p, 'm.room.power_levels')?.eventId
  ) {
    mainline.push(p);
  }
  const position = (id: EventId): number => {
    const next = cited(id, 'm.room.power_levels')?.eventId;
    if (next === undefined) return Number.MAX_SAFE_INTEGER;
    return mainline.includes(next) ? mainline.indexOf(next) : position(next);
  };
  const rest = [...full].filter((id) => !x.has(id)).sort((a, b) => position(b) - position(a) || byTime(a, b));

  // 4.
  state = iterate(state, rest);

  // 5.
  for (const [key, id] of unconflicted) state.set(key, id);
  return state;
}
