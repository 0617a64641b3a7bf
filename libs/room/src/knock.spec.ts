import { describe, expect, it } from 'vitest';
import { isPduFault, parsePdu, signPdu, type Pdu, type ServerName, type UserId } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import type { JsonObject } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { leaveTemplate, memberTemplate } from './draft-event.js';
import { isRefusal } from './refusal.js';
import { strippedState } from './stripped-state.js';

const alice = '@alice:hub.example';
const olga = '@olga:third.example';
const bob = '@bob:away.example' as UserId;
const ourName = 'hub.example' as ServerName;
const away = paperServer('away.example');
const servers = [paperServer(ourName), away, paperServer('third.example')];
const now = 1_700_000_000_000;
const asked = { userId: bob, ourName, now };
const versions = [...roomVersionIds];
const knocking = versions.filter((id) => roomVersion(id)!.knocking);
const joinRules = ['public', 'invite', 'knock', 'private', 'restricted', 'knock_restricted'] as const;

/** alice of ours and olga of another server are joined; bob is what `membership` says. */
function roomWith(version: string, joinRule: string, membership = 'none'): RoomBuilder {
  const built = new RoomBuilder({ version, servers, creator: alice });
  built.member(olga, 'join');
  if (membership === 'join' || membership === 'leave') built.member(bob, 'join');
  if (membership === 'leave') built.member(bob, 'leave');
  if (membership === 'invite' || membership === 'ban') built.member(bob, membership, alice);
  built.say({ sender: alice, type: 'm.room.join_rules', stateKey: '', content: { join_rule: joinRule } });
  if (membership === 'knock') built.member(bob, 'knock');
  return built;
}

function templateOf(built: RoomBuilder): JsonObject {
  const template = memberTemplate(built.room, 'knock', asked);
  if (isRefusal(template)) throw new Error(template.detail);
  return template;
}

function signed(built: RoomBuilder, template: JsonObject): Pdu {
  const pdu = parsePdu(signPdu(template, built.version, away.name, away.key), built.version);
  if (isPduFault(pdu)) throw new Error(pdu.detail);
  return pdu;
}

/** Since which room version a join rule lets anybody knock; never where it is absent. */
const since: Readonly<Record<string, number>> = { knock: 7, knock_restricted: 10 };

describe.each(versions)('a knock on a room of version %s', (version) => {
  it.each(joinRules)(
    'with the join rule %s: a template is given where the version has it (AU-24)',
    (rule) => {
      const built = roomWith(version, rule);
      const template = memberTemplate(built.room, 'knock', asked);
      const mayKnock = Number(version) >= (since[rule] ?? Infinity);
      expect(isRefusal(template)).toBe(!mayKnock);
      if (!mayKnock) expect(template).toMatchObject({ refused: 'not-authorised', rule: 'AU-24' });
    },
  );

  it.each(joinRules)('with the join rule %s: the knock itself is judged alike (AU-24, KN-02)', (rule) => {
    const built = roomWith(version, rule);
    const knock = built.make({
      sender: bob,
      type: 'm.room.member',
      stateKey: bob,
      content: { membership: 'knock' },
    });
    expect(built.receive(knock).refusal?.rule).toBe(
      Number(version) >= (since[rule] ?? Infinity) ? undefined : 'AU-24',
    );
  });
});

