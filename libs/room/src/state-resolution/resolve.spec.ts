import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { EventId, Pdu, RoomId, UserId } from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import type { JsonObject } from '@exeunt/signing';
import { authEventTypes } from '../auth-rules/auth-event-types.js';
import { checkAuthRules } from '../auth-rules/check-auth.js';
import { authChain } from './auth-chain.js';
import { authEdgesOf, type EventGraph, type StateMap } from './event-graph.js';
import { plainResolution } from './plain-resolution.js';
import { resolve, resolveConflicted } from './resolve.js';
import { splitConflicted } from './split-conflicted.js';
import { stateKeyOf, typeAndStateKeyOf, type StateKey } from './state-key.js';

const people = ['alice', 'bob', 'carol', 'dave'].map((name) => `@${name}:example.org` as UserId);
const alice = people[0]!;

function version(id: string): RoomVersion {
  const found = roomVersion(id);
  if (found === undefined) throw new Error(`no room version ${id}`);
  return found;
}

/** A room that grows on several branches, by events that the auth rules allow on their branch. */
class GrowingRoom {
  readonly events = new Map<EventId, Pdu>();
  readonly branches: { state: Map<StateKey, EventId>; tip: EventId; depth: number }[];
  readonly rejected = new Set<EventId>();
  readonly createId: EventId;
  readonly graph: EventGraph = {
    event: (id) => this.events.get(id),
    isRejected: (id) => this.rejected.has(id),
    create: () => this.events.get(this.createId),
  };

  constructor(readonly version: RoomVersion) {
    const content: JsonObject = version.createHasCreator
      ? { creator: alice, room_version: version.id }
      : { room_version: version.id };
    const create = this.#add(
      { type: 'm.room.create', sender: alice, stateKey: '', content, ts: 0 },
      [],
      [],
      1,
    );
    this.createId = create.eventId;
    const state = new Map([[stateKeyOf('m.room.create', ''), create.eventId]]);
    this.branches = [{ state, tip: create.eventId, depth: 1 }];
    const users = version.privilegedCreators ? {} : { [alice]: 100 };
    this.send(0, {
      type: 'm.room.member',
      sender: alice,
      stateKey: alice,
      content: { membership: 'join' },
      ts: 1,
    });
    this.send(0, { type: 'm.room.power_levels', sender: alice, stateKey: '', content: { users }, ts: 2 });
    this.send(0, {
      type: 'm.room.join_rules',
      sender: alice,
      stateKey: '',
      content: { join_rule: 'public' },
      ts: 3,
    });
  }

  #add(
    event: { type: string; sender: UserId; stateKey: string; content: JsonObject; ts: number },
    prevEvents: readonly EventId[],
    authEvents: readonly EventId[],
    depth: number,
  ): Pdu {
    // Scattered, so that order by ID is not order in time.
    const eventId = `$${(this.events.size * 7) % 97}-${this.events.size}:example.org` as EventId;
    const pdu: Pdu = {
      roomVersion: this.version,
      eventId,
      roomId: (this.version.roomIdFormat === 'domain' ? '!room:example.org' : '!0-0:example.org') as RoomId,
      type: event.type,
      sender: event.sender,
      stateKey: event.stateKey,
      content: event.content,
      prevEvents,
      authEvents,
      depth,
      originServerTs: event.ts,
      json: {},
    };
    this.events.set(eventId, pdu);
    return pdu;
  }

  send(
    branchIndex: number,
    event: { type: string; sender: UserId; stateKey: string; content: JsonObject; ts: number },
  ): void {
    const branch = this.branches[branchIndex % this.branches.length]!;
    const inState = (type: string, stateKey: string): Pdu | undefined => {
      const id = branch.state.get(stateKeyOf(type, stateKey));
      return id === undefined ? undefined : this.events.get(id);
    };
    const authEvents = authEventTypes(event, this.version).flatMap(
      ({ type, stateKey }) => inState(type, stateKey)?.eventId ?? [],
    );
    const pdu = this.#add(event, [branch.tip], authEvents, branch.depth + 1);
    const { allowed } = checkAuthRules(pdu, this.version, inState, { create: this.graph.create() });
    if (!allowed) {
      this.events.delete(pdu.eventId);
      return;
    }
    branch.state.set(stateKeyOf(event.type, event.stateKey), pdu.eventId);
    branch.tip = pdu.eventId;
    branch.depth += 1;
  }

  fork(branchIndex: number): void {
    if (this.branches.length >= 4) return;
    const branch = this.branches[branchIndex % this.branches.length]!;
    this.branches.push({ ...branch, state: new Map(branch.state) });
  }

  merge(branchIndex: number, otherIndex: number): void {
    const branch = this.branches[branchIndex % this.branches.length]!;
    const other = this.branches[otherIndex % this.branches.length]!;
    branch.state = plainResolution(this.version, [branch.state, other.state], this.graph);
    branch.depth = Math.max(branch.depth, other.depth);
  }
}

