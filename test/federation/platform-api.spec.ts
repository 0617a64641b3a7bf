import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addSignature } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import {
  JsonNumber,
  parseJson,
  withKeys,
  withoutKeys,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import { delivered, importOf, importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { acceptInvites, makeLeave, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { respond, startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { RoomBuilder } from '../harness/room-builder.js';

let ours: LeaveServer;
let remote: RemoteServer;
let observer: RemoteServer;
let alice: string;
let bob: string;

beforeAll(async () => {
  ours = await startLeaveServer({ environment: { EXEUNT_FEDERATION_TIMEOUT_MS: '1000' } });
  remote = await startRemoteServer({ host: '127.0.0.2' });
  observer = await startRemoteServer({ host: '127.0.0.3' });
  acceptInvites(remote);
  alice = `@alice:${ours.name}`;
  bob = `@bob:${remote.name}`;
});
afterAll(async () => {
  await Promise.all([ours?.stop(), remote?.close(), observer?.close()]);
});

const text = expect.any(String);
const enc = encodeURIComponent;

async function expectError(
  answer: ReturnType<LeaveServer['platform']>,
  status: number,
  errcode: string,
  rule?: string,
): Promise<void> {
  const { status: got, body } = await answer;
  expect([got, body]).toEqual([
    status,
    expect.objectContaining({ errcode, error: text, ...(rule === undefined ? {} : { rule }) }),
  ]);
  expect(Object.keys(body).every((key) => ['errcode', 'error', 'rule'].includes(key))).toBe(true);
}

async function createRoom(more: JsonObject = {}): Promise<string> {
  const { room_id: roomId } = await ours.ok('POST', '/v1/rooms', { creator: alice, ...more });
  return `/v1/rooms/${enc(String(roomId))}`;
}

function olgasRoom(version: string, grow?: (builder: RoomBuilder) => void): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [remote, observer],
    grow(builder) {
      builder.member(`@olga:${observer.name}`, 'join');
      grow?.(builder);
    },
  });
}

describe('the token', () => {
  const ask = (path: string, authorization?: string, method = 'GET'): Promise<Response> =>
    fetch(`${ours.platformUrl}${path}`, {
      method,
      headers: authorization === undefined ? {} : { authorization },
    });

  it.each([
    ['GET', '/v1/rooms'],
    ['POST', '/v1/rooms'],
    ['POST', '/v1/rooms/import'],
    ['GET', '/v1/rooms/!a%3Ab'],
    ['GET', '/v1/rooms/!a%3Ab/state'],
    ['GET', '/v1/rooms/!a%3Ab/events'],
    ['POST', '/v1/rooms/!a%3Ab/state'],
    ['POST', '/v1/rooms/!a%3Ab/invites'],
    ['POST', '/v1/rooms/!a%3Ab/explain'],
    ['GET', '/v1/destinations'],
    ['GET', '/v1/destinations/x'],
    ['POST', '/v1/destinations/x/retry'],
    ['POST', '/v1/destinations/x/park'],
    ['POST', '/v1/destinations/x/unpark'],
  ])('is needed for %s %s', async (method, path) => {
    const none = await ask(path, undefined, method);
    expect([none.status, await none.json()]).toEqual([401, { errcode: 'M_MISSING_TOKEN', error: text }]);
    const wrong = await ask(path, `Bearer ${ours.token}x`, method);
    expect([wrong.status, await wrong.json()]).toEqual([401, { errcode: 'M_UNKNOWN_TOKEN', error: text }]);
  });

  it('is borne, whatever the case of the scheme, and in no other way', async () => {
    expect((await ask('/v1/rooms', `bearer ${ours.token}`)).status).toBe(200);
    expect((await ask('/v1/rooms', `Basic ${ours.token}`)).status).toBe(401);
    expect((await ask('/v1/rooms', ours.token)).status).toBe(401);
    expect((await ask(`/v1/rooms?access_token=${ours.token}`)).status).toBe(401);
  });

  it.each(['/healthz', '/readyz', '/metrics', '/docs', '/docs-json'])(
    'is not needed for %s',
    async (path) => {
      expect((await ask(path)).status).toBe(200);
    },
  );

  it('is looked at before the body is read: a stranger cannot make us hold half a gigabyte', async () => {
    const { hostname, port } = new URL(ours.platformUrl);
    const socket = connect(Number(port), hostname);
    const answered = once(socket, 'data');
    socket.write(`POST /v1/rooms/import HTTP/1.1\r\nHost: ${hostname}\r\nContent-Length: 400000000\r\n\r\n{`);
    const [answer] = (await answered) as [Buffer];
    expect(String(answer)).toMatch(/^HTTP\/1\.1 401 /);
    socket.destroy();
  });

  it('of no path that is there says that it is not, as on the other listener (HT-03)', async () => {
    const answer = await ask('/v1/nothing');
    expect([answer.status, await answer.json()]).toMatchObject([404, { errcode: 'M_UNRECOGNIZED' }]);
    const method = await ask('/v1/rooms', undefined, 'DELETE');
    expect([method.status, await method.json()]).toMatchObject([405, { errcode: 'M_UNRECOGNIZED' }]);
  });
});

describe('POST /v1/rooms', () => {
  it.each(roomVersionIds)('makes a room of version %s that looks like this', async (version) => {
    const answer = await ours.platform('POST', '/v1/rooms', { creator: alice, room_version: version });
    expect(answer).toEqual({ status: 201, body: { room_id: text } });
    const roomId = String(answer.body['room_id']);
    expect(roomId).toMatch(version === '12' ? /^![A-Za-z0-9_-]{43}$/ : /^!.+:127/);
    const shown = await ours.ok('GET', `/v1/rooms/${enc(roomId)}`);
    expect(shown).toEqual({
      room_id: roomId,
      room_version: version,
      depth: expect.any(Number),
      forward_extremities: [text],
      members: { join: 1, invite: 0, knock: 0, leave: 0, ban: 0 },
      resident_servers: [ours.name],
      position: expect.any(Number),
    });
    const { events } = await ours.ok('GET', `/v1/rooms/${enc(roomId)}/state`);
    const types = (events as readonly JsonObject[]).map(({ type }) => type).sort();
    expect(types).toEqual([
      'm.room.create',
      'm.room.history_visibility',
      'm.room.join_rules',
      'm.room.member',
      'm.room.power_levels',
    ]);
  });

  it('takes join rule, levels, ACL and whom to invite', async () => {
    const path = await createRoom({
      join_rule: 'public',
      power_levels: { users: { [alice]: 100 }, kick: 77 },
      server_acl: { allow: ['*'] },
      invite: [`@carol:${ours.name}`, bob],
    });
    const content = async (type: string, key = ''): Promise<JsonValue> => {
      const query = new URLSearchParams({ type, state_key: key });
      const { events } = await ours.ok('GET', `${path}/state?${query}`);
      return (events as readonly JsonObject[])[0]!['content']!;
    };
    expect(await content('m.room.join_rules')).toEqual({ join_rule: 'public' });
    expect(await content('m.room.power_levels')).toEqual({ users: { [alice]: 100 }, kick: 77 });
    expect(await content('m.room.server_acl')).toEqual({ allow: ['*'] });
    expect(await content('m.room.member', bob)).toMatchObject({ membership: 'invite' });
    expect(await ours.ok('GET', path)).toMatchObject({ members: { join: 1, invite: 2 } });
  });

  it.each<[string, JsonObject, number, string]>([
    ['no creator', { creator: null }, 400, 'M_MISSING_PARAM'],
    ['a creator that is no user ID', { creator: 'alice' }, 400, 'M_INVALID_PARAM'],
    ['a creator of another server', { creator: '@alice:example.org' }, 403, 'M_FORBIDDEN'],
    ['an unknown version', { room_version: '99' }, 400, 'M_INCOMPATIBLE_ROOM_VERSION'],
    ['a version that is a number', { room_version: 11 }, 400, 'M_INVALID_PARAM'],
    ['invites that are no list', { invite: 'bob' }, 400, 'M_INVALID_PARAM'],
    ['an invite of no user ID', { invite: ['bob'] }, 400, 'M_INVALID_PARAM'],
    ['levels that are no object', { power_levels: [] }, 400, 'M_INVALID_PARAM'],
    ['levels that the auth rules refuse', { power_levels: { users: { alice: 100 } } }, 403, 'M_FORBIDDEN'],
    ['a level that is a float', { power_levels: { ban: new JsonNumber('1.5') } }, 403, 'M_FORBIDDEN'],
  ])('with %s makes nothing', async (_, more, status, errcode) => {
    const count = async (): Promise<number> =>
      ((await ours.ok('GET', '/v1/rooms?limit=10000'))['rooms'] as readonly unknown[]).length;
    const before = await count();
    await expectError(ours.platform('POST', '/v1/rooms', { creator: alice, ...more }), status, errcode);
    expect(await count()).toBe(before);
  });
});

describe('GET /v1/rooms', () => {
  it('gives pages of all rooms in order, each as it is shown alone but for its servers', async () => {
    for (let made = 0; made < 3; made++) await createRoom();
    const all = (await ours.ok('GET', '/v1/rooms?limit=10000'))['rooms'] as readonly JsonObject[];
    const paged: JsonObject[] = [];
    let next: string | undefined;
    do {
      const page = await ours.ok('GET', `/v1/rooms?limit=2${next === undefined ? '' : `&from=${enc(next)}`}`);
      paged.push(...(page['rooms'] as readonly JsonObject[]));
      next = page['next'] as string | undefined;
    } while (next !== undefined);
    expect(paged).toEqual(all);
    expect(new Set(paged.map(({ room_id: id }) => id)).size).toBe(paged.length);
    const [first] = all;
    const alone = await ours.ok('GET', `/v1/rooms/${enc(String(first!['room_id']))}`);
    expect(withoutKeys(alone, 'resident_servers')).toEqual(first);
  });
  it.each(['limit=0', 'limit=-1', 'limit=x', 'limit=1.5'])('refuses %s', async (query) => {
    await expectError(ours.platform('GET', `/v1/rooms?${query}`), 400, 'M_INVALID_PARAM');
  });
  it.each(['', '/state', '/events'])('of a room that nobody knows is 404: %s (ML-16)', async (more) => {
    const path = `/v1/rooms/${enc('!nowhere:example.org')}${more}`;
    await expectError(ours.platform('GET', path), 404, 'M_NOT_FOUND', 'ML-16');
    await expectError(ours.platform('GET', `/v1/rooms/nowhere${more}`), 400, 'M_INVALID_PARAM', 'ID-07');
  });
  it.each([
    '/v1/rooms?from=%00',
    '/v1/rooms?from=%ff',
    '/v1/rooms/ROOM/state?type=%00&state_key=%00',
    '/v1/rooms/ROOM/state?from=%5B%22%5Cu0000%22%2C%22%22%5D',
    '/v1/rooms/ROOM/state?type=a&type=b',
    '/v1/rooms/ROOM/state?type[x]=1',
    '/v1/rooms/ROOM/events?from=1&from=2',
    '/v1/rooms/ROOM/events?limit=999999',
    '/v1/destinations?from=%00',
    '/v1/destinations/%00',
    '/v1/destinations/%F0%9F%98%80',
  ])('answers %s with no fault of ours', async (path) => {
    const room = (await createRoom()).split('/').at(-1)!;
    expect((await ours.platform('GET', path.replace('ROOM', room))).status).toBeLessThan(500);
  });
});

describe.each(roomVersionIds)('POST /v1/rooms/import of a room of version %s', (version) => {
  function build(): RoomBuilder {
    const builder = new RoomBuilder({
      version,
      servers: [
        { name: ours.name, key: ours.running.platform.side.signingKey },
        { name: remote.name, key: remote.key },
        { name: observer.name, key: observer.key },
      ],
      creator: alice,
    });
    builder.member(bob, 'join');
    builder.member(`@olga:${observer.name}`, 'join');
    builder.say({ sender: alice, content: { body: 'hello' } });
    builder.member(bob, 'leave');
    return builder;
  }
  const peers = (): readonly RemoteServer[] => [remote, observer];

  it('as a graph, in any order, and again: it changes nothing', async () => {
    const builder = build();
    const body = importOf(builder, peers());
    const reversed = withKeys(body, { events: [...(body['events'] as readonly JsonObject[])].reverse() });
    const report = { room_id: builder.roomId, accepted: builder.pdus.length, rejected: [] };
    expect(await ours.platform('POST', '/v1/rooms/import', reversed)).toEqual({ status: 201, body: report });
    const shown = await ours.ok('GET', `/v1/rooms/${enc(builder.roomId)}`);
    expect(shown).toMatchObject({
      members: { join: 2, invite: 0, knock: 0, leave: 1, ban: 0 },
      resident_servers: [ours.name, observer.name].sort(),
      forward_extremities: [builder.pdus.at(-1)!.eventId],
      depth: builder.pdus.length,
    });
    for (const again of [body, reversed]) {
      expect(await ours.ok('POST', '/v1/rooms/import', again)).toEqual(report);
    }
    expect(await ours.ok('GET', `/v1/rooms/${enc(builder.roomId)}`)).toEqual(shown);
  });

  it('as a snapshot, and again: it changes nothing; and a user leaves from it', async () => {
    const builder = build();
    builder.member(bob, 'invite', alice);
    const current = builder.room.currentState();
    const state = builder.pdus.filter(
      ({ type, stateKey, eventId }) =>
        stateKey !== undefined && builder.room.entry(current, type, stateKey) === eventId,
    );
    const body: JsonObject = {
      room_version: version,
      state: state.map(({ json }) => json),
      auth_chain: builder.pdus.filter((pdu) => !state.includes(pdu)).map(({ json }) => json),
      forward_extremities: [builder.pdus.at(-1)!.eventId],
      depth: builder.pdus.length,
      server_keys: peers().map((peer) => peer.keyResponse()),
    };
    const first = await ours.platform('POST', '/v1/rooms/import', body);
    expect(first).toEqual({
      status: 201,
      body: { room_id: builder.roomId, accepted: builder.pdus.length, rejected: [] },
    });
    const path = `/v1/rooms/${enc(builder.roomId)}`;
    const shown = await ours.ok('GET', path);
    expect(shown).toMatchObject({
      members: { join: 2, invite: 1, leave: 0 },
      resident_servers: [ours.name, observer.name].sort(),
      forward_extremities: [builder.pdus.at(-1)!.eventId],
      depth: builder.pdus.length,
    });
    expect(await ours.platform('POST', '/v1/rooms/import', body)).toEqual(first);
    expect(await ours.ok('GET', path)).toEqual(shown);

    const made = (await makeLeave(remote, ours, builder.roomId, bob)).json as JsonObject;
    const leave = signTemplate(remote, version, made['event'] as JsonObject);
    expect((await sendLeave(remote, ours, leave)).status).toBe(200);
    expect(await delivered(observer, leave.event)).toEqual(withoutKeys(leave.event, 'unsigned'));
    expect(await ours.ok('GET', path)).toMatchObject({ members: { join: 2, invite: 0, leave: 1 } });
  });

  it('tells what was rejected, by ID and reason, and takes the rest (PD-01, PD-02, PD-04)', async () => {
    const builder = build();
    const unsigned = withKeys(builder.pdus.at(-1)!.json, { signatures: {} });
    const malformed = withoutKeys(builder.pdus.at(-2)!.json, 'depth');
    const good = builder.pdus.slice(0, -2).map(({ json }) => json);
    const answer = await ours.platform(
      'POST',
      '/v1/rooms/import',
      withKeys(importOf(builder, peers()), { events: [...good, unsigned, malformed] }),
    );
    expect(answer.status).toBe(201);
    expect(answer.body).toMatchObject({ room_id: builder.roomId, accepted: good.length });
    expect(answer.body['rejected']).toEqual(
      expect.arrayContaining([
        { event_id: builder.pdus.at(-1)!.eventId, reason: expect.stringMatching(/^PD-02: /) },
        { event_id: text, reason: expect.stringMatching(/^EV-06: /) },
      ]),
    );
  });
});

describe('POST /v1/rooms/import', () => {
  it.each<[string, JsonValue, number, string]>([
    ['no version', { events: [] }, 400, 'M_MISSING_PARAM'],
    ['an unknown version', { room_version: '0', events: [] }, 400, 'M_INCOMPATIBLE_ROOM_VERSION'],
    ['neither form', { room_version: '11' }, 400, 'M_MISSING_PARAM'],
    ['half a snapshot', { room_version: '11', state: [], auth_chain: [] }, 400, 'M_MISSING_PARAM'],
    ['no create event', { room_version: '11', events: [] }, 400, 'M_BAD_JSON'],
    ['events that are no list', { room_version: '11', events: {} }, 400, 'M_INVALID_PARAM'],
    ['an event that is no object', { room_version: '11', events: [1] }, 400, 'M_INVALID_PARAM'],
    ['keys that are none', { room_version: '11', events: [], server_keys: [{}] }, 400, 'M_INVALID_PARAM'],
    ['a list for a body', [], 400, 'M_BAD_JSON'],
    [
      'no extremities',
      { room_version: '11', state: [], auth_chain: [], forward_extremities: [], depth: 1 },
      400,
      'M_INVALID_PARAM',
    ],
    [
      'a depth that is a float',
      {
        room_version: '11',
        state: [],
        auth_chain: [],
        forward_extremities: ['$a:b'],
        depth: new JsonNumber('1.5'),
      },
      400,
      'M_INVALID_PARAM',
    ],
  ])('with %s is refused', async (_, body, status, errcode) => {
    await expectError(ours.platform('POST', '/v1/rooms/import', body), status, errcode);
  });
});

describe('reading a room', () => {
  it('state is as signed, with the event ID added; now, and at every earlier position (RA-18)', async () => {
    const room = await olgasRoom('5');
    const large = parseJson('{"topic":"x","large":9007199254740993,"float":1.50}') as JsonObject;
    const positions: number[] = [];
    for (const content of [{ topic: 'one' }, { topic: 'two' }, large]) {
      await room.say('m.room.topic', '', content);
      positions.push(await room.position());
    }
    const topicAt = async (at?: number): Promise<JsonObject | undefined> => {
      const query = `type=m.room.topic&state_key=${at === undefined ? '' : `&at=${at}`}`;
      return ((await ours.ok('GET', room.path(`/state?${query}`)))['events'] as readonly JsonObject[])[0];
    };
    expect((await topicAt())!['content']).toEqual(large);
    expect((await topicAt(positions[0]))!['content']).toEqual({ topic: 'one' });
    expect((await topicAt(positions[1]))!['content']).toEqual({ topic: 'two' });
    expect(await topicAt(positions[0]! - 1)).toBeUndefined();
    const [said] = await room.since(positions[2]! - 1);
    expect(withoutKeys((await topicAt())!, 'event_id')).toEqual(said!['pdu']);
    expect((await topicAt())!['event_id']).toBe(said!['event_id']);
    for (const at of ['x', '-1', '1.5', String(positions[2]! + 1)]) {
      await expectError(ours.platform('GET', room.path(`/state?at=${at}`)), 400, 'M_INVALID_PARAM');
    }
  });

  it('state comes in pages', async () => {
    const room = await olgasRoom('11');
    const whole = (await ours.ok('GET', room.path('/state')))['events'];
    const paged: JsonValue[] = [];
    let next: string | undefined;
    do {
      const more = next === undefined ? '' : `&from=${enc(next)}`;
      const page = await ours.ok('GET', room.path(`/state?limit=2${more}`));
      paged.push(...(page['events'] as readonly JsonValue[]));
      next = page['next'] as string | undefined;
    } while (next !== undefined);
    expect(paged).toEqual(whole);
    await expectError(ours.platform('GET', room.path('/state?from=x')), 400, 'M_INVALID_PARAM');
  });

  it('events come in order, in pages, from a position', async () => {
    const room = await olgasRoom('11');
    for (let said = 0; said < 5; said++) await room.say('m.room.topic', '', { topic: `${said}` });
    const position = await room.position();
    const whole = await room.since(0);
    expect(whole.map((one) => one['position'])).toEqual(whole.map((_, at) => at + 1));
    expect(whole).toHaveLength(position);
    expect(whole.every(({ type }) => typeof type === 'string')).toBe(true);
    expect(whole.at(-1)).toEqual({
      position,
      type: 'PduAccepted',
      event_id: text,
      place: 'graph',
      origin: ours.name,
      decided_at: expect.any(Number),
      changes: [{ type: 'm.room.topic', state_key: '', event_id: text }],
      pdu: expect.objectContaining({ type: 'm.room.topic' }),
    });
    const paged: JsonValue[] = [];
    let next: string | undefined = '1';
    while (next !== undefined) {
      const page: JsonObject = await ours.ok('GET', room.path(`/events?limit=3&from=${next}`));
      paged.push(...(page['events'] as readonly JsonValue[]));
      next = page['next'] as string | undefined;
    }
    expect(paged).toEqual(whole);
    expect(await ours.ok('GET', room.path(`/events?from=${position + 1}`))).toEqual({ events: [] });
    for (const from of ['x', '-1', '1.5']) {
      await expectError(ours.platform('GET', room.path(`/events?from=${from}`)), 400, 'M_INVALID_PARAM');
    }
  });
});

describe('POST /v1/rooms/{roomId}/state', () => {
  const carol = (): string => `@carol:${ours.name}`;
  const send = (path: string, sender: string, type: string, key: string, content: JsonObject) =>
    ours.platform('POST', `${path}/state`, { sender, type, state_key: key, content });

  it('kicks, bans and unbans a remote user, who hears of all of it while its server is resident (AU-21, AU-23, BR-01)', async () => {
    const room = await olgasRoom('11', (builder) => builder.member(bob, 'join'));
    const path = room.path();
    const before = await room.position();
    for (const membership of ['leave', 'ban', 'leave']) {
      const answer = await send(path, alice, 'm.room.member', bob, { membership, reason: 'spam' });
      expect(answer).toEqual({ status: 200, body: { event_id: text } });
      expect(await ours.member(room.roomId, bob)).toMatchObject({
        event_id: answer.body['event_id'],
        sender: alice,
        content: { membership, reason: 'spam' },
      });
    }
    const [kick, , unban] = (await room.since(before)).map(({ pdu }) => pdu as JsonObject);
    expect(await delivered(remote, kick!)).toEqual(kick);
    expect(await delivered(observer, unban!)).toEqual(unban);
    await expectError(send(path, alice, 'm.room.member', `@olga:${observer.name}`, {}), 403, 'M_FORBIDDEN');
  });

  it('tells the server of a remote user whose invite is taken back (BR-06)', async () => {
    const room = await olgasRoom('11', (builder) => builder.member(bob, 'invite', alice));
    const before = await room.position();
    expect((await send(room.path(), alice, 'm.room.member', bob, { membership: 'leave' })).status).toBe(200);
    const [rescinded] = await room.since(before);
    const pdu = rescinded!['pdu'] as JsonObject;
    expect(await delivered(remote, pdu)).toEqual(pdu);
  });

  it('is refused by the rule that refuses it, and leaves no trace (AU-30, AU-32, AU-21)', async () => {
    const path = await createRoom({ join_rule: 'public' });
    await ours.ok('POST', `${path}/state`, {
      sender: carol(),
      type: 'm.room.member',
      state_key: carol(),
      content: { membership: 'join' },
    });
    const { position } = await ours.ok('GET', path);
    const levels = { users: { [carol()]: 100 } };
    await expectError(send(path, carol(), 'm.room.power_levels', '', levels), 403, 'M_FORBIDDEN', 'AU-30');
    await expectError(
      send(path, carol(), 'm.room.member', alice, { membership: 'leave' }),
      403,
      'M_FORBIDDEN',
      'AU-21',
    );
    await expectError(send(path, carol(), 'm.room.server_acl', '', {}), 403, 'M_FORBIDDEN', 'AU-30');
    await expectError(send(path, bob, 'm.room.topic', '', {}), 403, 'M_FORBIDDEN');
    await expectError(send(path, `@dan:${ours.name}`, 'm.room.topic', '', {}), 403, 'M_FORBIDDEN', 'AU-30');
    expect(await ours.ok('GET', path)).toMatchObject({ position });
    // With the levels for it, it may.
    const raised = { users: { [alice]: 100, [carol()]: 60 } };
    expect((await send(path, alice, 'm.room.power_levels', '', raised)).status).toBe(200);
    expect((await send(path, carol(), 'm.room.server_acl', '', { allow: ['*'] })).status).toBe(200);
  });

  it.each<[string, JsonObject, number, string]>([
    ['no sender', { sender: null }, 400, 'M_MISSING_PARAM'],
    ['no type', { type: null }, 400, 'M_MISSING_PARAM'],
    ['no state_key', { state_key: null }, 400, 'M_MISSING_PARAM'],
    ['no content', { content: null }, 400, 'M_MISSING_PARAM'],
    ['content that is a list', { content: [] }, 400, 'M_INVALID_PARAM'],
    ['a state_key that is a number', { state_key: 1 }, 400, 'M_INVALID_PARAM'],
    ['a sender that is no user ID', { sender: 'alice' }, 400, 'M_INVALID_PARAM'],
    ['a type of 300 bytes', { type: 'x'.repeat(300) }, 413, 'M_TOO_LARGE'],
    ['content of 70 kB', { content: { x: 'x'.repeat(70_000) } }, 413, 'M_TOO_LARGE'],
    ['a float in a room that has none', { content: { x: new JsonNumber('1.5') } }, 400, 'M_BAD_JSON'],
    ['another create event', { type: 'm.room.create', content: {} }, 400, ''],
  ])('with %s is refused', async (_, more, status, errcode) => {
    const path = await createRoom();
    const { position } = await ours.ok('GET', path);
    const body = { sender: alice, type: 'm.room.topic', state_key: '', content: {}, ...more };
    const answer = await ours.platform('POST', `${path}/state`, body);
    if (errcode === '') expect([400, 403]).toContain(answer.status);
    else expect([answer.status, answer.body]).toMatchObject([status, { errcode }]);
    expect(await ours.ok('GET', path)).toMatchObject({ position });
  });

  it('keeps NUL, awkward keys and awkward texts (CJ-07)', async () => {
    const path = await createRoom();
    const key = 'a\0b\u001f😀';
    const content = parseJson('{"__proto__":{"a":1},"constructor":"\\u0000","":[null,true]}') as JsonObject;
    const answer = await send(path, alice, 'org.example.\0', key, content);
    expect(answer.status).toBe(200);
    const query = new URLSearchParams({ type: 'org.example.\0', state_key: key });
    const { events } = await ours.ok('GET', `${path}/state?${query}`);
    expect(events).toMatchObject([{ event_id: answer.body['event_id'], state_key: key }]);
    expect(Object.entries((events as readonly JsonObject[])[0]!['content']!).sort()).toEqual(
      Object.entries(content).sort(),
    );
  });

  it('of a room that we are not in is 404 (ML-16)', async () => {
    const path = await createRoom();
    await ours.ok('POST', `${path}/state`, {
      sender: alice,
      type: 'm.room.member',
      state_key: alice,
      content: { membership: 'leave' },
    });
    await expectError(send(path, alice, 'm.room.topic', '', {}), 404, 'M_NOT_FOUND', 'ML-16');
    await expectError(send('/v1/rooms/!a%3Ab', alice, 'm.room.topic', '', {}), 404, 'M_NOT_FOUND', 'ML-16');
  });
});

describe('POST /v1/rooms/{roomId}/invites', () => {
  const invite = (path: string, target: string, more: JsonObject = {}) =>
    ours.platform('POST', `${path}/invites`, { sender: alice, target, ...more });

  it('of a local user, with a reason', async () => {
    const path = await createRoom();
    const answer = await invite(path, `@carol:${ours.name}`, { reason: 'come' });
    expect(answer).toEqual({ status: 200, body: { event_id: text } });
    expect(await ours.ok('GET', path)).toMatchObject({ members: { join: 1, invite: 1 } });
  });

  it.each(roomVersionIds)(
    'of a remote user goes through its server, which signs it, in version %s (IN-01, IN-07, IN-10)',
    async (version) => {
      const room = await olgasRoom(version);
      const answer = await invite(room.path(), bob, { reason: 'come' });
      expect(answer).toEqual({ status: 200, body: { event_id: text } });
      const member = (await ours.member(room.roomId, bob))!;
      expect(member).toMatchObject({
        event_id: answer.body['event_id'],
        content: { membership: 'invite', reason: 'come' },
      });
      expect(Object.keys(member['signatures']!).sort()).toEqual([ours.name, remote.name].sort());
      const asked = await remote.received(({ url }) =>
        url.endsWith(
          `/v2/invite/${enc(room.roomId).replace('!', '%21')}/${enc(String(answer.body['event_id']))}`,
        ),
      );
      const body = asked.json as JsonObject;
      expect(Object.keys(body).sort()).toEqual(['event', 'invite_room_state', 'room_version']);
      const shown = body['invite_room_state'] as readonly JsonObject[];
      expect(shown.map(({ type }) => type)).toContain('m.room.create');
      expect(shown.every((pdu) => 'signatures' in pdu && 'auth_events' in pdu)).toBe(true);
    },
  );

  async function peerAnswering(v2: number, body: JsonValue): Promise<RemoteServer> {
    const peer = await startRemoteServer({ host: '127.0.0.5' });
    peer.on('PUT', '/_matrix/federation/v2/invite/', (_, response) => respond(response, v2, body));
    return peer;
  }

  /** Invites a user of the peer, who is not in the room after it; gives the answer. */
  async function inviteInVain(peer: RemoteServer, version = '11') {
    const path = await createRoom({ room_version: version });
    const { position } = await ours.ok('GET', path);
    const answer = await invite(path, `@dan:${peer.name}`);
    expect(await ours.ok('GET', path)).toMatchObject({ position, members: { join: 1, invite: 0 } });
    await peer.close();
    return answer;
  }

  it('that the other server refuses is refused, in its words (IN-06)', async () => {
    const peer = await peerAnswering(403, { errcode: 'M_FORBIDDEN', error: 'dan wants no invites' });
    const answer = await inviteInVain(peer);
    expect([answer.status, answer.body]).toEqual([
      403,
      { errcode: 'M_FORBIDDEN', error: expect.stringContaining('dan wants no invites') },
    ]);
  });

  it('to a server that is gone, or broken, is told as that server being so: 502, never 500', async () => {
    const gone = await peerAnswering(200, {});
    await gone.close();
    const path = await createRoom();
    await expectError(invite(path, `@dan:${gone.name}`), 502, 'M_UNKNOWN');
    const broken = await inviteInVain(await peerAnswering(500, { errcode: 'M_UNKNOWN', error: 'oops' }));
    expect([broken.status, broken.body]).toMatchObject([
      502,
      { errcode: 'M_UNKNOWN', error: expect.stringContaining('oops') },
    ]);
    const hanging = await startRemoteServer({ host: '127.0.0.5' });
    hanging.on('PUT', '/_matrix/federation/', () => {});
    expect(await inviteInVain(hanging)).toMatchObject({ status: 502, body: { errcode: 'M_UNKNOWN' } });
  });

  it.each<[string, (peer: RemoteServer, event: JsonObject) => JsonValue]>([
    ['nothing', () => ({})],
    ['no object', () => []],
    ['the event without its signature', (_, event) => ({ event })],
    [
      'another event',
      (peer, event) => ({
        event: addSignature(
          withKeys(event, { content: { membership: 'join' } }),
          roomVersion('11')!,
          peer.name,
          peer.key,
        ),
      }),
    ],
    [
      'a wrong signature',
      (peer, event) => ({
        event: withKeys(event, {
          signatures: {
            ...(event['signatures'] as JsonObject),
            [peer.name]: { [peer.key.keyId]: 'a'.repeat(86) },
          },
        }),
      }),
    ],
  ])('that is answered with %s is not taken for an invite (IN-11)', async (_, answerOf) => {
    const peer = await startRemoteServer({ host: '127.0.0.5' });
    peer.on('PUT', '/_matrix/federation/v2/invite/', (request, response) =>
      respond(response, 200, answerOf(peer, (request.json as JsonObject)['event'] as JsonObject)),
    );
    const answer = await inviteInVain(peer);
    expect([400, 502]).toContain(answer.status);
    expect(answer.body).toMatchObject({ errcode: text, error: text });
  });

  it.each(['1', '2'])('falls back to v1 with an old server in version %s (IN-02, IN-03)', async (version) => {
    const peer = await peerAnswering(404, { errcode: 'M_UNRECOGNIZED', error: 'no v2 here' });
    peer.on('PUT', '/_matrix/federation/v1/invite/', (request, response) => {
      const event = withoutKeys(request.json as JsonObject, 'unsigned');
      respond(response, 200, [
        200,
        { event: addSignature(event, roomVersion(version)!, peer.name, peer.key) },
      ]);
    });
    const path = await createRoom({ room_version: version });
    const answer = await invite(path, `@dan:${peer.name}`);
    expect(answer).toEqual({ status: 200, body: { event_id: text } });
    const byV1 = await peer.received(({ url }) => url.startsWith('/_matrix/federation/v1/invite/'));
    const shown = ((byV1.json as JsonObject)['unsigned'] as JsonObject)['invite_room_state'];
    expect(shown).toEqual(expect.arrayContaining([expect.objectContaining({ type: 'm.room.create' })]));
    expect(await ours.ok('GET', path)).toMatchObject({ members: { invite: 1 } });
    await peer.close();
  });

  it.each(['3', '11', '12'])('does not fall back to v1 in version %s (IN-03)', async (version) => {
    const peer = await peerAnswering(404, { errcode: 'M_UNRECOGNIZED', error: 'no v2 here' });
    const answer = await inviteInVain(peer, version);
    expect(answer).toMatchObject({ status: 502, body: { errcode: 'M_UNKNOWN' } });
    expect(peer.requests.filter(({ url }) => url.includes('/v1/invite/'))).toEqual([]);
  });

  it('of whom the rules do not let in asks no other server (AU-07)', async () => {
    const room = await olgasRoom('11', (builder) => builder.member(bob, 'ban', alice));
    const asked = remote.requests.length;
    await expectError(invite(room.path(), bob), 403, 'M_FORBIDDEN', 'AU-07');
    await expectError(invite(room.path(), 'bob'), 400, 'M_INVALID_PARAM', 'ID-05');
    await expectError(invite('/v1/rooms/!a%3Ab', bob), 404, 'M_NOT_FOUND', 'ML-16');
    expect(remote.requests.slice(asked).filter(({ url }) => url.includes('/invite/'))).toEqual([]);
  });
});

describe('POST /v1/rooms/{roomId}/explain', () => {
  it('says whether a user may leave and what decides it, and changes nothing', async () => {
    const room = await olgasRoom('11', (builder) => builder.member(bob, 'invite', alice));
    const before = await ours.ok('GET', room.path());
    const explain = (what: JsonObject) => ours.ok('POST', room.path('/explain'), what);
    const keys = (explained: JsonObject): unknown =>
      (explained['state'] as readonly JsonObject[]).map(({ type, state_key: key }) => [type, key]).sort();
    const may = await explain({ user_id: bob });
    expect(may).toEqual({ accepted: true, state: expect.any(Array) });
    expect(keys(may)).toEqual([
      ['m.room.create', ''],
      ['m.room.member', bob],
      ['m.room.power_levels', ''],
    ]);
    const nobody = await explain({ user_id: `@nobody:${remote.name}` });
    expect(nobody).toMatchObject({ accepted: false, refusal: { refused: 'not-authorised', rule: 'AU-20' } });

    const made = (await makeLeave(remote, ours, room.roomId, bob)).json as JsonObject;
    const leave = signTemplate(remote, '11', made['event'] as JsonObject);
    expect(await explain({ pdu: leave.event })).toMatchObject({ accepted: true, content_hash_matches: true });
    const redacted = withKeys(leave.event, { content: { membership: 'leave', reason: 'new' } });
    expect(await explain({ pdu: redacted })).toMatchObject({ accepted: true, content_hash_matches: false });
    const unsigned = withKeys(leave.event, { signatures: {} });
    expect(await explain({ pdu: unsigned })).toMatchObject({
      accepted: false,
      refusal: { refused: 'bad-signature', rule: 'PD-02' },
    });
    expect(await explain({ pdu: { type: 'x' } })).toMatchObject({
      accepted: false,
      refusal: { refused: 'bad-format' },
    });
    expect(await ours.ok('GET', room.path())).toEqual(before);

    await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
    expect(await explain({ user_id: bob })).toMatchObject({ accepted: false, refusal: { rule: 'AC-05' } });
    await room.say('m.room.server_acl', '', { allow: ['*'] });
    await room.say('m.room.member', bob, { membership: 'ban' });
    expect(await explain({ pdu: leave.event })).toMatchObject({
      accepted: false,
      refusal: { refused: 'soft-failed', rule: 'AU-20', state: 'current-state' },
    });
    expect((await sendLeave(remote, ours, leave)).status).toBe(403);
    const after = await ours.ok('GET', room.path());
    expect(await explain({ pdu: leave.event })).toMatchObject({ accepted: false, known: 'soft-failed' });
    expect(await ours.ok('GET', room.path())).toEqual(after);
  });

  it('refuses what it cannot explain', async () => {
    const path = await createRoom();
    await expectError(ours.platform('POST', `${path}/explain`, {}), 400, 'M_MISSING_PARAM');
    await expectError(ours.platform('POST', `${path}/explain`, { pdu: 1 }), 400, 'M_INVALID_PARAM');
    await expectError(ours.platform('POST', `${path}/explain`, { user_id: 'x' }), 400, 'M_INVALID_PARAM');
    const nowhere = '/v1/rooms/!a%3Ab/explain';
    await expectError(ours.platform('POST', nowhere, { user_id: bob }), 404, 'M_NOT_FOUND', 'ML-16');
  });
});

describe('destinations', () => {
  it('are listed, shown alone, and tried at once when told to', async () => {
    const peer = await startRemoteServer({ host: '127.0.0.6' });
    let isUp = false;
    peer.on('PUT', '/_matrix/federation/v1/send/', (_, response) => {
      respond(response, isUp ? 200 : 500, isUp ? { pdus: {} } : { errcode: 'M_UNKNOWN', error: 'down' });
    });
    const room = await importRoom(ours, {
      version: '11',
      peers: [peer],
      grow: (builder) => builder.member(`@paul:${peer.name}`, 'join'),
    });
    await room.say('m.room.topic', '', { topic: 'for paul' });
    const path = `/v1/destinations/${enc(peer.name)}`;
    const failing = await settle('a failure is counted', async () => {
      const shown = (await ours.platform('GET', path)).body;
      return Number(shown['failures'] ?? 0) > 0 ? shown : undefined;
    });
    expect(failing).toMatchObject({
      destination: peer.name,
      pending: 1,
      in_flight: expect.any(Number),
      failures: expect.any(Number),
      retry_at: expect.any(Number),
      last_success_at: null,
      last_error: expect.stringContaining('down'),
    });
    const { destinations } = await ours.ok('GET', '/v1/destinations?limit=10000');
    expect(destinations).toContainEqual(expect.objectContaining({ destination: peer.name, pending: 1 }));
    isUp = true;
    expect((await ours.platform('POST', `${path}/retry`)).status).toBe(200);
    const done = await settle('it is delivered', async () => {
      const shown = await ours.ok('GET', path);
      return shown['pending'] === 0 ? shown : undefined;
    });
    expect(done).toMatchObject({ failures: 0, last_success_at: expect.any(Number) });
    const metrics = await (await fetch(`${ours.platformUrl}/metrics`)).text();
    expect(metrics).toMatch(/^exeunt_delivery_seconds_count\{class="failing"\} [1-9]/m);
    expect(metrics).toMatch(/^exeunt_transactions_total\{outcome="server-error"\} [1-9]/m);
    expect(metrics).toMatch(/^exeunt_delivered_pdus_total\{result="taken"\} [1-9]/m);
    expect(metrics).toMatch(/^exeunt_destinations\{state="idle"\} [1-9]/m);
    await peer.close();
  });

  it('that nothing was ever sent to are 404', async () => {
    await expectError(ours.platform('GET', '/v1/destinations/example.org'), 404, 'M_NOT_FOUND');
    await expectError(ours.platform('POST', '/v1/destinations/example.org/retry'), 404, 'M_NOT_FOUND');
    await expectError(ours.platform('POST', '/v1/destinations/example.org/park'), 404, 'M_NOT_FOUND');
    await expectError(ours.platform('POST', '/v1/destinations/example.org/unpark'), 404, 'M_NOT_FOUND');
  });

  it.each(['limit=x', 'state=asleep', 'state=', 'state=idle&state=parked', 'pending=yes', 'from=a%20b'])(
    'are not listed by %s',
    async (query) => {
      await expectError(ours.platform('GET', `/v1/destinations?${query}`), 400, 'M_INVALID_PARAM');
    },
  );
});

describe('operations', () => {
  const get = async (path: string) => {
    const answer = await fetch(`${ours.platformUrl}${path}`);
    return { status: answer.status, type: answer.headers.get('content-type'), body: await answer.text() };
  };

  it('/healthz and /readyz say so', async () => {
    expect(await get('/healthz')).toMatchObject({ status: 200, body: '{"status":"ok"}' });
    expect(await get('/readyz')).toMatchObject({ status: 200, body: '{"status":"ready"}' });
  });

  it('/metrics counts leaves and templates by outcome and rule', async () => {
    const count = async (name: string, labels: string): Promise<number> => {
      const line = (await get('/metrics')).body
        .split('\n')
        .find((one) => one.startsWith(`${name}{${labels}}`));
      return Number(line?.split(' ').at(-1) ?? 0);
    };
    const counted = () =>
      Promise.all([
        count('exeunt_leaves_total', 'outcome="accepted",rule=""'),
        count('exeunt_leaves_total', 'outcome="refused",rule="SL-03"'),
        count('exeunt_leave_templates_total', 'outcome="given",rule=""'),
        count('exeunt_leave_templates_total', 'outcome="refused",rule="AU-20"'),
      ]);
    const before = await counted();
    const room = await olgasRoom('11', (builder) => builder.member(bob, 'invite', alice));
    const made = (await makeLeave(remote, ours, room.roomId, bob)).json as JsonObject;
    await makeLeave(remote, ours, room.roomId, `@nobody:${remote.name}`);
    const template = made['event'] as JsonObject;
    await sendLeave(remote, ours, signTemplate(remote, '11', template, { content: { membership: 'join' } }));
    await sendLeave(remote, ours, signTemplate(remote, '11', template));
    expect(await counted()).toEqual(before.map((one) => one + 1));
    const metrics = await get('/metrics');
    expect(metrics.type).toMatch(/^text\/plain/);
    expect(metrics.body).toContain('exeunt_outgoing_request_seconds_bucket');
  });

  it('/metrics times requests by route and status, and relayed PDUs from their decision on', async () => {
    const room = await olgasRoom('11', (builder) => builder.member(bob, 'invite', alice));
    const made = (await makeLeave(remote, ours, room.roomId, bob)).json as JsonObject;
    await makeLeave(remote, ours, room.roomId, `@nobody:${remote.name}`);
    await sendLeave(remote, ours, signTemplate(remote, '11', made['event'] as JsonObject));
    const endpoint = 'GET /_matrix/federation/v1/make_leave/:roomId/:userId';
    const expected = [
      `exeunt_incoming_request_seconds_count{endpoint="${endpoint}",status="200"} `,
      `exeunt_incoming_request_seconds_count{endpoint="${endpoint}",status="403"} `,
    ];
    await settle('routes and relay are counted', async () => {
      const { body } = await get('/metrics');
      const isRelayed = /^exeunt_relay_lag_seconds_count [1-9]/m.test(body);
      return (isRelayed && expected.every((line) => body.includes(line))) || undefined;
    });
  });

  it('/docs-json is an OpenAPI document of the routes, and /docs its page', async () => {
    const document = JSON.parse((await get('/docs-json')).body) as JsonObject;
    expect(document).toMatchObject({ openapi: expect.stringMatching(/^3\./), info: { title: text } });
    expect(Object.keys(document['paths']!)).toEqual(
      expect.arrayContaining([
        '/v1/rooms',
        '/v1/rooms/import',
        '/v1/rooms/{roomId}',
        '/v1/rooms/{roomId}/state',
        '/v1/rooms/{roomId}/events',
        '/v1/rooms/{roomId}/invites',
        '/v1/rooms/{roomId}/explain',
        '/v1/destinations',
        '/v1/destinations/{server}',
        '/v1/destinations/{server}/retry',
        '/v1/destinations/{server}/park',
        '/v1/destinations/{server}/unpark',
      ]),
    );
    const page = await get('/docs');
    expect([page.status, page.type]).toEqual([200, expect.stringMatching(/^text\/html/)]);
  });
});
