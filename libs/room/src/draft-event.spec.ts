import { describe, expect, it } from 'vitest';
import {
  isPduFault,
  parsePdu,
  referenceTo,
  signPdu,
  type EventId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import { JsonNumber, withKeys, type JsonObject } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { draftEvent, leaveTemplate } from './draft-event.js';
import { isRefusal, type Refusal } from './refusal.js';
import { evolve, initialRoom } from './room.js';

const alice = '@alice:hub.example';
const bob = '@bob:away.example' as UserId;
const ourName = 'hub.example' as ServerName;
const away = paperServer('away.example');
const servers = [paperServer(ourName), away];
const versions = [...roomVersionIds];
const now = 1_700_000_000_000;

function roomWith(version: string, membership: string): RoomBuilder {
  const built = new RoomBuilder({
    version,
    servers,
    creator: alice,
    joinRule: membership === 'knock' ? 'knock' : 'public',
  });
  if (membership === 'leave') built.member(bob, 'join');
  if (membership === 'join' || membership === 'knock' || membership === 'leave')
    built.member(bob, membership);
  else if (membership !== 'none') built.member(bob, membership, alice);
  return built;
}

function templateOf(built: RoomBuilder): JsonObject {
  const template = leaveTemplate(built.room, { userId: bob, ourName, now });
  if (isRefusal(template)) throw new Error(template.detail);
  return template;
}

describe.each(versions)('a leave template in a room of version %s', (version) => {
  const rules = roomVersion(version)!;
  const form = (built: RoomBuilder, ids: readonly (EventId | undefined)[]) =>
    ids
      .filter((id) => id !== undefined)
      .map((id) => (rules.referencesArePairs ? referenceTo(built.room.pdu(id)) : id));

  it('says who leaves which room, by our name and clock (ML-08)', () => {
    const built = roomWith(version, 'join');
    expect(templateOf(built)).toMatchObject({
      type: 'm.room.member',
      sender: bob,
      state_key: bob,
      room_id: built.roomId,
      content: { membership: 'leave' },
      origin: ourName,
      origin_server_ts: now,
    });
  });

  it('has the fields of the version and no more: unsigned, without hashes or an ID (ML-09, ML-10)', () => {
    expect(Object.keys(templateOf(roomWith(version, 'join'))).sort()).toEqual([
      'auth_events',
      'content',
      'depth',
      'origin',
      'origin_server_ts',
      'prev_events',
      'room_id',
      'sender',
      'state_key',
      'type',
    ]);
  });

  it('cites the forward extremities at one more than their depth (ML-12, EV-06)', () => {
    const built = roomWith(version, 'join');
    const last = built.pdus.at(-1)!;
    expect(templateOf(built)).toMatchObject({
      prev_events: form(built, [last.eventId]),
      depth: Number(last.depth) + 1,
    });
  });

  it('cites create until version 11, the levels and the member event, each once, and no join rules (ML-13)', () => {
    const built = roomWith(version, 'join');
    const current = built.room.currentState();
    expect(templateOf(built)['auth_events']).toEqual(
      form(built, [
        rules.privilegedCreators ? undefined : built.room.createEventId,
        built.room.entry(current, 'm.room.power_levels', ''),
        built.room.entry(current, 'm.room.member', bob),
      ]),
    );
  });

  it('is accepted once the leaver has signed it', () => {
    const built = roomWith(version, 'join');
    const id: JsonObject = rules.referencesArePairs ? { event_id: '$leave:away.example' } : {};
    const leave = parsePdu(signPdu(withKeys(templateOf(built), id), rules, away.name, away.key), rules);
    if (isPduFault(leave)) throw new Error(leave.detail);
    expect(built.receive(leave).refusal).toBeUndefined();
  });

  it('leaves nothing behind and comes out the same again (ML-14)', () => {
    const built = roomWith(version, 'join');
    const before = built.room.header();
    expect(templateOf(built)).toEqual(templateOf(built));
    expect(built.room.header()).toEqual(before);
  });

  it.each(['join', 'invite', ...(rules.knocking ? ['knock'] : [])])(
    'is given on %s (ML-05)',
    (membership) => {
      expect(
        isRefusal(leaveTemplate(roomWith(version, membership).room, { userId: bob, ourName, now })),
      ).toBe(false);
    },
  );

  it.each(['leave', 'ban', 'none'])('is refused on %s (ML-04, AU-20)', (membership) => {
    const refusal = leaveTemplate(roomWith(version, membership).room, { userId: bob, ourName, now });
    expect(refusal).toMatchObject({
      refused: 'not-authorised',
      rule: 'AU-20',
      state: 'current-state',
      // Where there is no member event, the membership counts as leave.
      detail: expect.stringContaining(membership === 'none' ? 'leave' : membership),
    });
    const { events = [] } = refusal as Refusal;
    expect(new Set(events).size).toBe(events.length);
  });
});

describe('a room that does not federate', () => {
  it.each(['1', '11', '12'])(
    'gives a user of another server no template in version %s (ML-18)',
    (version) => {
      const createContent = { 'm.federate': false };
      const { room } = new RoomBuilder({ version, servers, creator: alice, createContent });
      expect(leaveTemplate(room, { userId: bob, ourName, now })).toMatchObject({ rule: 'AU-03' });
      expect(isRefusal(leaveTemplate(room, { userId: alice as UserId, ourName, now }))).toBe(false);
    },
  );
});

describe('a room without power levels', () => {
  it('has a template that cites none (ML-13)', () => {
    const built = roomWith('11', 'join');
    const room = initialRoom();
    // The room has begun, has its create event, and its creator has joined.
    for (const domainEvent of built.domainEvents.slice(0, 3)) evolve(room, domainEvent);
    expect(leaveTemplate(room, { userId: alice as UserId, ourName, now })).toMatchObject({
      auth_events: [room.createEventId, room.entry(room.currentState(), 'm.room.member', alice)],
    });
  });
});

describe('a user who tried to knock on a room below version 7', () => {
  it.each(['1', '3', '6'])('gets no template in version %s (KN-04, AU-20)', (version) => {
    const built = roomWith(version, 'none');
    const knock = built.make({
      sender: bob,
      type: 'm.room.member',
      stateKey: bob,
      content: { membership: 'knock' },
    });
    expect(built.receive(knock).refusal).toBeDefined();
    expect(leaveTemplate(built.room, { userId: bob, ourName, now })).toMatchObject({ rule: 'AU-20' });
  });
});

describe('a room at the greatest depth of its version', () => {
  it.each([
    ['1', '9223372036854775807'],
    ['5', '9223372036854775807'],
    ['6', '9007199254740991'],
    ['12', '9007199254740991'],
  ])('has templates of that depth, to the last digit, in version %s (EV-06, RV-05)', (version, max) => {
    const built = roomWith(version, 'join');
    const depth = BigInt(max) > BigInt(Number.MAX_SAFE_INTEGER) ? new JsonNumber(max) : Number(max);
    built.say({ sender: alice, content: {}, changes: { depth } });
    expect(built.room.depth).toBe(BigInt(max));
    expect(templateOf(built)['depth']).toEqual(depth);
  });

  it('counts up to it without loss in version 1', () => {
    const built = roomWith('1', 'join');
    built.say({ sender: alice, content: {}, changes: { depth: new JsonNumber('9007199254740993') } });
    expect(templateOf(built)['depth']).toEqual(new JsonNumber('9007199254740994'));
  });
});

describe('a room with more than twenty forward extremities', () => {
  const forked = (branches: number): RoomBuilder => {
    const built = roomWith('11', 'join');
    const messages = Array.from({ length: branches }, (_, at) =>
      built.make({ sender: alice, content: { body: `${at}` } }),
    );
    for (const message of messages) expect(built.receive(message).refusal).toBeUndefined();
    return built;
  };

  it('cites twenty of them, the deepest among them (EV-05, ML-12)', () => {
    const built = forked(30);
    const [first] = built.room.forwardExtremities;
    const deep = built.make({ sender: alice, content: {}, changes: { prev_events: [first!.eventId] } });
    built.receive(
      built.make({ sender: alice, content: {}, changes: { prev_events: deep.prevEvents, depth: 40 } }),
    );
    const all = built.room.forwardExtremities.map(({ eventId }) => eventId);
    expect(all).toHaveLength(30);
    const template = templateOf(built);
    const cited = template['prev_events'] as readonly EventId[];
    expect(new Set(cited).size).toBe(20);
    expect(all).toEqual(expect.arrayContaining([...cited]));
    expect(cited).toContain(all.at(-1));
    expect(template['depth']).toBe(41);
  });

  it('has events that are drafted at the same time cite different ones, so that all are cited soon', () => {
    const built = forked(100);
    const cited = new Set<EventId>();
    for (let second = 0; second < 60; second++) {
      for (const eventId of built.make({ sender: alice, content: {}, ts: second }).prevEvents)
        cited.add(eventId);
    }
    expect(cited.size).toBe(100);
  });

  it('comes down to one by the events that follow', () => {
    const built = forked(30);
    built.say({ sender: alice, content: {} });
    expect(built.room.forwardExtremityCount).toBe(11);
    built.say({ sender: alice, content: {} });
    expect(built.room.forwardExtremityCount).toBe(1);
  });
});

describe('an event of our own', () => {
  const wish = {
    type: 'm.room.message',
    sender: alice as UserId,
    content: {},
    originServerTs: now,
    origin: ourName,
  };

  it.each(versions)('has an origin until version 10 alone (GX-01, version %s)', (version) => {
    const built = roomWith(version, 'join');
    expect(Object.hasOwn(draftEvent(built.room, wish), 'origin')).toBe(
      !roomVersion(version)!.redactsInContent,
    );
  });

  it('is no state event without a state key', () => {
    expect(Object.hasOwn(draftEvent(roomWith('11', 'join').room, wish), 'state_key')).toBe(false);
  });

  it('cites sender and target where they differ', () => {
    const built = roomWith('11', 'join');
    const { room } = built;
    const kick = draftEvent(room, {
      ...wish,
      type: 'm.room.member',
      stateKey: bob,
      content: { membership: 'leave' },
    });
    const at = room.currentState();
    expect(kick['auth_events']).toEqual([
      room.createEventId,
      room.entry(at, 'm.room.power_levels', ''),
      room.entry(at, 'm.room.member', alice),
      room.entry(at, 'm.room.member', bob),
    ]);
  });
});
