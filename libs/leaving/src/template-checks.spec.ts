import { describe, expect, it } from 'vitest';
import { isPduFault, parsePdu, type RoomId, type ServerName, type UserId } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import { JsonNumber, withKeys, withoutKeys, type JsonObject, type JsonValue } from '@exeunt/signing';
import { buildLeave, readTemplate, type OwnLeave } from './template-checks.js';

const userId = '@bob:ours.example' as UserId;
const ourName = 'ours.example' as ServerName;
const hash = 'A'.repeat(43);
const ref = (version: string, name: string): JsonValue => {
  const rules = roomVersion(version)!;
  return rules.referencesArePairs
    ? [`$${name}:x.example`, { sha256: hash }]
    : `$${name}${hash.slice(name.length)}`;
};
const roomIdOf = (version: string) =>
  (roomVersion(version)!.roomIdFormat === 'domain' ? '!r:x.example' : `!${hash}`) as RoomId;
const template = (version: string, changes: JsonObject = {}): JsonObject => ({
  room_version: version,
  event: {
    type: 'm.room.member',
    room_id: roomIdOf(version),
    sender: userId,
    state_key: userId,
    content: { membership: 'leave' },
    origin: 'x.example',
    origin_server_ts: 1,
    depth: 7,
    prev_events: [ref(version, 'p')],
    auth_events: [ref(version, 'a'), ref(version, 'b')],
    ...changes,
  },
});
const asked = (version: string) => ({ roomId: roomIdOf(version), userId, roomVersions: [version] });
const own = (version: string, more: Partial<OwnLeave> = {}): OwnLeave => ({
  roomId: roomIdOf(version),
  userId,
  reason: undefined,
  ourName,
  signingKey: { keyId: 'ed25519:t', seed: new Uint8Array(32).fill(7) },
  now: 1_700_000_000_000,
  opaqueId: 'fresh',
  ...more,
});

describe.each(roomVersionIds)('a good template of version %s', (version) => {
  it('gives a leave that parses, with nothing of the template but its place', () => {
    const place = readTemplate(template(version), asked(version));
    if ('rule' in place) throw new Error(place.detail);
    const pdu = buildLeave(place, own(version, { reason: 'enough' }));
    if ('rule' in pdu) throw new Error(pdu.detail);
    expect(isPduFault(parsePdu(pdu.json, roomVersion(version)!))).toBe(false);
    expect(pdu).toMatchObject({ sender: userId, stateKey: userId, roomId: roomIdOf(version) });
    expect(pdu.content).toEqual({ membership: 'leave', reason: 'enough' });
    expect(pdu.originServerTs).toBe(1_700_000_000_000);
    expect(pdu.json['origin']).toBe(roomVersion(version)!.redactsInContent ? undefined : ourName);
    expect(Object.keys(pdu.json['signatures'] as JsonObject)).toEqual([ourName]);
    if (roomVersion(version)!.eventIdFormat === 'opaque-in-pdu') {
      expect(pdu.eventId).toBe('$fresh:ours.example');
    } else expect(pdu.json['event_id']).toBeUndefined();
  });

  it('is the same leave whatever else the template holds', () => {
    const hostile = template(version, {
      redacts: '$x',
      unsigned: { age: 1 },
      hashes: { sha256: 'theirs' },
      signatures: { 'ours.example': { 'ed25519:t': 'theirs' } },
      event_id: '$theirs:x.example',
      'top level extra': 1,
      content: { membership: 'leave', join_authorised_via_users_server: '@a:ours.example', extra: true },
      origin_server_ts: 99,
    });
    const built = [template(version), hostile].map((answer) => {
      const place = readTemplate(answer, asked(version));
      if ('rule' in place) throw new Error(place.detail);
      return buildLeave(place, own(version));
    });
    expect(built[1]).toEqual(built[0]);
  });
});