const step = fc.record({
  action: fc.nat(11),
  branch: fc.nat(3),
  sender: fc.nat(3),
  target: fc.nat(3),
  value: fc.nat(3),
  ts: fc.nat(12),
});
type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;

function take(room: GrowingRoom, { action, branch, sender, target, value, ts }: Step): void {
  const from = people[sender]!;
  const to = people[target]!;
  const send = (type: string, stateKey: string, content: JsonObject): void =>
    room.send(branch, { type, sender: from, stateKey, content, ts: ts + 4 });
  switch (action) {
    case 0:
    case 1:
      return send('m.room.member', from, { membership: 'join' });
    case 2:
      return send('m.room.member', from, { membership: 'leave' });
    case 3:
      return send('m.room.member', to, { membership: 'leave' });
    case 4:
      return send('m.room.member', to, { membership: 'ban' });
    case 5:
      return send('m.room.member', to, { membership: 'invite' });
    case 6: {
      const levels = people.map(
        (person, index) => [person, [0, 50, 100][(value + index * (target + 1)) % 3]!] as const,
      );
      const users = Object.fromEntries(
        room.version.privilegedCreators
          ? levels.slice(1)
          : levels.map(([person, level]) => [person, person === alice ? 100 : level]),
      );
      return send('m.room.power_levels', '', { users, events: { 'm.room.topic': [0, 50][target % 2]! } });
    }
    case 7:
      return send('m.room.join_rules', '', { join_rule: value % 2 === 0 ? 'public' : 'invite' });
    case 8:
      return send('m.room.topic', '', { topic: 'a' });
    case 9:
    case 10:
      return room.fork(branch);
    default:
      return room.merge(branch, target);
  }
}

function byKey(state: StateMap): Record<string, EventId> {
  return Object.fromEntries([...state].sort(([x], [y]) => (x < y ? -1 : 1)));
}

describe('a random room that forks and merges', () => {
  it.each(['1', '2', '6', '11', '12'])('resolves as the spec says, word by word, in version %s', (id) => {
    let differing = 0;
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 5, maxLength: 40 }),
        fc.array(fc.tuple(fc.nat(3), fc.nat(30)), { maxLength: 2 }),
        fc.array(fc.nat(40), { maxLength: 2 }),
        (steps, lost, rejected) => {
          const room = new GrowingRoom(version(id));
          for (const next of steps) take(room, next);
          // A state that a peer claimed may lack entries, and we may have rejected what others accepted.
          const sets = room.branches.map(({ state }) => new Map(state));
          for (const [set, entry] of lost) {
            const target = sets[set % sets.length]!;
            const key = [...target.keys()][entry % target.size];
            if (key !== undefined && key !== stateKeyOf('m.room.create', '')) target.delete(key);
          }
          for (const index of rejected) {
            const rejectedId = [...room.events.keys()][index];
            if (rejectedId !== undefined && index > 0) room.rejected.add(rejectedId);
          }

          const expected = plainResolution(room.version, sets, room.graph);
          expect(byKey(resolve(room.version, sets, room.graph))).toEqual(byKey(expected));
          if (splitConflicted(sets).conflicted.size > 0) differing += 1;
        },
      ),
      { numRuns: 300 },
    );
    expect(differing).toBeGreaterThan(100);
  });
});

describe('a fork that leaves most of the room alone', () => {
  function forkedRoom(): GrowingRoom {
    const room = new GrowingRoom(version('10'));
    for (const person of people) {
      room.send(0, {
        type: 'm.room.member',
        sender: person,
        stateKey: person,
        content: { membership: 'join' },
        ts: 5,
      });
    }
    room.fork(0);
    room.send(0, { type: 'm.room.topic', sender: alice, stateKey: '', content: { topic: 'x' }, ts: 6 });
    room.send(1, { type: 'm.room.topic', sender: alice, stateKey: '', content: { topic: 'y' }, ts: 7 });
    return room;
  }

  it('asks for no entry that the conflict does not need', () => {
    const room = forkedRoom();
    const sets = room.branches.map(({ state }) => state);
    const { conflicted, unconflicted } = splitConflicted(sets);
    const asked = new Set<string>();
    const chain = authChain(unconflicted.values(), authEdgesOf(room.graph));

    const resolved = resolveConflicted(
      room.version,
      {
        conflicted,
        candidateSets: sets.map((set) => new Map([...conflicted.keys()].map((key) => [key, set.get(key)]))),
        unconflicted: (key) => {
          const { type, stateKey } = typeAndStateKeyOf(key);
          asked.add(`${type} ${stateKey}`);
          return unconflicted.get(key);
        },
        isInUnconflictedAuthChain: (eventId) => chain.has(eventId),
      },
      room.graph,
    );

    expect([...resolved.keys()]).toEqual([stateKeyOf('m.room.topic', '')]);
    expect([...asked].some((key) => key.includes('bob') || key.includes('carol'))).toBe(false);
  });

  it("lets the caller's own exception through", () => {
    const room = forkedRoom();
    const sets = room.branches.map(({ state }) => state);
    const notLoaded = new Error('not loaded');
    const graph: EventGraph = {
      ...room.graph,
      event: () => {
        throw notLoaded;
      },
    };
    expect(() => resolve(room.version, sets, graph)).toThrow(notLoaded);
  });

  it('is that state where the sets agree, and empty where there is none', () => {
    const room = forkedRoom();
    const { state } = room.branches[0]!;
    expect(resolve(room.version, [state, state], room.graph)).toEqual(state);
    expect(resolve(room.version, [], room.graph)).toEqual(new Map());
  });
});