describe.each(knocking)('in a room of version %s that takes knocks', (version) => {
  it.each([
    ['none', true],
    ['leave', true],
    ['knock', true],
    ['invite', false],
    ['join', false],
    ['ban', false],
  ])('one whose membership is %s gets a template: %s (AU-24)', (membership, given) => {
    const template = memberTemplate(roomWith(version, 'knock', membership).room, 'knock', asked);
    if (given) expect(template).toMatchObject({ content: { membership: 'knock' }, sender: bob });
    else expect(template).toMatchObject({ refused: 'not-authorised', rule: 'AU-24' });
  });

  it('the template cites the join rules, which a leave never does (AE-07, TOP-02)', () => {
    const built = roomWith(version, 'knock');
    const rules = built.room.entry(built.room.currentState(), 'm.room.join_rules', '');
    expect(templateOf(built)['auth_events']).toContain(rules);
  });

  it('the signed knock is accepted, and the servers in the room are told (KN-02, BR-02)', () => {
    const built = roomWith(version, 'knock');
    const knock = signed(built, templateOf(built));
    const decision = built.receive(knock);
    expect(decision.refusal).toBeUndefined();
    expect(decision.broadcasts).toMatchObject([{ eventId: knock.eventId, destinations: ['third.example'] }]);
    expect(built.room.membership(built.room.currentState(), bob)).toBe('knock');
  });

  it('the same knock again is the same yes, and nobody is told twice (SL-15)', () => {
    const built = roomWith(version, 'knock');
    const knock = signed(built, templateOf(built));
    built.receive(knock);
    expect(built.receive(knock)).toEqual({ domainEvents: [], broadcasts: [] });
  });

  it('a knock of before the ban is soft-failed after it (PD-06)', () => {
    const built = roomWith(version, 'knock');
    const knock = signed(built, templateOf(built));
    built.member(bob, 'ban', alice);
    expect(built.receive(knock)).toMatchObject({
      broadcasts: [],
      refusal: { refused: 'soft-failed', rule: 'AU-24' },
    });
  });

  it('it is taken back by a leave of one’s own (KN-03)', () => {
    const built = roomWith(version, 'knock', 'knock');
    const template = leaveTemplate(built.room, asked);
    if (isRefusal(template)) throw new Error(template.detail);
    expect(built.receive(signed(built, template)).broadcasts).toMatchObject([
      { destinations: ['third.example'] },
    ]);
    expect(built.room.membership(built.room.currentState(), bob)).toBe('leave');
  });

  it.each(['leave', 'ban'])(
    'who is denied by a %s has a server that is told (BR-06, AU-21)',
    (membership) => {
      const built = roomWith(version, 'knock', 'knock');
      const denial = built.make({
        sender: alice,
        type: 'm.room.member',
        stateKey: bob,
        content: { membership },
      });
      expect(built.receive(denial).broadcasts).toMatchObject([
        { destinations: ['away.example', 'third.example'] },
      ]);
    },
  );

  it('it is answered by an invite (IN-13)', () => {
    const built = roomWith(version, 'knock', 'knock');
    built.member(bob, 'invite', alice);
    expect(built.room.membership(built.room.currentState(), bob)).toBe('invite');
  });

  it('whoever knocks is shown which room it is, and nobody’s membership (KN-02)', () => {
    const built = roomWith(version, 'knock');
    for (const [type, content] of [
      ['m.room.name', { name: 'Hall' }],
      ['m.room.topic', { topic: 'doors' }],
      ['m.room.history_visibility', { history_visibility: 'shared' }],
    ] as const) {
      built.say({ sender: alice, type, stateKey: '', content });
    }
    const before = built.room.currentState();
    const types = (ref = built.room.currentState()) => strippedState(built.room, ref).map(({ type }) => type);
    expect(types()).toEqual(['m.room.create', 'm.room.join_rules', 'm.room.name', 'm.room.topic']);
    built.say({ sender: alice, type: 'm.room.encryption', stateKey: '', content: { algorithm: 'x' } });
    expect(types(before)).not.toContain('m.room.encryption');
    expect(strippedState(built.room, built.room.currentState(), [alice as UserId]).at(-1)).toMatchObject({
      type: 'm.room.member',
      state_key: alice,
    });
  });
});

it('a room that does not federate takes no knocks of other servers’ users (AU-03, ML-18)', () => {
  const createContent = { 'm.federate': false };
  const { room } = new RoomBuilder({
    version: '11',
    servers,
    creator: alice,
    joinRule: 'knock',
    createContent,
  });
  expect(memberTemplate(room, 'knock', asked)).toMatchObject({ rule: 'AU-03' });
});
