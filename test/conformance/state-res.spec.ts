import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { EventId, Pdu, RoomId, UserId } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { parseJson, type JsonObject } from '@exeunt/signing';
import { authChain, authChainDifference } from '../../libs/room/src/state-resolution/auth-chain.js';
import { conflictedSubgraph } from '../../libs/room/src/state-resolution/conflicted-subgraph.js';
import type { AuthEdges, EventGraph, StateMap } from '../../libs/room/src/state-resolution/event-graph.js';
import { plainResolution } from '../../libs/room/src/state-resolution/plain-resolution.js';
import {
  comparePowerRank,
  reverseTopologicalPowerOrder,
} from '../../libs/room/src/state-resolution/power-ordering.js';
import { v1Order } from '../../libs/room/src/state-resolution/resolve-v1.js';
import { resolve } from '../../libs/room/src/state-resolution/resolve.js';
import { splitConflicted } from '../../libs/room/src/state-resolution/split-conflicted.js';
import {
  stateKeyOf,
  typeAndStateKeyOf,
  type StateKey,
} from '../../libs/room/src/state-resolution/state-key.js';

interface VectorEvent {
  readonly event_id: EventId;
  readonly room_id?: RoomId;
  readonly type: string;
  readonly sender: UserId;
  readonly state_key?: string;
  readonly content: JsonObject;
  readonly depth?: number;
  readonly origin_server_ts?: number;
  readonly prev_events?: readonly EventId[];
  readonly auth_events?: readonly EventId[];
}

type AuthGraph = Readonly<Record<string, readonly EventId[]>>;

interface Inputs {
  resolve: {
    readonly algorithm: '1' | '2' | '2.1';
    readonly events: readonly VectorEvent[];
    readonly stateSets: readonly (readonly EventId[])[];
  };
  v1Order: { readonly events: readonly { readonly event_id: EventId; readonly depth: number }[] };
  authChain: { readonly authGraph: AuthGraph; readonly start: readonly EventId[] };
  conflictedSubgraph: { readonly authGraph: AuthGraph; readonly conflicted: readonly EventId[] };
  split: { readonly stateSets: readonly Readonly<Record<string, EventId>>[] };
  reverseTopologicalPower: {
    readonly authGraph: AuthGraph;
    readonly powerLevel: number;
    readonly originServerTs: number;
  };
  powerOrder: {
    readonly items: readonly {
      readonly eventId: EventId;
      readonly powerLevel: number;
      readonly originServerTs: number;
    }[];
  };
  authChainDifference: { readonly authGraph: AuthGraph; readonly stateSets: readonly (readonly EventId[])[] };
}

interface Expected {
  resolve: { readonly resolved: Readonly<Record<string, EventId>> };
  v1Order: { readonly order: readonly EventId[] };
  authChain: { readonly authChain: readonly EventId[] };
  conflictedSubgraph: { readonly subgraph: readonly EventId[] };
  split: {
    readonly unconflicted: Readonly<Record<string, EventId>>;
    readonly conflicted: Readonly<Record<string, readonly EventId[]>>;
  };
  reverseTopologicalPower: { readonly order: readonly EventId[] };
  powerOrder: { readonly order: readonly EventId[] };
  authChainDifference: { readonly difference: readonly EventId[] };
}

interface Row<Kind extends keyof Inputs> {
  readonly id: string;
  readonly kind: Kind;
  readonly source: { readonly test: string };
  readonly roomVersion?: string;
  readonly disputed?: boolean;
  readonly input: Inputs[Kind];
  readonly expected: Expected[Kind];
}

const file = readFileSync(new URL('vectors/state-res.json', import.meta.url), 'utf8');
const { vectors } = parseJson(file) as unknown as { readonly vectors: readonly Row<keyof Inputs>[] };
const rows = vectors.filter(({ disputed }) => disputed !== true);

function named<Kind extends keyof Inputs>(kind: Kind): [string, Row<Kind>][] {
  return rows
    .filter((row): row is Row<Kind> => row.kind === kind)
    .map((row) => [`${row.id} ${row.source.test}`, row]);
}

/** Keys in the vectors are `type|state_key`. */
function stateKey(text: string): StateKey {
  const bar = text.indexOf('|');
  return stateKeyOf(text.slice(0, bar), text.slice(bar + 1));
}

function byVectorKey<Value>(map: ReadonlyMap<StateKey, Value>): Record<string, Value> {
  return Object.fromEntries(
    [...map].map(([key, value]) => {
      const pair = typeAndStateKeyOf(key);
      return [`${pair.type}|${pair.stateKey}`, value];
    }),
  );
}

