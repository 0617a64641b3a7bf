import { describe, expect, it } from 'vitest';
import { roomIdOfCreateEventId, type EventId, type Pdu, type RoomId, type UserId } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import type { JsonObject } from '@exeunt/signing';
import { authEventTypes } from './auth-event-types.js';
import { checkAuthEvents, checkAuthRules, type AuthVerdict } from './check-auth.js';
import { levelKeys, PowerLevels } from './power-levels.js';

/** What the vectors leave out of the auth rules: each case fails when its rule is taken away. */

const alice = '@alice:a.example';
const bob = '@bob:b.example';
const createId = `$${'c'.repeat(43)}` as EventId;

interface Given {
  readonly type: string;
  readonly sender?: string;
  readonly stateKey?: string;
  readonly content?: JsonObject;
}

function pdu(version: string, { type, sender = alice, stateKey, content = {} }: Given): Pdu {
  const roomVersionOf = roomVersion(version)!;
  return {
    roomVersion: roomVersionOf,
    eventId: `$${type}:a.example` as EventId,
    roomId:
      roomVersionOf.roomIdFormat === 'domain'
        ? ('!room:a.example' as RoomId)
        : roomIdOfCreateEventId(createId),
    type,
    sender: sender as UserId,
    ...(stateKey === undefined ? {} : { stateKey }),
    content,
    prevEvents: ['$before:a.example' as EventId],
    authEvents: [],
    depth: 5,
    originServerTs: 0,
    json: {},
  };
}

function createOf(version: string, content: JsonObject = { creator: alice }): Pdu {
  const create = pdu(version, { type: 'm.room.create', stateKey: '', content });
  return { ...create, eventId: createId, prevEvents: [] };
}

function member(version: string, user: string, membership: string): Pdu {
  return pdu(version, { type: 'm.room.member', sender: user, stateKey: user, content: { membership } });
}

/** What the rules say where alice is joined, and the power levels are these. */
function judge(version: string, event: Given, powerLevels?: JsonObject): AuthVerdict {
  const state = [
    member(version, alice, 'join'),
    ...(powerLevels === undefined
      ? []
      : [pdu(version, { type: 'm.room.power_levels', stateKey: '', content: powerLevels })]),
  ];
  return checkAuthRules(
    pdu(version, event),
    roomVersion(version)!,
    (type, stateKey) => state.find((entry) => entry.type === type && entry.stateKey === stateKey),
    { create: createOf(version) },
  );
}

describe('a create event', () => {
  it.each(roomVersionIds)('names no version that nobody knows, in version %s (AU-01)', (version) => {
    const rules = roomVersion(version)!;
    const verdictOn = (content: JsonObject): AuthVerdict =>
      checkAuthRules(createOf(version, { creator: alice, ...content }), rules, () => undefined, {
        create: undefined,
      });
    expect(verdictOn({ room_version: version })).toEqual({ allowed: true });
    expect(verdictOn({})).toEqual({ allowed: true });
    for (const unknown of ['13', 'org.example.unknown', '', 1, null]) {
      expect(verdictOn({ room_version: unknown })).toMatchObject({ rule: 'AU-01' });
    }
  });
});

describe('aliases', () => {
  const aliases = (stateKey?: string, sender = alice): Given => ({
    type: 'm.room.aliases',
    sender,
    ...(stateKey === undefined ? {} : { stateKey }),
  });

  it.each(['1', '2', '3', '4', '5'])('are for one’s own server alone, in version %s (AU-04)', (version) => {
    expect(judge(version, aliases('a.example'))).toEqual({ allowed: true });
    // Nothing else counts: neither membership nor power.
    expect(judge(version, aliases('b.example', bob), { state_default: 100 })).toEqual({ allowed: true });
    expect(judge(version, aliases('b.example'))).toMatchObject({ rule: 'AU-04' });
    expect(judge(version, aliases())).toMatchObject({ rule: 'AU-04' });
  });

  it.each(['6', '9', '12'])('are an event like any other in version %s (AU-04, AU-30)', (version) => {
    const levels = { users: version === '12' ? {} : { [alice]: 50 } };
    expect(judge(version, aliases('b.example'), levels)).toEqual({ allowed: true });
    expect(judge(version, aliases('b.example', bob), levels)).toMatchObject({ rule: 'AU-30' });
  });
});

