import { createPrivateKey, createPublicKey, sign } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { EventId, Pdu, RoomId, UserId } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import { JsonNumber, parseJson, signedBytes, type JsonObject, type JsonValue } from '@exeunt/signing';
import { checkAuthEvents, checkAuthRules, type AuthVerdict } from './check-auth.js';

const alice = '@alice:a';
const bob = '@bob:b';
const carol = '@carol:c';

interface Room {
  readonly version?: string;
  readonly create?: JsonObject;
  readonly members?: Readonly<Record<string, string>>;
  readonly powerLevels?: JsonObject;
  readonly joinRule?: string;
  readonly others?: readonly Pdu[];
}

function pdu(version: string, event: Partial<Pdu> & { type: string; sender: string }): Pdu {
  const room = roomVersion(version)!.roomIdFormat === 'domain' ? '!room:a' : '!create';
  return {
    roomVersion: roomVersion(version)!,
    eventId: '$event:a' as EventId,
    roomId: room as RoomId,
    content: {},
    prevEvents: ['$before' as EventId],
    authEvents: [],
    depth: 5,
    originServerTs: 0,
    json: {},
    ...event,
    sender: event.sender as UserId,
  };
}

/** The verdict on an event in a room, and which entries of its state were asked for. */
function judge(
  room: Room,
  event: Partial<Omit<Pdu, 'sender'>> & { type: string; sender: string },
): { verdict: AuthVerdict; asked: string[] } {
  const version = room.version ?? '10';
  const of = (type: string, stateKey: string, content: JsonObject, sender = alice): Pdu =>
    pdu(version, { type, sender, stateKey, content } as Partial<Pdu> & { type: string; sender: string });
  const create: Pdu = {
    ...of('m.room.create', '', room.create ?? { creator: alice }),
    eventId: '$create' as EventId,
    prevEvents: [],
  };
  const state = [
    create,
    ...Object.entries(room.members ?? {}).map(([user, membership]) =>
      of('m.room.member', user, { membership }),
    ),
    ...(room.powerLevels ? [of('m.room.power_levels', '', room.powerLevels)] : []),
    ...(room.joinRule === undefined ? [] : [of('m.room.join_rules', '', { join_rule: room.joinRule })]),
    ...(room.others ?? []),
  ];
  const asked: string[] = [];
  const lookup = (type: string, stateKey: string): Pdu | undefined => {
    asked.push(`${type} ${stateKey}`.trim());
    return state.find((entry) => entry.type === type && entry.stateKey === stateKey);
  };
  const verdict = checkAuthRules(
    pdu(version, event as Partial<Pdu> & { type: string; sender: string }),
    roomVersion(version)!,
    lookup,
    { create },
  );
  return { verdict, asked };
}

function member(sender: string, target: string, membership: string): Parameters<typeof judge>[1] {
  return { type: 'm.room.member', sender, stateKey: target, content: { membership } };
}

const versions = [...roomVersionIds];
const knockingSince7 = (version: string): boolean => roomVersion(version)!.knocking;

