import { describe, expect, it } from 'vitest';
import type { Pdu, RoomId, ServerName, UserId } from '@exeunt/pdu';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { admitServer, checkIsOwnMembership, checkIsUserOf, checkKnowsVersion } from './accept-leave.js';
import { initialRoom } from './room.js';

const alice = '@alice:hub.example';
const bob = '@bob:away.example';
const hub = 'hub.example' as ServerName;
const away = 'away.example' as ServerName;
const asked = { origin: away, ourName: hub };

function room(): RoomBuilder {
  const servers = [hub, away].map((name) => paperServer(name));
  const built = new RoomBuilder({ version: '11', servers, creator: alice });
  built.member(bob, 'join');
  return built;
}

function setAcl(built: RoomBuilder, content: Parameters<RoomBuilder['say']>[0]['content']) {
  return built.say({ sender: alice, type: 'm.room.server_acl', stateKey: '', content });
}

describe('a server that asks about a room', () => {
  it('is let in where we are resident and nothing denies it', () => {
    expect(admitServer(room().room, asked)).toBeUndefined();
  });

  it('is let in though none of its users is in the room, for it may have been invited', () => {
    expect(admitServer(room().room, { ...asked, origin: 'elsewhere.example' as ServerName })).toBeUndefined();
  });

  it('is told that we are not resident where the room is unknown (ML-16, AC-10)', () => {
    expect(admitServer(initialRoom(), asked)).toMatchObject({ refused: 'not-resident', rule: 'ML-16' });
  });

  it('is told the same where our last user has left (ML-16)', () => {
    const built = room();
    built.member(alice, 'leave');
    expect(admitServer(built.room, asked)).toMatchObject({ refused: 'not-resident' });
  });

  it('is told so before its being denied shows', () => {
    const built = room();
    setAcl(built, { deny: ['*'] });
    built.member(alice, 'leave');
    expect(admitServer(built.room, asked)).toMatchObject({ refused: 'not-resident' });
  });

  it.each([
    ['is in deny', { allow: ['*'], deny: ['AWAY.example'] }],
    ['is not in allow', { allow: ['hub.example'] }],
    ['meets an empty list', {}],
  ])('is denied where it %s (AC-05, ML-03, SL-05)', (_name, content) => {
    const built = room();
    const acl = setAcl(built, content);
    expect(admitServer(built.room, asked)).toEqual({
      refused: 'server-denied',
      rule: 'AC-05',
      detail: expect.stringContaining(away),
      events: [acl.eventId],
      state: 'current-state',
    });
  });

  it('is judged by the current ACL alone (AC-01)', () => {
    const built = room();
    setAcl(built, { allow: ['hub.example'] });
    setAcl(built, { allow: ['*'] });
    expect(admitServer(built.room, asked)).toBeUndefined();
  });
});

describe.each([
  { membership: 'leave', endpoint: 'send_leave', rule: 'SL-03', pathRule: 'SL-07' },
  { membership: 'knock', endpoint: 'send_knock', rule: 'KN-02', pathRule: 'KN-02' },
] as const)('a PDU that is put to $endpoint', ({ membership, rule, pathRule }) => {
  const own = { sender: bob, type: 'm.room.member', stateKey: bob, content: { membership } };
  const to = (built: RoomBuilder, pdu: Pdu) => ({
    membership,
    roomId: built.roomId,
    eventId: pdu.eventId as string,
    origin: away,
  });

  it('is taken where it is that of the origin’s own user, for this room and ID', () => {
    const built = room();
    const pdu = built.make(own);
    expect(checkIsOwnMembership(pdu, to(built, pdu))).toBeUndefined();
  });

  it.each([
    ['another type', { type: 'm.room.message' }, 'm.room.message'],
    ['another membership', { content: { membership: 'join' } }, 'membership'],
    [
      'the membership of the other handshake',
      { content: { membership: membership === 'leave' ? 'knock' : 'leave' } },
      'membership',
    ],
    ['no membership', { content: {} }, 'membership'],
    ['a state_key that is not the sender', { stateKey: alice }, 'state_key'],
    ['a sender of another server', { sender: alice, stateKey: alice }, alice],
  ])('is refused with %s (SL-03, SL-10, KN-02)', (_name, change, detail) => {
    const built = room();
    const pdu = built.make({ ...own, ...change });
    expect(checkIsOwnMembership(pdu, to(built, pdu))).toMatchObject({
      refused: 'wrong-parameter',
      rule,
      detail: expect.stringContaining(detail),
    });
  });

  it('is refused without a state_key (SL-03, KN-02)', () => {
    const built = room();
    const pdu = built.make({ sender: bob, type: 'm.room.member', content: { membership } });
    expect(checkIsOwnMembership(pdu, to(built, pdu))).toMatchObject({
      rule,
      detail: expect.stringContaining('state_key'),
    });
  });

  it('is refused under another ID or for another room than the path names (SL-07, KN-02)', () => {
    const built = room();
    const pdu = built.make(own);
    const request = to(built, pdu);
    expect(checkIsOwnMembership(pdu, { ...request, eventId: '$other' })).toMatchObject({ rule: pathRule });
    expect(checkIsOwnMembership(pdu, { ...request, roomId: '!other:hub.example' as RoomId })).toMatchObject({
      refused: 'wrong-parameter',
      rule: pathRule,
    });
  });
});

describe('a server that names the room versions it knows', () => {
  it.each([
    [['11'], true],
    [['1', '7', '11'], true],
    [[], false],
    [['1'], false],
    [['11.0', '011', ' 11'], false],
  ])('%j: can take part in a room of version 11: %s (KN-01)', (versions, can) => {
    const refusal = checkKnowsVersion(room().room, versions);
    expect(refusal === undefined).toBe(can);
    if (!can) {
      expect(refusal).toMatchObject({
        refused: 'incompatible-room-version',
        rule: 'KN-01',
        roomVersion: '11',
      });
    }
  });
});

describe('a user who is asked about', () => {
  it.each([
    ['@bob:away.example', undefined],
    ['@:away.example', undefined],
    ['@bob:away.example:8448', 'ML-02'],
    ['@bob:AWAY.example', 'ML-02'],
    ['@alice:hub.example', 'ML-02'],
  ])('%s may be by its own server alone (ML-02, ID-02)', (userId, rule) => {
    expect(checkIsUserOf(userId as UserId, away)?.rule).toBe(rule);
  });
});
