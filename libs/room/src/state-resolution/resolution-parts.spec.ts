import { describe, expect, it } from 'vitest';
import type { EventId, Pdu, RoomId, UserId } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import type { JsonObject } from '@exeunt/signing';
import type { EventGraph } from './event-graph.js';
import { iterativeAuthChecks } from './iterative-auth-checks.js';
import { mainlineOrder } from './mainline-ordering.js';
import { isPowerEvent } from './power-ordering.js';
import { stateKeyOf } from './state-key.js';

const alice = '@alice:a.example' as UserId;
const bob = '@bob:b.example' as UserId;
const version = roomVersion('11')!;

interface Given {
  readonly type: string;
  readonly sender?: UserId;
  readonly stateKey?: string;
  readonly content?: JsonObject;
  readonly ts?: number;
  readonly cites?: readonly string[];
}

function pdu(id: string, { type, sender = alice, stateKey, content = {}, ts = 0, cites = [] }: Given): Pdu {
  return {
    roomVersion: version,
    eventId: id as EventId,
    roomId: '!room:a.example' as RoomId,
    type,
    sender,
    ...(stateKey === undefined ? {} : { stateKey }),
    content,
    prevEvents: id === '$create' ? [] : ['$create' as EventId],
    authEvents: cites as readonly EventId[],
    depth: 1,
    originServerTs: ts,
    json: {},
  };
}

function graphOf(pdus: readonly Pdu[], rejected: readonly string[] = []): EventGraph {
  return {
    event: (id) => pdus.find(({ eventId }) => eventId === id),
    isRejected: (id) => rejected.includes(id),
    create: () => pdus.find(({ type }) => type === 'm.room.create'),
  };
}

describe('a power event', () => {
  it.each<[string, Given, boolean]>([
    ['power levels', { type: 'm.room.power_levels', stateKey: '' }, true],
    ['join rules', { type: 'm.room.join_rules', stateKey: '' }, true],
    ['a kick', { type: 'm.room.member', stateKey: bob, content: { membership: 'leave' } }, true],
    ['a ban', { type: 'm.room.member', stateKey: bob, content: { membership: 'ban' } }, true],
    [
      'a leave by one’s own hand',
      { type: 'm.room.member', stateKey: alice, content: { membership: 'leave' } },
      false,
    ],
    ['an invite', { type: 'm.room.member', stateKey: bob, content: { membership: 'invite' } }, false],
    ['a topic', { type: 'm.room.topic', stateKey: '' }, false],
    ['power levels that are no state', { type: 'm.room.power_levels' }, false],
  ])('counts %s as the spec does (SR-22)', (_, given, isOne) => {
    expect(isPowerEvent(pdu('$event', given))).toBe(isOne);
  });
});

describe('the mainline order', () => {
  const levels = (id: string, cites: readonly string[]): Pdu =>
    pdu(id, { type: 'm.room.power_levels', stateKey: '', cites });
  const topic = (id: string, ts: number, cites: readonly string[]): Pdu =>
    pdu(id, { type: 'm.room.topic', stateKey: '', ts, cites });
  const order = (powerLevels: string | undefined, pdus: readonly Pdu[]): readonly string[] =>
    mainlineOrder(
      pdus.filter(({ type }) => type === 'm.room.topic').map(({ eventId }) => eventId),
      powerLevels as EventId | undefined,
      graphOf(pdus),
    );

  it('puts what rests on earlier power levels first, and what rests on none before all (SR-25)', () => {
    const pdus = [
      levels('$levels1', []),
      levels('$levels2', ['$levels1']),
      levels('$levels3', ['$levels2']),
      // Off the mainline, but resting on it.
      levels('$aside', ['$levels1']),
      topic('$of3', 1, ['$levels3']),
      topic('$of2', 2, ['$levels2']),
      topic('$of-aside', 4, ['$aside']),
      topic('$of1', 3, ['$levels1']),
      topic('$of-none', 9, []),
    ];
    expect(order('$levels3', pdus)).toEqual(['$of-none', '$of1', '$of-aside', '$of2', '$of3']);
  });

  it('is by time, then by ID, where there are no power levels (SR-28)', () => {
    const pdus = [
      levels('$levels', []),
      topic('$b', 2, ['$levels']),
      topic('$c', 1, []),
      topic('$a', 2, []),
      topic('$d', 0, ['$levels']),
    ];
    expect(order(undefined, pdus)).toEqual(['$d', '$c', '$a', '$b']);
  });
});

describe('an iterative auth check', () => {
  const create = pdu('$create', { type: 'm.room.create', stateKey: '' });
  const joined = pdu('$joined', { type: 'm.room.member', stateKey: alice, content: { membership: 'join' } });
  const levels = (id: string, users: JsonObject): Pdu =>
    pdu(id, { type: 'm.room.power_levels', stateKey: '', content: { users } });
  const topic = pdu('$topic', {
    type: 'm.room.topic',
    stateKey: '',
    cites: ['$create', '$joined', '$levels'],
  });
  const cited = levels('$levels', { [alice]: 50 });

  function isApplied(inState: readonly Pdu[], rejected: readonly string[] = []): boolean {
    const state = new Map(inState.map((one) => [stateKeyOf(one.type, one.stateKey!), one.eventId]));
    const graph = graphOf([create, joined, cited, topic, ...inState], rejected);
    iterativeAuthChecks(version, [topic.eventId], state, graph);
    return state.get(stateKeyOf('m.room.topic', '')) === topic.eventId;
  }

  it('takes what the state lacks from the event’s own auth events (SR-27)', () => {
    expect(isApplied([])).toBe(true);
  });

  it('goes by the state where that has the entry (SR-27)', () => {
    expect(isApplied([levels('$now', { [alice]: 0 })])).toBe(false);
  });

  it('takes no auth event that was rejected (SR-27)', () => {
    expect(isApplied([], ['$joined'])).toBe(false);
    expect(isApplied([joined], ['$joined'])).toBe(true);
  });

  it('passes over what is refused, and leaves the state as it was (SR-26)', () => {
    const left = pdu('$left', { type: 'm.room.member', stateKey: alice, content: { membership: 'leave' } });
    expect(isApplied([left])).toBe(false);
  });
});
