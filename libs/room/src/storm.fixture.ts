import fc from 'fast-check';
import { referenceTo, serverNameOf, type EventId, type Pdu, type UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import type { Decision } from './accept-pdu.js';
import { authEventTypes } from './auth-rules/auth-event-types.js';
import { checkAuthEvents, checkAuthRules } from './auth-rules/check-auth.js';
import { depthOf } from './room.js';
import type { EventGraph, StateMap } from './state-resolution/event-graph.js';
import { resolve } from './state-resolution/resolve.js';
import { stateKeyOf, typeAndStateKeyOf, type StateKey } from './state-resolution/state-key.js';

/** Somebody's doing something, somewhere in the graph. Numbers choose among what there is. */
export interface StormStep {
  readonly action: (typeof actions)[number];
  readonly actor: number;
  readonly target: number;
  /** Where in the graph: over the newest state, over that of some earlier moment, or after one single event. */
  readonly when: { readonly at: 'now' | 'earlier' | 'start' | 'after-one'; readonly moment: number };
  /** Ms by which the clock of the actor's server is off. */
  readonly skew: number;
  readonly twist: 'none' | 'older-member' | 'older-levels' | 'no-levels' | 'extra' | 'shallow' | 'deep';
  /** A choice within the action. */
  readonly choice: number;
}

const actions = [
  'leave',
  'join',
  'invite',
  'knock',
  'kick',
  'ban',
  'message',
  'topic',
  'levels',
  'join-rule',
] as const;

const twists = ['older-member', 'older-levels', 'no-levels', 'extra', 'shallow', 'deep'] as const;

const whenInStorm = fc.oneof(
  { weight: 4, arbitrary: fc.record({ at: fc.constant('start' as const), moment: fc.nat(6) }) },
  { weight: 3, arbitrary: fc.record({ at: fc.constant('earlier' as const), moment: fc.nat(60) }) },
  { weight: 2, arbitrary: fc.record({ at: fc.constant('now' as const), moment: fc.constant(0) }) },
  { weight: 1, arbitrary: fc.record({ at: fc.constant('after-one' as const), moment: fc.nat(60) }) },
);

const choices = {
  actor: fc.nat(30),
  target: fc.nat(30),
  skew: fc.oneof(
    { weight: 5, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.integer({ min: -60, max: 60 }) },
    { weight: 1, arbitrary: fc.constantFrom(-1_000_000, 1_000_000) },
  ),
  twist: fc.oneof(
    { weight: 9, arbitrary: fc.constant('none' as const) },
    { weight: 1, arbitrary: fc.constantFrom(...twists) },
  ),
  choice: fc.nat(7),
};

/** A step by which a room grows before the storm: mostly one after the other. */
export const calmStep: fc.Arbitrary<StormStep> = fc.record({
  ...choices,
  action: fc.constantFrom('join', 'join', 'join', 'invite', 'invite', 'knock', 'message', 'topic', 'levels'),
  when: fc.constant({ at: 'now' as const, moment: 0 }),
  skew: fc.oneof(
    { weight: 20, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.constantFrom(-1_000_000, -5, 5, 40, 1_000_000) },
  ),
  twist: fc.constant('none' as const),
});

/** A step of a storm: leaves above all, and everything else a room sees meanwhile. */
export const stormStep: fc.Arbitrary<StormStep> = fc.record({
  ...choices,
  action: fc.oneof(
    { weight: 12, arbitrary: fc.constant('leave' as const) },
    { weight: 4, arbitrary: fc.constant('message' as const) },
    { weight: 6, arbitrary: fc.constantFrom(...actions) },
  ),
  when: whenInStorm,
});

/** A step of a storm that is leaves from older templates, nearly all of them in order; seldom anything else. */
export const leaveStep: fc.Arbitrary<StormStep> = fc.record({
  ...choices,
  action: fc.oneof(
    { weight: 24, arbitrary: fc.constant('leave' as const) },
    { weight: 3, arbitrary: fc.constant('message' as const) },
    { weight: 1, arbitrary: fc.constantFrom(...actions) },
  ),
  when: fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        at: fc.constant('start' as const),
        moment: fc.constantFrom(0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
      }),
    },
    { weight: 4, arbitrary: fc.record({ at: fc.constant('earlier' as const), moment: fc.nat(60) }) },
    { weight: 1, arbitrary: whenInStorm },
  ),
  skew: fc.oneof(
    { weight: 20, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.integer({ min: -60, max: 60 }) },
  ),
  twist: fc.oneof(
    { weight: 40, arbitrary: fc.constant('none' as const) },
    { weight: 1, arbitrary: fc.constantFrom(...twists) },
  ),
});