describe('two moderators who change the power levels at once', () => {
  const carol = people[2]!;

  /** Carol, who was promoted after she joined, changes them first. Nothing but her change cites her join. */
  function forkedRoom(): GrowingRoom {
    const room = new GrowingRoom(version('10'));
    const users = { [alice]: 100, [carol]: 100 };
    room.send(0, {
      type: 'm.room.member',
      sender: carol,
      stateKey: carol,
      content: { membership: 'join' },
      ts: 4,
    });
    room.send(0, { type: 'm.room.power_levels', sender: alice, stateKey: '', content: { users }, ts: 5 });
    room.fork(0);
    for (const [branch, sender, ts] of [
      [0, carol, 6],
      [1, alice, 7],
    ] as const) {
      const content = { users, ban: 50 + branch };
      room.send(branch, { type: 'm.room.power_levels', sender, stateKey: '', content, ts });
    }
    return room;
  }

  it('lets time decide, for her powerless join is an entry of both states and so in no difference', () => {
    const room = forkedRoom();
    const sets = room.branches.map(({ state }) => state);
    const winner = resolve(room.version, sets, room.graph).get(stateKeyOf('m.room.power_levels', ''));
    expect(room.events.get(winner!)?.sender).toBe(alice);
  });
});

describe('a very deep auth chain', () => {
  it.each(['2', '12'])('resolves without running out of stack in version %s', (id) => {
    const room = new GrowingRoom(version(id));
    for (let turn = 0; turn < 20_000; turn += 1) {
      // Each power levels event cites the one before.
      const users: JsonObject = room.version.privilegedCreators ? {} : { [alice]: 100 };
      const content = { users, ban: turn % 50 };
      room.send(0, {
        type: 'm.room.power_levels',
        sender: alice,
        stateKey: '',
        content,
        ts: turn + 9,
      });
    }
    room.fork(0);
    room.send(0, { type: 'm.room.topic', sender: alice, stateKey: '', content: { topic: 'x' }, ts: 30_000 });
    room.send(1, { type: 'm.room.name', sender: alice, stateKey: '', content: { name: 'x' }, ts: 30_001 });
    const resolved = resolve(
      room.version,
      room.branches.map(({ state }) => state),
      room.graph,
    );
    expect(resolved.has(stateKeyOf('m.room.topic', ''))).toBe(true);
    expect(resolved.has(stateKeyOf('m.room.name', ''))).toBe(true);
  });
});

describe('many conflicted keys', () => {
  /** How often events are looked at to resolve a fork with so many keys changed on both sides. */
  function looksAt(id: string, keys: number): number {
    const room = new GrowingRoom(version(id));
    room.fork(0);
    for (let index = 0; index < keys; index += 1) {
      for (const branch of [0, 1]) {
        const stateKey = `key ${index}`;
        room.send(branch, { type: 'org.example', sender: alice, stateKey, content: {}, ts: 10 + branch });
      }
    }
    let looks = 0;
    const graph: EventGraph = {
      ...room.graph,
      event: (eventId) => {
        looks += 1;
        return room.graph.event(eventId);
      },
    };
    const sets = room.branches.map(({ state }) => state);
    expect(resolve(room.version, sets, graph).size).toBe(keys + 4);
    return looks;
  }

  it.each(['1', '2', '12'])('cost in proportion to their number in version %s', (id) => {
    expect(looksAt(id, 2000)).toBeLessThan(2.2 * looksAt(id, 1000));
  });
});

describe('a state key', () => {
  it('keeps its two parts apart, whatever they hold', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (type, stateKey) => {
        expect(typeAndStateKeyOf(stateKeyOf(type, stateKey))).toEqual({ type, stateKey });
      }),
    );
    expect(stateKeyOf('a', '\0b')).not.toBe(stateKeyOf('a\0', 'b'));
  });
});
