import type { EventId, Pdu } from '@exeunt/pdu';
import { isInFork, unionInFork } from './fork.js';
import type { Room } from './room.js';
import type { EventGraph } from './state-resolution/event-graph.js';
import { resolveConflicted } from './state-resolution/resolve.js';
import { stateKeyOf, type StateKey } from './state-resolution/state-key.js';
import type { StateRef } from './state-ref.js';

/**
 * State resolution over states that are given as differences: `ref` such that its state is the room version's
 * resolution of all of `refs`. Reads what the states differ in and the auth chains of that, never a whole state.
 * (SR-01)
 */
export function resolveRefs(room: Room, refs: readonly StateRef[]): StateRef {
  const distinct = distinctRefs(refs);
  const [only] = distinct;
  if (only === undefined) throw new Error('there is no state to resolve');
  if (distinct.length === 1) return only;
  if (distinct.every((ref) => isInFork(room, ref))) return unionInFork(room, distinct);
  return resolvePlainly(room, distinct);
}

/**
 * As {@link resolveRefs}, always by the whole algorithm; what the short cut of fork.ts is held against. `justNow` is
 * an event that is in one of the states and not yet in the room.
 */
export function resolvePlainly(room: Room, refs: readonly StateRef[], justNow?: Pdu): StateRef {
  const base = Math.max(...refs.map((ref) => ref.base));
  const differing = new Set<StateKey>(room.changesBetween(Math.min(...refs.map((ref) => ref.base)), base));
  for (const ref of refs) for (const key of ref.overlay.keys()) differing.add(key);

  const conflicted = new Map<StateKey, readonly EventId[]>();
  const agreed = new Map<StateKey, EventId | undefined>();
  room.require({ state: [...differing] });
  for (const key of differing) {
    const candidates = new Set(refs.map((ref) => room.entryOf(ref, key)));
    if (candidates.size === 1) agreed.set(key, [...candidates][0]);
    else
      conflicted.set(
        key,
        [...candidates].filter((candidate) => candidate !== undefined),
      );
  }
  const overlay = new Map<StateKey, EventId | null>();
  const place = (key: StateKey, eventId: EventId | undefined): void => {
    if (room.entryOf({ base, overlay: new Map() }, key) !== eventId) overlay.set(key, eventId ?? null);
  };
  for (const [key, eventId] of agreed) place(key, eventId);
  if (conflicted.size > 0) {
    const candidates = new Set([...conflicted.values()].flat());
    if (justNow !== undefined && candidates.delete(justNow.eventId)) {
      for (const eventId of justNow.authEvents) candidates.add(eventId);
    }
    room.requireAuthChains([...candidates]);
    const anyRef = refs[0]!;
    const unconflicted = (key: StateKey): EventId | undefined =>
      conflicted.has(key) ? undefined : room.entryOf(anyRef, key);
    const resolved = resolveConflicted(
      room.version,
      {
        conflicted,
        candidateSets: refs.map(
          (ref) => new Map([...conflicted.keys()].map((key) => [key, room.entryOf(ref, key)] as const)),
        ),
        unconflicted,
        isInUnconflictedAuthChain: (eventId) => isInAuthChainOfEntries(room, eventId, unconflicted),
      },
      graphOf(room, justNow),
    );
    // The auth difference can bring back a key that none of the states has.
    const settled = new Set([...conflicted.keys(), ...resolved.keys()]);
    room.require({ state: [...settled] });
    for (const key of settled) place(key, resolved.get(key));
  }
  return { base, overlay };
}

/** Entries that differ between two states, as they are in `to`; in order of their keys. */
export function differences(
  room: Room,
  from: StateRef,
  to: StateRef,
): readonly {
  readonly key: StateKey;
  readonly from: EventId | undefined;
  readonly to: EventId | undefined;
}[] {
  const keys = new Set<StateKey>(
    room.changesBetween(Math.min(from.base, to.base), Math.max(from.base, to.base)),
  );
  for (const key of from.overlay.keys()) keys.add(key);
  for (const key of to.overlay.keys()) keys.add(key);
  room.require({ state: [...keys] });
  return [...keys]
    .sort()
    .map((key) => ({ key, from: room.entryOf(from, key), to: room.entryOf(to, key) }))
    .filter((entry) => entry.from !== entry.to);
}

function distinctRefs(refs: readonly StateRef[]): readonly StateRef[] {
  const distinct: StateRef[] = [];
  const seen = new Set<string>();
  for (const ref of refs) {
    const name = `${ref.base} ${JSON.stringify([...ref.overlay].sort(([a], [b]) => (a < b ? -1 : 1)))}`;
    if (!seen.has(name)) {
      seen.add(name);
      distinct.push(ref);
    }
  }
  return distinct;
}

/**
 * Whether an event is an entry that the states agree on, or on the auth chain of one. Walks from the event to those that
 * cite it until it meets such an entry: the other way round would read every entry of the state.
 */
function isInAuthChainOfEntries(
  room: Room,
  eventId: EventId,
  entryOf: (key: StateKey) => EventId | undefined,
): boolean {
  const { type, stateKey } = room.pdu(eventId);
  if (stateKey !== undefined && entryOf(stateKeyOf(type, stateKey)) === eventId) return true;
  const seen = new Set<EventId>([eventId]);
  const waiting = [eventId];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const citing = room.citing(next).filter((by) => !seen.has(by));
    for (let from = 0; from < citing.length; from += citingAtOnce) {
      const some = citing.slice(from, from + citingAtOnce);
      room.require({ events: some });
      for (const by of some) {
        const { type, stateKey } = room.pdu(by);
        if (stateKey !== undefined && entryOf(stateKeyOf(type, stateKey)) === by) return true;
        seen.add(by);
        waiting.push(by);
      }
    }
  }
  return false;
}

/** An event that much of the room cites is nearly always cited by an entry among the first few. */
const citingAtOnce = 50;

function graphOf(room: Room, justNow: Pdu | undefined): EventGraph {
  return {
    event: (eventId) => {
      if (eventId === justNow?.eventId) return justNow;
      return room.known(eventId) === undefined ? undefined : room.pdu(eventId);
    },
    isRejected: (eventId) => eventId !== justNow?.eventId && room.known(eventId)?.status === 'rejected',
    create: () => room.create(),
  };
}