describe('leaving', () => {
  it.each(
    versions.flatMap((version) =>
      ['join', 'invite', 'knock', 'leave', 'ban'].map((had) => [version, had] as const),
    ),
  )('by own hand in version %s with membership %s is decided by that membership alone', (version, had) => {
    const { verdict, asked } = judge({ version, members: { [bob]: had } }, member(bob, bob, 'leave'));
    const isAllowed = had === 'join' || had === 'invite' || (had === 'knock' && knockingSince7(version));
    expect(verdict.allowed).toBe(isAllowed);
    if (!verdict.allowed)
      expect(verdict).toMatchObject({ rule: 'AU-20', detail: expect.stringContaining(had) });
    expect(asked).toEqual([`m.room.member ${bob}`]);
  });

  it.each([
    ['join', 50, true],
    ['invite', 50, true],
    ['knock', 50, true],
    ['leave', 50, true],
    ['join', 49, false],
    ['ban', 50, false],
    ['ban', 60, true],
  ])('by the hand of another, with membership %s and power %i', (had, power, isAllowed) => {
    const room = {
      members: { [alice]: 'join', [bob]: had },
      powerLevels: { users: { [alice]: power }, ban: 60 },
    };
    const { verdict } = judge(room, member(alice, bob, 'leave'));
    expect(verdict.allowed).toBe(isAllowed);
    if (!verdict.allowed)
      expect(verdict).toMatchObject({ rule: 'AU-21', detail: expect.stringContaining(`${power}`) });
  });

  it('cannot be forced by an equal, nor on a creator of version 12', () => {
    const equals = {
      members: { [alice]: 'join', [bob]: 'join' },
      powerLevels: { users: { [alice]: 50, [bob]: 50 } },
    };
    expect(judge(equals, member(alice, bob, 'leave')).verdict).toMatchObject({
      allowed: false,
      rule: 'AU-21',
    });
    const creators: Room = {
      version: '12',
      create: { additional_creators: [bob] },
      members: { [alice]: 'join', [bob]: 'join' },
      powerLevels: {},
    };
    expect(judge(creators, member(alice, bob, 'leave')).verdict).toMatchObject({
      allowed: false,
      rule: 'AU-21',
    });
  });

  it('names the rule and the levels where the power to ban lacks for an unban', () => {
    const room = {
      members: { [alice]: 'join', [bob]: 'ban' },
      powerLevels: { users: { [alice]: 50 }, ban: 60 },
    };
    expect(judge(room, member(alice, bob, 'leave')).verdict).toEqual({
      allowed: false,
      rule: 'AU-21',
      detail: 'The power of @alice:a is 50, below the ban level 60.',
    });
  });
});

describe('a join to a restricted room', () => {
  const room = {
    version: '8',
    members: { [alice]: 'join' },
    powerLevels: { users: { [alice]: 50 }, invite: 50 },
    joinRule: 'restricted',
  };
  const join = (authorisingUser: JsonValue): Parameters<typeof judge>[1] => ({
    ...member(bob, bob, 'join'),
    content: { membership: 'join', join_authorised_via_users_server: authorisingUser },
  });

  it('needs a joined user with the power to invite', () => {
    expect(judge(room, join(alice)).verdict.allowed).toBe(true);
    expect(judge(room, join(carol)).verdict).toMatchObject({ rule: 'AU-06' });
    expect(judge(room, member(bob, bob, 'join')).verdict).toMatchObject({ rule: 'AU-06' });
    expect(judge({ ...room, powerLevels: { invite: 50 } }, join(alice)).verdict).toMatchObject({
      rule: 'AU-06',
    });
    expect(judge({ ...room, version: '7' }, join(alice)).verdict).toMatchObject({ rule: 'AU-06' });
  });

  it('is refused where the authorising user is none, on any membership', () => {
    for (const junk of [null, 5, {}, 'alice', ['@a:b']]) {
      const leave = { membership: 'leave', join_authorised_via_users_server: junk };
      expect(judge(room, join(junk)).verdict).toMatchObject({ rule: 'AU-05' });
      expect(judge(room, { ...member(alice, alice, 'leave'), content: leave }).verdict).toMatchObject({
        rule: 'AU-05',
      });
    }
  });
});