describe('a third-party invite event', () => {
  it.each(['1', '6', '11'])(
    'takes the power to invite, no more and no less, in version %s (AU-30)',
    (version) => {
      const event: Given = { type: 'm.room.third_party_invite', stateKey: 'token' };
      // Above it all for state events, and yet enough to invite.
      const levels = { users: { [alice]: 10 }, invite: 10, state_default: 100 };
      expect(judge(version, event, levels)).toEqual({ allowed: true });
      expect(judge(version, event, { ...levels, invite: 11, state_default: 0 })).toMatchObject({
        rule: 'AU-30',
      });
    },
  );
});

describe('a membership', () => {
  it.each(['1', '6', '7', '12'])('that nobody knows is refused in version %s (AU-25)', (version) => {
    const event: Given = { type: 'm.room.member', stateKey: alice, content: { membership: 'away' } };
    expect(judge(version, event)).toMatchObject({ rule: 'AU-25' });
  });

  it.each(roomVersionIds)(
    'without a membership or a state_key is refused in version %s (AU-05)',
    (version) => {
      expect(judge(version, { type: 'm.room.member', stateKey: alice })).toMatchObject({ rule: 'AU-05' });
      expect(judge(version, { type: 'm.room.member', content: { membership: 'leave' } })).toMatchObject({
        rule: 'AU-05',
      });
    },
  );
});

describe('the level that an action takes', () => {
  const defaults = {
    ban: 50n,
    kick: 50n,
    redact: 50n,
    invite: 0n,
    state_default: 50n,
    events_default: 0n,
    users_default: 0n,
  };

  it.each(roomVersionIds)('has a default, with and without an event, in version %s (PL-01)', (version) => {
    const event = pdu(version, { type: 'm.room.power_levels', stateKey: '', content: {} });
    for (const given of [event, undefined]) {
      const levels = new PowerLevels(roomVersion(version)!, { event: given, create: createOf(version) });
      expect(Object.fromEntries(levelKeys.map((key) => [key, levels.level(key)]))).toEqual(defaults);
      expect(levels.powerOf(bob)).toBe(0n);
      expect(levels.requiredFor('m.room.name', true)).toBe(50n);
      expect(levels.requiredFor('m.room.message', false)).toBe(0n);
    }
  });
});

describe('the auth events of a leave', () => {
  const leaveIn = (version: string): Pdu => member(version, bob, 'leave');
  const cite = (...cited: readonly Pdu[]) => cited.map((one) => ({ pdu: one, rejected: false }));

  it.each(roomVersionIds)('are selected without the join rules, in version %s (AE-07, TOP-02)', (version) => {
    expect(
      authEventTypes(leaveIn(version), roomVersion(version)!).map(({ type, stateKey }) => [type, stateKey]),
    ).toEqual([
      ...(version === '12' ? [] : [['m.room.create', '']]),
      ['m.room.power_levels', ''],
      ['m.room.member', bob],
    ]);
  });

  it.each(roomVersionIds.filter((id) => id !== '12'))(
    'have the create event in version %s (AE-04)',
    (version) => {
      const rules = roomVersion(version)!;
      const create = createOf(version);
      const own = member(version, bob, 'join');
      expect(checkAuthEvents(leaveIn(version), rules, cite(create, own), { create })).toEqual({
        allowed: true,
      });
      expect(checkAuthEvents(leaveIn(version), rules, cite(own), { create })).toMatchObject({
        rule: 'AE-04',
      });
    },
  );

  it('have no create event in version 12, for the room ID names it (AE-04, AE-06)', () => {
    const rules = roomVersion('12')!;
    const create = createOf('12', {});
    const own = member('12', bob, 'join');
    expect(checkAuthEvents(leaveIn('12'), rules, cite(own), { create })).toEqual({ allowed: true });
    expect(checkAuthEvents(leaveIn('12'), rules, cite(create, own), { create })).toMatchObject({
      rule: 'AE-02',
    });
    for (const other of [undefined, { ...create, eventId: `$${'d'.repeat(43)}` as EventId }]) {
      expect(checkAuthEvents(leaveIn('12'), rules, cite(own), { create: other })).toMatchObject({
        rule: 'AE-06',
      });
    }
  });

  it('may be older than the state: type and key count here, not which of them is current (AE-08)', () => {
    const rules = roomVersion('11')!;
    const create = createOf('11');
    const invite = { ...member('11', bob, 'invite'), eventId: '$older' as EventId };
    const levels = pdu('11', { type: 'm.room.power_levels', stateKey: '' });
    expect(checkAuthEvents(leaveIn('11'), rules, cite(create, levels, invite), { create })).toEqual({
      allowed: true,
    });
  });
});
