import { describe, expect, it } from 'vitest';
import { roomVersionIds } from '@exeunt/room-version';
import { referenceTo } from '@exeunt/pdu';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import type { PduAccepted } from './domain-events.js';
import { membershipsThatReturn } from './what-follows.js';

const alice = '@alice:hub.example';
const bob = '@bob:away.example';
const ben = '@ben:away.example';
const carol = '@carol:third.example';
const servers = ['hub.example', 'away.example', 'third.example'].map((name) => paperServer(name));

const roomOf = (version: string) => new RoomBuilder({ version, servers, creator: alice });
const lastOf = ({ domainEvents }: RoomBuilder) => domainEvents.at(-1) as PduAccepted;

describe('the last member of a server who goes', () => {
  it.each(roomVersionIds)(
    'takes the server out of the room, and nobody before does, in version %s',
    (version) => {
      const room = roomOf(version);
      for (const user of [bob, ben, carol]) room.member(user, 'join');
      room.member(bob, 'leave');
      expect(lastOf(room)).not.toHaveProperty('serversLeft');
      room.member(ben, 'ban', alice);
      expect(lastOf(room).serversLeft).toEqual(['away.example']);
      room.member(carol, 'leave');
      expect(lastOf(room).serversLeft).toEqual(['third.example']);
    },
  );

  it('is no invited one, and a member who says something new is none', () => {
    const room = roomOf('11');
    room.member(bob, 'invite', alice);
    room.member(bob, 'leave');
    expect(lastOf(room)).not.toHaveProperty('serversLeft');
    room.member(carol, 'join');
    room.member(carol, 'join', carol, { content: { membership: 'join', displayname: 'Carol' } });
    expect(lastOf(room)).not.toHaveProperty('serversLeft');
  });

  it('is found beside leaves that do not know of each other', () => {
    const room = roomOf('11');
    for (const user of [bob, ben]) room.member(user, 'join');
    const leaves = [bob, ben].map((user) =>
      room.make({ sender: user, type: 'm.room.member', stateKey: user, content: { membership: 'leave' } }),
    );
    const left = leaves.map((leave) => {
      room.receive(leave);
      return lastOf(room).serversLeft;
    });
    expect(left).toEqual([undefined, ['away.example']]);
  });
});

describe('a membership that state resolution gives back', () => {
  /** The leave claims to be older than the join before it, so that it loses once a fork makes the two compete. */
  function reset(version: string) {
    const room = roomOf(version);
    room.member(bob, 'join');
    const fork = room.room.forwardExtremities.map(({ eventId }) => eventId);
    room.member(bob, 'leave', bob, { ts: 1 });
    expect(room.room.membership(room.room.currentState(), bob)).toBe('leave');
    const cited = room.version.referencesArePairs ? fork.map((id) => referenceTo(room.room.pdu(id))) : fork;
    const beside = room.make({ sender: alice, content: {}, ts: Date.now(), changes: { prev_events: cited } });
    expect(room.receive(beside).refusal).toBeUndefined();
    return room;
  }

  // Version 1 goes by depth and not by time.
  it.each(roomVersionIds.filter((version) => version !== '1'))('is told, in version %s', (version) => {
    const room = reset(version);
    expect(room.room.membership(room.room.currentState(), bob)).toBe('join');
    expect(membershipsThatReturn(lastOf(room))).toMatchObject([
      { stateKey: bob, membership: { from: 'leave', to: 'join' } },
    ]);
  });

  it('is none where the user says so, nor where one goes', () => {
    const room = reset('1');
    expect(membershipsThatReturn(lastOf(room))).toEqual([]);
    for (const membership of ['join', 'leave', 'join']) {
      room.member(carol, membership);
      expect(membershipsThatReturn(lastOf(room))).toEqual([]);
    }
  });
});