describe('an invite that redeems a third-party invite', () => {
  const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), Buffer.alloc(32, 9)]);
  const key = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
  const publicKey = createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(12);
  const unsigned = { mxid: bob, token: 'the token' };
  const signature = sign(null, signedBytes(unsigned), key).toString('base64').replace(/=+$/, '');
  const signed = { ...unsigned, signatures: { 'id.example': { 'ed25519:0': signature } } };

  function redeem(content: JsonObject, inviteContent: JsonObject, bobs = 'leave'): AuthVerdict {
    const invite = pdu('10', {
      type: 'm.room.third_party_invite',
      sender: alice,
      stateKey: 'the token',
      content: inviteContent,
    } as never);
    const event = { ...member(alice, bob, 'invite'), content: { membership: 'invite', ...content } };
    return judge({ members: { [bob]: bobs }, others: [invite] }, event).verdict;
  }

  it.each<[string, JsonObject]>([
    ['public_key', { public_key: publicKey.toString('base64') }],
    ['URL-safe public_key', { public_key: publicKey.toString('base64url') }],
    [
      'one of public_keys',
      { public_key: 'junk', public_keys: [null, {}, { public_key: publicKey.toString('base64url') }] },
    ],
  ])('is allowed by a signature that fits its %s', (_name, inviteContent) => {
    expect(redeem({ third_party_invite: { signed } }, inviteContent)).toEqual({ allowed: true });
  });

  it.each<[string, JsonValue]>([
    ['nothing', null],
    ['a list', []],
    ['no signed', {}],
    ['a text for signed', { signed: 'x' }],
    ['no mxid', { signed: { token: 'the token' } }],
    ['numbers', { signed: { mxid: 1, token: new JsonNumber('1e400') } }],
    ['another mxid', { signed: { ...signed, mxid: carol } }],
    ['another token', { signed: { ...signed, token: '__proto__' } }],
    ['no signatures', { signed: unsigned }],
    ['signatures of a wrong type', { signed: { ...unsigned, signatures: [signature] } }],
    ['junk signatures', { signed: { ...unsigned, signatures: { a: { 'ed25519:0': 5, 'ed25519:1': '?' } } } }],
    ['something added after signing', { signed: { ...signed, more: 'x' } }],
  ])('is refused with %s in third_party_invite', (_name, thirdPartyInvite) => {
    const inviteContent = { public_key: publicKey.toString('base64') };
    expect(redeem({ third_party_invite: thirdPartyInvite }, inviteContent)).toMatchObject({ rule: 'AU-07' });
  });

  it('is refused where the target is banned', () => {
    const inviteContent = { public_key: publicKey.toString('base64') };
    expect(redeem({ third_party_invite: { signed } }, inviteContent, 'ban')).toMatchObject({ rule: 'AU-07' });
  });
});

describe('a change of power levels', () => {
  const change = (content: JsonObject): Parameters<typeof judge>[1] => ({
    type: 'm.room.power_levels',
    sender: alice,
    stateKey: '',
    content,
  });
  const members = { [alice]: 'join' };

  it.each<[string, JsonObject, boolean]>([
    ['5', { ban: 50.5 as never }, false],
    ['5', parseJson('{"ban": 50.5, "users": {"@alice:a": 50.1}}') as JsonObject, true],
    ['6', parseJson('{"ban": 50.5}') as JsonObject, false],
    ['9', { ban: '50' }, true],
    ['10', { ban: '50' }, false],
    ['9', { users: [] }, false],
    ['9', { users: { alice: 1 } }, false],
    ['9', { users: { '@upper CASE:a': 1 } }, true],
    ['10', { events: { 'm.room.name': null } }, false],
    ['10', { notifications: 'x' }, false],
    ['5', { notifications: 'x' }, true],
    ['10', parseJson('{"users": {"__proto__": 1}}') as JsonObject, false],
    ['10', parseJson('{"events": {"__proto__": 1, "constructor": 2}}') as JsonObject, true],
    ['12', { users: { [alice]: 100 } }, false],
    ['12', { users: { [bob]: 100 } }, true],
  ])('as the first one in version %s, %j: %s', (version, content, isAllowed) => {
    const { verdict } = judge({ version, members }, change(content));
    expect(verdict.allowed).toBe(isAllowed);
    if (!verdict.allowed) expect(verdict.rule).toBe('AU-31');
  });

  it('compares levels above 2^53 without loss', () => {
    const powerLevels = { users: { [alice]: '9007199254740993' } };
    const set = (ban: string): AuthVerdict =>
      judge({ version: '9', members, powerLevels }, change({ ...powerLevels, ban })).verdict;
    expect(set('9007199254740993').allowed).toBe(true);
    expect(set('9007199254740994')).toMatchObject({ rule: 'AU-32' });
  });

  it('takes the same level in another form for no change', () => {
    const powerLevels = { users: { [alice]: 50, [bob]: 90 }, ban: 80 };
    const same = { users: { [alice]: '50', [bob]: ' +90 ' }, ban: '080' };
    expect(judge({ version: '9', members, powerLevels }, change(same)).verdict.allowed).toBe(true);
  });

  it('asks about notifications since version 6', () => {
    const powerLevels = { users: { [alice]: 50 }, notifications: { room: 90 } };
    const without = { users: { [alice]: 50 } };
    expect(judge({ version: '5', members, powerLevels }, change(without)).verdict.allowed).toBe(true);
    expect(judge({ version: '6', members, powerLevels }, change(without)).verdict).toMatchObject({
      rule: 'AU-32',
    });
  });

  it('lets one lower oneself but not an equal', () => {
    const powerLevels = { users: { [alice]: 50, [bob]: 50 } };
    expect(judge({ members, powerLevels }, change({ users: { [bob]: 50 } })).verdict.allowed).toBe(true);
    expect(judge({ members, powerLevels }, change({ users: { [alice]: 50 } })).verdict).toMatchObject({
      rule: 'AU-32',
    });
  });
});