/** What somebody says; where it stands is told apart. */
export interface StormSaying {
  readonly type: string;
  readonly sender: UserId;
  readonly stateKey?: string;
  readonly content: JsonObject;
}

/** Somewhere in the graph: what a template taken there is made of. */
export interface Moment {
  readonly parents: readonly EventId[];
  readonly state: StateMap;
}

/** What became of one event, and what should have. */
export interface StormOutcome {
  readonly pdu: Pdu;
  readonly decision: Decision;
  readonly expected: 'accepted' | 'rejected' | 'soft-failed';
}

/**
 * A room together with a model of it that keeps the whole state after every event and resolves all of it by the plain
 * algorithm at every turn: it shares the auth rules and the resolution of whole states with the room, and nothing of
 * how the room keeps its state. Same steps, same room.
 */
export class Storm {
  readonly admin = '@admin:hub.example' as UserId;
  readonly people: readonly UserId[];
  readonly builder: RoomBuilder;
  /** The state after each event that has a place in the graph. */
  readonly stateAfter = new Map<EventId, StateMap>();
  readonly rejected = new Set<EventId>();
  extremities = new Set<EventId>();
  current: StateMap = new Map();
  readonly touched = new Set<StateKey>();
  readonly #events = new Map<EventId, Pdu>();
  readonly #moments: Moment[] = [];
  readonly #graph: EventGraph;
  #startedAt = 0;
  #now = 1_000_000;