describe('a template that is not to be signed', () => {
  const event = template('11')['event'] as JsonObject;
  const many = (count: number) => Array.from({ length: count }, (_, at) => ref('11', String(at)));
  it.each<[string, JsonObject, string]>([
    ['no event', { room_version: '11' }, 'LV-04'],
    ['an event that is a list', { room_version: '11', event: [] }, 'LV-04'],
    ['another type', template('11', { type: 'm.room.message' }), 'LV-04'],
    ['power levels', template('11', { type: 'm.room.power_levels', state_key: '' }), 'LV-04'],
    ['another sender', template('11', { sender: '@eve:x.example' }), 'LV-04'],
    ['another user of ours', template('11', { sender: '@ann:ours.example' }), 'LV-04'],
    ['another state_key', template('11', { state_key: '@eve:x.example' }), 'LV-04'],
    ['no state_key', { room_version: '11', event: withoutKeys(event, 'state_key') }, 'LV-04'],
    ['another room', template('11', { room_id: '!other:x.example' }), 'LV-04'],
    ['another membership', template('11', { content: { membership: 'join' } }), 'LV-04'],
    ['content that is no object', template('11', { content: 'leave' }), 'LV-04'],
    ['2000 prev_events', template('11', { prev_events: many(2000) }), 'EV-05'],
    ['30 auth_events', template('11', { auth_events: many(30) }), 'EV-05'],
    ['no prev_events', template('11', { prev_events: [] }), 'LV-09'],
    ['no auth_events', template('11', { auth_events: [] }), 'LV-09'],
    ['prev_events that are no list', template('11', { prev_events: {} }), 'LV-09'],
    ['references of another version', template('11', { auth_events: [ref('1', 'a')] }), 'EV-04'],
    ['references that are objects', template('11', { prev_events: [{ sign: 'me' }] }), 'EV-04'],
    ['a depth that is text', template('11', { depth: '7' }), 'LV-09'],
    ['another version than the invite', { ...template('10') }, 'LV-05'],
    ['a missing version where the invite named one', withoutKeys(template('11'), 'room_version'), 'LV-05'],
    ['a version that is a number', withKeys(template('11'), { room_version: 11 }), 'LV-05'],
  ])('%s', (_, answer, rule) => {
    expect(readTemplate(answer, asked('11'))).toMatchObject({ rule, isFinal: false });
  });

  it('a version that nobody knows, for good', () => {
    const answer = withKeys(template('11'), { room_version: 'org.example.99' });
    expect(readTemplate(answer, asked('11'))).toMatchObject({ rule: 'LV-05', isFinal: true });
  });

  it.each<[string, JsonValue]>([
    ['a float', new JsonNumber('7.5')],
    ['below zero', -1],
    ['out of range', new JsonNumber('9007199254740992')],
  ])('a depth that is %s: nothing is signed', (_, depth) => {
    const place = readTemplate(template('11', { depth }), asked('11'));
    if ('rule' in place) throw new Error('meant to be found when it is built');
    expect(buildLeave(place, own('11'))).toMatchObject({ rule: expect.stringMatching(/^(EV-06|CJ-05)$/) });
  });

  it('a version 12 room without a version: such an ID is of no room of version 1', () => {
    const answer = withoutKeys(template('12'), 'room_version');
    expect(readTemplate(answer, { ...asked('12'), roomVersions: [] })).toMatchObject({ rule: 'LV-05' });
  });
});

describe('a missing room version', () => {
  it('means version 1, of whose form version 2 is as well', () => {
    const place = readTemplate(withoutKeys(template('1'), 'room_version'), {
      ...asked('1'),
      roomVersions: ['1', '2'],
    });
    expect(place).toMatchObject({ version: { id: '1' } });
  });
});

describe('references of versions 1 and 2', () => {
  it('are made anew: what else is in a pair is not signed', () => {
    const answer = template('1', { prev_events: [['$p:x.example', { sha256: hash, sign: 'me' }]] });
    expect(readTemplate(answer, asked('1'))).toMatchObject({
      prevEvents: [['$p:x.example', { sha256: hash }]],
    });
  });

  it('hold a hash, or nothing at all as Synapse’s do for events of one batch', () => {
    const signMe = template('1', { prev_events: [['$p:x.example', { sha256: 'sign me' }]] });
    expect(readTemplate(signMe, asked('1'))).toMatchObject({ rule: 'EV-04' });
    const bare = template('1', { prev_events: [['$p:x.example', { sign: 'me' }]] });
    expect(readTemplate(bare, asked('1'))).toMatchObject({ prevEvents: [['$p:x.example', {}]] });
  });

  it('that are there twice are there once', () => {
    const answer = template('11', { auth_events: [ref('11', 'a'), ref('11', 'a'), ref('11', 'b')] });
    expect(readTemplate(answer, asked('11'))).toMatchObject({ authEvents: [ref('11', 'a'), ref('11', 'b')] });
  });
});