describe('a redaction', () => {
  const redact = (redacts: JsonValue): Parameters<typeof judge>[1] => ({
    type: 'm.room.redaction',
    sender: alice,
    json: { redacts },
  });
  const room = { version: '1', members: { [alice]: 'join' }, powerLevels: {} };

  it('is decided by domain or level in versions 1 and 2', () => {
    expect(judge(room, redact('$x:a')).verdict.allowed).toBe(true);
    expect(judge(room, redact('$x:b')).verdict).toMatchObject({ rule: 'AU-33' });
    expect(judge({ ...room, powerLevels: { users: { [alice]: 50 } } }, redact('$x:b')).verdict.allowed).toBe(
      true,
    );
    for (const junk of [null, 5, '', '$x', '$', {}])
      expect(judge(room, redact(junk)).verdict.allowed).toBe(false);
  });

  it('is allowed like any other event since version 3', () => {
    expect(judge({ ...room, version: '3' }, redact('$x')).verdict.allowed).toBe(true);
  });
});

describe('hostile input', () => {
  const key = fc.constantFrom(
    '__proto__',
    'constructor',
    'toString',
    'membership',
    'users',
    'events',
    'ban',
    'third_party_invite',
    'signed',
    'mxid',
    'token',
    'signatures',
    'creator',
    'additional_creators',
    'room_version',
    'm.federate',
    'join_rule',
    'public_key',
    'public_keys',
    'join_authorised_via_users_server',
    'notifications',
    alice,
  );
  const leaf = fc.oneof(
    fc.constantFrom('join', 'invite', 'leave', 'ban', 'knock', 'restricted', '__proto__', alice, '12'),
    fc.constantFrom('1e400', '-0', '9'.repeat(400), '1.5', '1e-400').map((source) => new JsonNumber(source)),
    fc.constant(null),
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.string(),
  );
  const { value } = fc.letrec<{ value: JsonValue }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      leaf,
      fc.array(tie('value'), { maxLength: 3 }),
      fc.array(fc.tuple(key, tie('value')), { maxLength: 5 }).map((entries) => Object.fromEntries(entries)),
    ),
  }));
  const content = fc
    .array(fc.tuple(key, value), { maxLength: 6 })
    .map((entries) => Object.fromEntries(entries) as JsonObject);
  const type = fc.constantFrom(
    'm.room.create',
    'm.room.member',
    'm.room.power_levels',
    'm.room.join_rules',
    'm.room.third_party_invite',
    'm.room.aliases',
    'm.room.redaction',
    'constructor',
    '__proto__',
  );
  const stateKey = fc.constantFrom('', alice, bob, '__proto__', 'a', '@');

  it('is answered by a verdict, never by a throw', () => {
    const entry = fc.record({ type, sender: fc.constantFrom(alice, bob), stateKey, content });
    fc.assert(
      fc.property(
        fc.constantFrom(...versions),
        entry,
        fc.array(entry, { maxLength: 6 }),
        content,
        content,
        (id, event, entries, create, json) => {
          const version = roomVersion(id)!;
          const others = entries.map((other) => pdu(id, other as never));
          const { verdict } = judge(
            { version: id, create, members: { [alice]: 'join' }, others },
            { ...event, json },
          );
          expect(verdict.allowed || verdict.rule.length > 0).toBe(true);
          const cited = others.map((other) => ({ pdu: other, rejected: false }));
          checkAuthEvents(pdu(id, event as never), version, cited, { create: others[0] });
        },
      ),
      { numRuns: 2000 },
    );
  });

  it("lets the state's own exception through", () => {
    const notLoaded = new Error('not loaded');
    const lookup = (): never => {
      throw notLoaded;
    };
    const version = roomVersion('10')!;
    const create = pdu('10', { type: 'm.room.create', sender: alice, content: {} } as never);
    const leave = pdu('10', member(bob, bob, 'leave') as never);
    expect(() => checkAuthRules(leave, version, lookup, { create })).toThrow(notLoaded);
  });
});