function edges(authGraph: AuthGraph): AuthEdges {
  return (id) => authGraph[id] ?? [];
}

describe('resolution of state sets', () => {
  it.each(named('resolve'))('%s', (_name, { roomVersion: id, input, expected }) => {
    const version = roomVersion(id!)!;
    expect(version.stateResolution).toBe(`v${input.algorithm}`);

    const create = input.events.find(({ type }) => type === 'm.room.create')!;
    const events = new Map<EventId, Pdu>(
      input.events.map((event) => [
        event.event_id,
        {
          roomVersion: version,
          eventId: event.event_id,
          roomId: event.room_id ?? (`!${create.event_id.slice(1)}` as RoomId),
          type: event.type,
          sender: event.sender,
          ...(event.state_key === undefined ? {} : { stateKey: event.state_key }),
          content: event.content,
          prevEvents: event.prev_events ?? [],
          authEvents: event.auth_events ?? [],
          depth: event.depth ?? 1,
          originServerTs: event.origin_server_ts ?? 0,
          json: event as unknown as JsonObject,
        },
      ]),
    );
    const graph: EventGraph = {
      event: (eventId) => events.get(eventId),
      isRejected: () => false,
      create: () => events.get(create.event_id),
    };
    const sets: StateMap[] = input.stateSets.map(
      (set) =>
        new Map(
          set.map((eventId) => {
            const pdu = events.get(eventId)!;
            return [stateKeyOf(pdu.type, pdu.stateKey!), eventId];
          }),
        ),
    );

    expect(byVectorKey(resolve(version, sets, graph))).toEqual(expected.resolved);
    expect(byVectorKey(plainResolution(version, sets, graph))).toEqual(expected.resolved);
  });
});

describe('order of candidates in version 1', () => {
  it.each(named('v1Order'))('%s', (_name, { input, expected }) => {
    const candidates = input.events.map(({ event_id: eventId, depth }) => ({ eventId, depth }));
    expect(v1Order(candidates).map(({ eventId }) => eventId)).toEqual(expected.order);
    expect(v1Order(candidates.reverse()).map(({ eventId }) => eventId)).toEqual(expected.order);
  });
});

describe('auth chain', () => {
  it.each(named('authChain'))('%s', (_name, { input, expected }) => {
    expect([...authChain(input.start, edges(input.authGraph))].sort()).toEqual(expected.authChain);
  });
});

describe('conflicted state subgraph', () => {
  it.each(named('conflictedSubgraph'))('%s', (_name, { input, expected }) => {
    expect([...conflictedSubgraph(input.conflicted, edges(input.authGraph))].sort()).toEqual(
      expected.subgraph,
    );
  });
});

describe('conflicted and unconflicted state', () => {
  it.each(named('split'))('%s', (_name, { input, expected }) => {
    const sets = input.stateSets.map(
      (set) => new Map(Object.entries(set).map(([key, id]) => [stateKey(key), id])),
    );
    const { unconflicted, conflicted } = splitConflicted(sets);
    expect(byVectorKey(unconflicted)).toEqual(expected.unconflicted);
    expect(byVectorKey(conflicted)).toEqual(expected.conflicted);
  });
});

describe('reverse topological power ordering', () => {
  it.each(named('reverseTopologicalPower'))('%s', (_name, { input, expected }) => {
    const rank = (eventId: EventId): Parameters<typeof comparePowerRank>[0] => ({
      power: BigInt(input.powerLevel),
      originServerTs: input.originServerTs,
      eventId,
    });
    const order = reverseTopologicalPowerOrder(
      Object.keys(input.authGraph) as EventId[],
      edges(input.authGraph),
      (x, y) => comparePowerRank(rank(x), rank(y)),
    );
    expect(order).toEqual(expected.order);
  });

  it.each(named('powerOrder'))('%s', (_name, { input, expected }) => {
    const items = input.items.map(({ powerLevel, ...item }) => ({ ...item, power: BigInt(powerLevel) }));
    expect(items.sort(comparePowerRank).map(({ eventId }) => eventId)).toEqual(expected.order);
  });
});

describe('auth difference', () => {
  it.each(named('authChainDifference'))('%s', (_name, { input, expected }) => {
    // In these rows a chain includes the state events themselves.
    const chains = input.stateSets.map((set) => new Set([...set, ...authChain(set, edges(input.authGraph))]));
    expect([...authChainDifference(chains)].sort()).toEqual(expected.difference);
  });
});