  constructor(
    readonly version: string,
    options: { readonly joinRule?: string; readonly people?: number; readonly servers?: number } = {},
  ) {
    const servers = [
      'hub.example',
      ...Array.from({ length: options.servers ?? 3 }, (_, at) => `s${at}.example`),
    ];
    this.people = [
      this.admin,
      ...Array.from({ length: options.people ?? 8 }, (_, at) => {
        // The one of the hub is a second local user.
        const server = servers[at % servers.length]!;
        return `@u${at}:${server}` as UserId;
      }),
    ];
    let named = 0;
    this.builder = new RoomBuilder({
      version,
      servers: servers.map((name) => paperServer(name)),
      creator: this.admin,
      startTs: this.#now,
      joinRule: options.joinRule ?? 'public',
      // Scattered, so that order by ID is not order in time.
      nextName: () => `${(named++ * 37) % 101}-${named}`,
    });
    this.#graph = {
      event: (id) => this.#events.get(id),
      isRejected: (id) => this.rejected.has(id),
      create: () => this.#events.get(this.builder.room.createEventId),
    };
    for (const pdu of this.builder.pdus) this.#follow(pdu, 'accepted');
    this.#now += 1000;
  }

  /** From here on, `start` means the present. */
  begin(): void {
    this.#startedAt = this.#moments.length - 1;
  }

  /** Makes the event that a step describes and has it decided; undefined where there is nothing to do. */
  take(step: StormStep): StormOutcome | undefined {
    const moment = this.#momentOf(step.when);
    const saying = this.#sayingOf(step, moment);
    const pdu = this.#make(step, saying, moment);
    if (this.#events.has(pdu.eventId)) return undefined;
    return this.receive(pdu);
  }

  /** The newest moment. */
  now(): Moment {
    return this.#moments.at(-1)!;
  }

  /** After these events. */
  after(...parents: readonly EventId[]): Moment {
    const states = parents.map((id) => this.stateAfter.get(id)!);
    return { parents, state: resolve(this.builder.version, states, this.#graph) };
  }

  /** Says something at a moment of the graph, by a clock that is `skew` ms off. */
  say(saying: StormSaying, moment = this.now(), skew = 0): StormOutcome {
    return this.receive(this.#make({ skew, twist: 'none' }, saying, moment));
  }

  /** A user's own membership. */
  member(userId: UserId, membership: string, moment = this.now(), skew = 0): StormOutcome {
    const saying = { type: 'm.room.member', sender: userId, stateKey: userId, content: { membership } };
    return this.say(saying, moment, skew);
  }

  /** Has an event decided by the room and by the model. */
  receive(pdu: Pdu): StormOutcome {
    const expected = this.#verdictOn(pdu);
    const decision = this.builder.receive(pdu);
    this.#follow(pdu, expected);
    return { pdu, decision, expected };
  }

  /** Whether the room's current state is the model's in every key there ever was; the differences. */
  differences(): readonly string[] {
    const { room } = this.builder;
    const wrong: string[] = [];
    for (const key of this.touched) {
      const [is, shouldBe] = [room.entryOf(room.currentState(), key), this.current.get(key)];
      if (is !== shouldBe) wrong.push(`${key}: ${is} instead of ${shouldBe}`);
    }
    return wrong;
  }

  /** The differences of the state after one event. */
  differencesAfter(eventId: EventId): readonly string[] {
    const { room } = this.builder;
    const ref = room.known(eventId)?.stateAfter;
    if (ref === undefined) return [`${eventId} has no place`];
    const after = this.stateAfter.get(eventId)!;
    return [...this.touched]
      .filter((key) => room.entryOf(ref, key) !== after.get(key))
      .map((key) => `${key} after ${eventId}`);
  }

  event(eventId: EventId): Pdu {
    return this.#events.get(eventId)!;
  }

  membership(state: StateMap, userId: string): string {
    const member = state.get(stateKeyOf('m.room.member', userId));
    return member === undefined ? 'none' : String(this.event(member).content['membership']);
  }

  #momentOf({ at, moment }: StormStep['when']): Moment {
    const last = this.#moments.length - 1;
    switch (at) {
      case 'now':
        return this.#moments[last]!;
      case 'start':
        return this.#moments[Math.max(0, this.#startedAt - (moment % 3))]!;
      case 'earlier':
        return this.#moments[Math.max(0, last - (moment % (last - this.#startedAt + 1)))]!;
      case 'after-one': {
        const ids = [...this.stateAfter.keys()].slice(this.#startedAt);
        const eventId = ids[moment % ids.length]!;
        return { parents: [eventId], state: this.stateAfter.get(eventId)! };
      }
      default:
        return at satisfies never;
    }
  }

  #sayingOf({ action, actor, target, choice }: StormStep, { state }: Moment): StormSaying {
    const some = (people: readonly UserId[], at: number): UserId =>
      people.length === 0 ? this.people[at % this.people.length]! : people[at % people.length]!;
    const having = (...memberships: readonly string[]): readonly UserId[] =>
      this.people.filter((userId) => memberships.includes(this.membership(state, userId)));
    const inside = some(having('join'), actor);
    const member = (sender: UserId, userId: UserId, membership: string) => ({
      type: 'm.room.member',
      sender,
      stateKey: userId,
      content: { membership },
    });
    switch (action) {
      case 'leave': {
        const leaver = some(
          choice === 7
            ? this.people
            : having('join', 'invite', 'knock').filter((id) => id !== this.admin || choice > 4),
          actor,
        );
        return member(leaver, leaver, 'leave');
      }
      case 'join': {
        const joining = some(choice === 0 ? this.people : having('none', 'leave', 'invite'), actor);
        return member(joining, joining, 'join');
      }
      case 'knock': {
        const knocking = some(having('none', 'leave'), actor);
        return member(knocking, knocking, 'knock');
      }
      case 'invite':
        return member(inside, some(having('none', 'leave', 'knock'), target), 'invite');
      case 'kick':
        return member(
          choice === 0 ? inside : this.admin,
          some(having('join', 'invite', 'knock', 'ban'), target),
          'leave',
        );
      case 'ban':
        return member(choice === 0 ? inside : this.admin, some(this.people, target), 'ban');
      case 'message':
        return { type: 'm.room.message', sender: inside, content: { body: `${this.#now}` } };
      case 'topic':
        return {
          type: 'm.room.topic',
          sender: choice < 4 ? this.admin : inside,
          stateKey: '',
          content: { topic: `${this.#now}` },
        };
      case 'levels': {
        const levels = state.get(stateKeyOf('m.room.power_levels', ''));
        const content = levels === undefined ? {} : this.event(levels).content;
        const users = {
          ...(content['users'] as JsonObject | undefined),
          [some(this.people.slice(1), target)]: choice * 15,
        };
        const sender = choice < 5 ? this.admin : inside;
        return {
          type: 'm.room.power_levels',
          sender,
          stateKey: '',
          content: { ...content, users, topic_at: this.#now },
        };
      }
      case 'join-rule': {
        const rules = ['public', 'invite', 'knock', 'invite'];
        return {
          type: 'm.room.join_rules',
          sender: this.admin,
          stateKey: '',
          content: { join_rule: rules[choice % rules.length]! },
        };
      }
      default:
        return action satisfies never;
    }
  }

  #make({ skew, twist }: Pick<StormStep, 'skew' | 'twist'>, saying: StormSaying, moment: Moment): Pdu {
    const { version } = this.builder;
    const parents = moment.parents.slice(0, 20);
    const deepest = parents.map((id) => depthOf(this.event(id))).reduce((a, b) => (a > b ? a : b), 0n);
    const depth = { shallow: 1, deep: Number(deepest) + 50 }[twist as string] ?? Number(deepest) + 1;
    let cited = authEventTypes(saying, version).flatMap(({ type, stateKey }) => {
      const id = moment.state.get(stateKeyOf(type, stateKey));
      const isLevels = type === 'm.room.power_levels';
      if (twist === 'no-levels' && isLevels) return [];
      const wantsOlder =
        (twist === 'older-levels' && isLevels) ||
        (twist === 'older-member' && type === 'm.room.member' && stateKey === saying.sender);
      if (!wantsOlder) return id ?? [];
      const all = [...this.#events.values()].filter((pdu) => pdu.type === type && pdu.stateKey === stateKey);
      return (all.at(-2) ?? all.at(-1))?.eventId ?? [];
    });
    if (twist === 'extra') {
      const rules = moment.state.get(stateKeyOf('m.room.join_rules', ''));
      if (rules !== undefined) cited = [...new Set([...cited, rules])];
    }
    const referencesTo = (ids: readonly EventId[]) =>
      ids.map((id) => (version.referencesArePairs ? referenceTo(this.event(id)) : id));
    this.#now += 1;
    return this.builder.make({
      ...saying,
      ts: Math.max(1, this.#now + skew),
      changes: { prev_events: referencesTo(parents), auth_events: referencesTo(cited), depth },
    });
  }

  /** The checks on receipt of a PDU, on whole states. */
  #verdictOn(pdu: Pdu): StormOutcome['expected'] {
    const { version } = this.builder;
    const create = { create: this.#graph.create() };
    const cited = pdu.authEvents.map((id) => ({ pdu: this.event(id), rejected: this.rejected.has(id) }));
    const allowedIn = (find: (type: string, stateKey: string) => Pdu | undefined): boolean =>
      checkAuthRules(pdu, version, find, create).allowed;
    const allowedInState = (state: StateMap): boolean =>
      allowedIn((type, stateKey) => {
        const id = state.get(stateKeyOf(type, stateKey));
        return id === undefined ? undefined : this.event(id);
      });
    if (
      !checkAuthEvents(pdu, version, cited, create).allowed ||
      !allowedIn(
        (type, stateKey) => cited.find((one) => one.pdu.type === type && one.pdu.stateKey === stateKey)?.pdu,
      ) ||
      !allowedInState(this.#stateBefore(pdu))
    ) {
      return 'rejected';
    }
    return allowedInState(this.current) ? 'accepted' : 'soft-failed';
  }

  #stateBefore(pdu: Pdu): StateMap {
    return resolve(
      this.builder.version,
      pdu.prevEvents.map((id) => this.stateAfter.get(id)!),
      this.#graph,
    );
  }

  #follow(pdu: Pdu, verdict: StormOutcome['expected']): void {
    const before = this.#stateBefore(pdu);
    this.#events.set(pdu.eventId, pdu);
    const after = new Map(before);
    if (pdu.stateKey !== undefined && verdict !== 'rejected') {
      const key = stateKeyOf(pdu.type, pdu.stateKey);
      after.set(key, pdu.eventId);
      this.touched.add(key);
    }
    this.stateAfter.set(pdu.eventId, after);
    if (verdict === 'rejected') this.rejected.add(pdu.eventId);
    if (verdict !== 'accepted') return;
    for (const parent of pdu.prevEvents) this.extremities.delete(parent);
    this.extremities.add(pdu.eventId);
    this.current = resolve(
      this.builder.version,
      [...this.extremities].map((id) => this.stateAfter.get(id)!),
      this.#graph,
    );
    const byDepth = [...this.extremities].sort((a, b) =>
      Number(depthOf(this.event(b)) - depthOf(this.event(a))),
    );
    this.#moments.push({ parents: byDepth.slice(0, 20), state: this.current });
  }
}

/** The servers of the model's joined users, for what a room says of residents. */
export function residentsOf(storm: Storm): ReadonlyMap<string, number> {
  const residents = new Map<string, number>();
  for (const key of storm.current.keys()) {
    const { type, stateKey } = typeAndStateKeyOf(key);
    if (type !== 'm.room.member' || storm.membership(storm.current, stateKey) !== 'join') continue;
    const server = serverNameOf(stateKey as UserId);
    residents.set(server, (residents.get(server) ?? 0) + 1);
  }
  return residents;
}
