import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventIdOf, isPduFault, parsePdu, redact, type ServerName } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import {
  isJsonObject,
  JsonNumber,
  selectEd25519,
  verifySignedJson,
  withKeys,
  withoutKeys,
  type JsonObject,
} from '@exeunt/signing';
import { delivered, importRoom } from '../harness/imported-room.js';
import { buildProgram, startLeaveProcess } from '../harness/leave-process.js';
import { freePort, startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { respond, startRemoteServer, type PeerHandler, type RemoteServer } from '../harness/remote-server.js';
import {
  countersigned,
  inviteOurUser,
  leaveTemplateOf,
  membershipsOf,
  roomOf,
  type PeerRoom,
} from '../leaving-harness.js';

let ours: LeaveServer;
let peer: RemoteServer;
let second: RemoteServer;
let bob: string;

const requestTimeoutMs = 600;
const environment = {
  EXEUNT_FEDERATION_TIMEOUT_MS: String(requestTimeoutMs),
  EXEUNT_HANDSHAKE_DEADLINE_MS: '5000',
  EXEUNT_SENDER_BACKOFF_MIN_MS: '20',
  EXEUNT_SENDER_BACKOFF_MAX_MS: '100',
};

beforeAll(async () => {
  ours = await startLeaveServer({ environment });
  peer = await startRemoteServer({ host: '127.0.0.2' });
  second = await startRemoteServer({ host: '127.0.0.3' });
  bob = `@bob:${ours.name}`;
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close(), second?.close()]);
});

const makeLeavePath = (roomId: string) =>
  `/_matrix/federation/v1/make_leave/${encodeURIComponent(roomId).replace('!', '%21')}/`;
const sendLeavePath = (api: string, roomId: string) =>
  `/_matrix/federation/${api}/send_leave/${encodeURIComponent(roomId).replace('!', '%21')}/`;

const template = (room: PeerRoom, server: ServerName, userId = bob): JsonObject =>
  leaveTemplateOf(room, server, userId);

/** The peer answers `make_leave` of the room with this. */
function givesTemplate(resident: RemoteServer, roomId: string, answer: JsonObject | PeerHandler): void {
  resident.on('GET', makeLeavePath(roomId), (request, response) =>
    typeof answer === 'function' ? answer(request, response) : respond(response, 200, answer),
  );
}

/** The leaves that a resident has taken in, for it looks at them as a good one does. */
function takesLeaves(
  resident: RemoteServer,
  room: PeerRoom,
  server = ours,
): { readonly taken: JsonObject[] } {
  const taken: JsonObject[] = [];
  resident.on('PUT', sendLeavePath('v2', room.roomId), (request, response) => {
    const pdu = parsePdu(request.json as JsonObject, room.builder.version);
    if (isPduFault(pdu)) return respond(response, 400, { errcode: 'M_BAD_JSON', error: pdu.detail });
    expect(decodeURIComponent(request.url.split('/').at(-1)!)).toBe(pdu.eventId);
    const { signingKey } = server.running.platform.side;
    const publicKey = selectEd25519().publicKeyOf(signingKey.seed);
    const signed = redact(pdu.json, room.builder.version);
    expect(verifySignedJson(signed, server.name, signingKey.keyId, publicKey)).toBe(true);
    const { refusal } = room.builder.receive(pdu);
    if (refusal !== undefined)
      return respond(response, 403, { errcode: 'M_FORBIDDEN', error: refusal.detail });
    taken.push(pdu.json);
    return respond(response, 200, {});
  });
  return { taken };
}

/** A room of the peer's into which bob is invited; the peer's own state has the invite. */
async function invited(version = '11', userId = bob, server = ours): Promise<PeerRoom> {
  const room = roomOf(peer, version);
  const invite = await inviteOurUser(peer, server, room, userId);
  const pdu = parsePdu(countersigned(server, invite), room.builder.version);
  if (isPduFault(pdu)) throw new Error(pdu.detail);
  expect(room.builder.receive(pdu).refusal).toBeUndefined();
  return room;
}

function leave(roomId: string, more: JsonObject = {}, server = ours) {
  return server.platform('POST', '/v1/leaves', { user_id: `@bob:${server.name}`, room_id: roomId, ...more });
}

/** The leave when its status is one of these. */
function standing(leaveId: unknown, ...statuses: readonly string[]): Promise<JsonObject> {
  return settle(`the leave is ${statuses.join(' or ')}`, async () => {
    const found = await ours.ok('GET', `/v1/leaves/${String(leaveId)}`);
    return statuses.includes(String(found['status'])) ? found : undefined;
  });
}

const invitesOf = async (userId = bob) =>
  ((await membershipsOf(ours, userId))['invites'] as readonly JsonObject[]).map(
    ({ room_id: roomId }) => roomId,
  );

/** Everything with our signature in it that ever reached a peer: nothing but leaves of bob from that room. */
function signedByUs(roomId: string): readonly JsonObject[] {
  return [...peer.requests, ...second.requests].flatMap(({ url, json }) => {
    if (!url.includes('/send_leave/') || !isJsonObject(json) || json['room_id'] !== roomId) return [];
    expect(withoutKeys(json, 'hashes', 'signatures', 'auth_events', 'prev_events', 'depth')).toEqual({
      content: { membership: 'leave' },
      origin_server_ts: expect.any(Number),
      room_id: roomId,
      sender: bob,
      state_key: bob,
      type: 'm.room.member',
    });
    return [json];
  });
}

describe.each(roomVersionIds)('an invite of version %s is rejected', (version) => {
  it('the resident takes our leave, with its reason, and the user is out', async () => {
    const room = await invited(version);
    expect(await invitesOf()).toContain(room.roomId);
    givesTemplate(peer, room.roomId, template(room, peer.name));
    const { taken } = takesLeaves(peer, room);
    const answer = await leave(room.roomId, { reason: 'not for me' });
    expect(answer).toMatchObject({ status: 200, body: { status: 'completed', how: 'accepted' } });
    expect(taken).toHaveLength(1);
    expect(taken[0]).toMatchObject({ content: { membership: 'leave', reason: 'not for me' } });
    expect(answer.body['event_id']).toBe(eventIdOf(taken[0]!, roomVersion(version)!));
    expect(room.builder.room.membership(room.builder.room.currentState(), bob)).toBe('leave');
    expect(await invitesOf()).not.toContain(room.roomId);
    // Once more is the same success, and asks nobody.
    const asked = peer.requests.length;
    expect(await leave(room.roomId)).toMatchObject({
      status: 200,
      body: { leave_id: answer.body['leave_id'] },
    });
    expect(peer.requests.length).toBe(asked);
  });
});

describe('a hostile template', () => {
  const hash43 = 'A'.repeat(43);
  const many = (count: number) =>
    Array.from({ length: count }, (_, at) => `$${String(at).padStart(43, 'A')}`);
  const rows: readonly (readonly [string, (answer: JsonObject) => JsonObject])[] = [
    ['another membership', (event) => withKeys(event, { content: { membership: 'join' } })],
    [
      'a user of the resident',
      (event) => withKeys(event, { sender: `@eve:${peer.name}`, state_key: `@eve:${peer.name}` }),
    ],
    [
      'another user of ours',
      (event) => withKeys(event, { sender: `@ann:${ours.name}`, state_key: `@ann:${ours.name}` }),
    ],
    ['a kick by our user', (event) => withKeys(event, { state_key: `@eve:${peer.name}` })],
    ['another room', (event) => withKeys(event, { room_id: `!other:${peer.name}` })],
    [
      'power levels',
      (event) => withKeys(event, { type: 'm.room.power_levels', state_key: '', content: { users: {} } }),
    ],
    ['no state_key', (event) => withoutKeys(event, 'state_key')],
    ['30 auth events', (event) => withKeys(event, { auth_events: many(30) })],
    ['2000 prev events', (event) => withKeys(event, { prev_events: many(2000) })],
    ['references that are objects', (event) => withKeys(event, { prev_events: [{ sign: 'me' }] })],
    ['a depth out of range', (event) => withKeys(event, { depth: new JsonNumber('9007199254740992') })],
    ['content that is a list', (event) => withKeys(event, { content: ['leave'] })],
  ];
  it.each(rows)(
    '%s: nothing is signed, the user is out, and in the end it counts as refused',
    async (_, change) => {
      const room = await invited();
      const good = template(room, peer.name);
      givesTemplate(peer, room.roomId, withKeys(good, { event: change(good['event'] as JsonObject) }));
      const answer = await leave(room.roomId);
      expect([200, 202]).toContain(answer.status);
      expect(await invitesOf()).not.toContain(room.roomId);
      const end = await standing(answer.body['leave_id'], 'refused');
      expect(end['steps']).toContainEqual(
        expect.objectContaining({ step: 'template-refused', server: peer.name }),
      );
      expect(signedByUs(room.roomId)).toEqual([]);
    },
  );

  it.each<readonly [string, JsonObject]>([
    [
      'extra keys in the content',
      { content: { membership: 'leave', extra: 1, join_authorised_via_users_server: '@a:b' } },
    ],
    ['keys that the version does not have', { redacts: `$${hash43}`, 'top level extra': 1, prev_state: [] }],
    ['an event_id of theirs', { event_id: '$theirs:evil.example' }],
    [
      'hashes and signatures',
      { hashes: { sha256: 'x' }, signatures: { x: { 'ed25519:1': 'x' } }, unsigned: { age: 1 } },
    ],
  ])('%s: signed without them', async (_, changes) => {
    const room = await invited();
    const good = template(room, peer.name);
    givesTemplate(
      peer,
      room.roomId,
      withKeys(good, { event: withKeys(good['event'] as JsonObject, changes) }),
    );
    takesLeaves(peer, room);
    expect((await leave(room.roomId)).body).toMatchObject({ status: 'completed' });
    expect(signedByUs(room.roomId)).toHaveLength(1);
  });
});

describe('the room version', () => {
  it('that is unknown: refused at once, nothing signed', async () => {
    const room = await invited();
    givesTemplate(peer, room.roomId, withKeys(template(room, peer.name), { room_version: 'org.example.1' }));
    expect(await leave(room.roomId)).toMatchObject({ status: 200, body: { status: 'refused' } });
    expect(signedByUs(room.roomId)).toEqual([]);
  });

  it('that is missing where the invite named one: refused', async () => {
    const room = await invited('11');
    givesTemplate(peer, room.roomId, withoutKeys(template(room, peer.name), 'room_version'));
    const answer = await leave(room.roomId);
    await standing(answer.body['leave_id'], 'refused');
    expect(signedByUs(room.roomId)).toEqual([]);
  });

  it('that is missing for a room that only the caller knows: the form of version 1', async () => {
    const room = roomOf(peer, '1', 'public');
    givesTemplate(peer, room.roomId, withoutKeys(template(room, peer.name), 'room_version'));
    peer.on('PUT', sendLeavePath('v2', room.roomId), (_, response) => respond(response, 200, {}));
    expect((await leave(room.roomId, { via: [peer.name] })).body).toMatchObject({ status: 'completed' });
    const [sent] = peer.requests.filter(({ url }) => url.startsWith(sendLeavePath('v2', room.roomId)));
    expect((sent!.json as JsonObject)['event_id']).toMatch(new RegExp(`:${ours.name}$`));
  });
});

describe('a resident whose make_leave', () => {
  const fails: readonly (readonly [string, string, PeerHandler])[] = [
    [
      'answers 403',
      'refused',
      (_, response) => respond(response, 403, { errcode: 'M_FORBIDDEN', error: 'no' }),
    ],
    [
      'answers 404 M_NOT_FOUND',
      'refused',
      (_, response) => respond(response, 404, { errcode: 'M_NOT_FOUND', error: 'no' }),
    ],
    [
      'answers 404 without JSON',
      'retrying',
      (_, response) => void response.writeHead(404).end('<h1>no</h1>'),
    ],
    [
      'answers 405',
      'refused',
      (_, response) => respond(response, 405, { errcode: 'M_UNRECOGNIZED', error: 'no' }),
    ],
    [
      'answers 500',
      'retrying',
      (_, response) => respond(response, 500, { errcode: 'M_UNKNOWN', error: 'no' }),
    ],
    [
      'answers 429',
      'retrying',
      (_, response) => respond(response, 429, { errcode: 'M_LIMIT_EXCEEDED', error: 'no' }),
    ],
    ['never answers', 'retrying', () => {}],
    [
      'redirects',
      'retrying',
      (_, response) => void response.writeHead(302, { location: `https://${second.name}/` }).end(),
    ],
    [
      'answers 10 MB of JSON',
      'retrying',
      (_, response) => respond(response, 200, { event: 'x'.repeat(10_000_000) }),
    ],
    ['breaks off', 'retrying', (_, response) => void response.destroy()],
  ];
  it.each(fails)('%s: out all the same, nothing is signed, and it is %s', async (_, status, handler) => {
    const room = await invited();
    const seen = second.requests.length;
    givesTemplate(peer, room.roomId, handler);
    const answer = await leave(room.roomId);
    expect(answer).toMatchObject({ status: 202, body: { status: 'retrying' } });
    expect(await invitesOf()).not.toContain(room.roomId);
    const leaveId = String(answer.body['leave_id']);
    const end = await standing(leaveId, status);
    if (status === 'retrying') {
      expect(end['next_attempt_at']).toEqual(expect.any(Number));
      expect(await ours.ok('GET', '/v1/leaves?status=retrying&limit=1000')).toMatchObject({
        leaves: expect.arrayContaining([expect.objectContaining({ leave_id: leaveId })]),
      });
      expect((await membershipsOf(ours, bob))['leaves']).toContainEqual(
        expect.objectContaining({ leave_id: leaveId, room_id: room.roomId }),
      );
      await ours.ok('POST', `/v1/leaves/${leaveId}/cancel`);
      await standing(leaveId, 'cancelled');
    }
    expect(signedByUs(room.roomId)).toEqual([]);
    expect(second.requests.length).toBe(seen);
  });
});

describe('a resident whose send_leave', () => {
  it('takes the leave and then never answers: the same one is sent again, and that is a success', async () => {
    const room = await invited();
    givesTemplate(peer, room.roomId, template(room, peer.name));
    const { taken } = takesLeaves(peer, room);
    let isFirst = true;
    peer.on('PUT', sendLeavePath('v2', room.roomId), (request, response) => {
      if (isFirst) {
        isFirst = false;
        taken.push(request.json as JsonObject);
        return;
      }
      respond(response, 200, {});
    });
    const answer = await leave(room.roomId);
    expect(answer.status).toBe(202);
    await standing(answer.body['leave_id'], 'completed');
    const sent = signedByUs(room.roomId);
    expect(sent).toHaveLength(2);
    expect(sent[1]).toEqual(sent[0]);
  });

  it.each<readonly [string, PeerHandler]>([
    [
      'is not there: 404 M_UNRECOGNIZED',
      (_, response) => respond(response, 404, { errcode: 'M_UNRECOGNIZED', error: '' }),
    ],
    ['is not there: 404 without JSON', (_, response) => void response.writeHead(404).end()],
    ['is not there: 405', (_, response) => respond(response, 405, { errcode: 'M_UNRECOGNIZED', error: '' })],
    [
      'is not there: 400 M_UNRECOGNIZED',
      (_, response) => respond(response, 400, { errcode: 'M_UNRECOGNIZED', error: '' }),
    ],
  ])('%s: v1 takes it', async (_, handler) => {
    const room = await invited();
    givesTemplate(peer, room.roomId, template(room, peer.name));
    peer.on('PUT', sendLeavePath('v2', room.roomId), handler);
    peer.on('PUT', sendLeavePath('v1', room.roomId), (_, response) => respond(response, 200, [200, {}]));
    expect((await leave(room.roomId)).body).toMatchObject({ status: 'completed' });
    const [byV2, byV1] = signedByUs(room.roomId);
    expect(byV1).toEqual(byV2);
  });

  it.each<readonly [string, JsonObject]>([
    ['403 M_FORBIDDEN', { errcode: 'M_FORBIDDEN', error: '' }],
    ['404 M_NOT_FOUND', { errcode: 'M_NOT_FOUND', error: '' }],
    ['400 M_INVALID_PARAM', { errcode: 'M_INVALID_PARAM', error: '' }],
  ])('%s: no v1; another candidate is asked for a new template', async (name, body) => {
    const room = await invited();
    givesTemplate(peer, room.roomId, template(room, peer.name));
    peer.on('PUT', sendLeavePath('v2', room.roomId), (_, response) =>
      respond(response, Number(name.slice(0, 3)), body),
    );
    givesTemplate(second, room.roomId, template(room, second.name));
    takesLeaves(second, room);
    const answer = await leave(room.roomId, { via: [second.name] });
    expect(answer.body).toMatchObject({ status: 'completed' });
    expect(peer.requests.filter(({ url }) => url.startsWith(sendLeavePath('v1', room.roomId)))).toEqual([]);
    expect(signedByUs(room.roomId)).toHaveLength(2);
  });
});

describe('three candidates, the first two dead', () => {
  it('the third takes the leave within the deadline, and the user is out before', async () => {
    const room = await invited();
    givesTemplate(peer, room.roomId, () => {});
    givesTemplate(second, room.roomId, template(room, second.name));
    let wasOut: unknown;
    second.on('PUT', sendLeavePath('v2', room.roomId), async (_, response) => {
      wasOut = !(await invitesOf()).includes(room.roomId);
      respond(response, 200, {});
    });
    const answer = await leave(room.roomId, { via: ['127.0.0.9:1', second.name] });
    expect(answer).toMatchObject({ status: 200, body: { status: 'completed' } });
    expect(wasOut).toBe(true);
  });
});

describe('a leave that this server decides itself', () => {
  it.each(['join', 'invite', 'knock'])(
    'of a user whose membership is %s: broadcast, and on record',
    async (membership) => {
      const imported = await importRoom(ours, {
        version: '11',
        peers: [peer],
        joinRule: membership === 'knock' ? 'knock' : 'public',
        grow(builder, alice) {
          if (membership !== 'knock') builder.member(`@ian:${peer.name}`, 'join');
          if (membership === 'invite') builder.member(bob, 'invite', alice);
          else builder.member(bob, membership);
        },
      });
      const kind = { join: 'joins', invite: 'invites', knock: 'knocks' }[membership]!;
      expect((await membershipsOf(ours, bob))[kind]).toContainEqual(
        expect.objectContaining({ room_id: imported.roomId }),
      );
      const answer = await leave(imported.roomId, { reason: 'done' });
      expect(answer).toMatchObject({ status: 200, body: { status: 'completed', how: 'decided-here' } });
      expect(await ours.member(imported.roomId, bob)).toMatchObject({
        event_id: answer.body['event_id'],
        content: { membership: 'leave', reason: 'done' },
      });
      expect((await membershipsOf(ours, bob))[kind]).not.toContainEqual(
        expect.objectContaining({ room_id: imported.roomId }),
      );
      if (membership !== 'knock') {
        const event = (await ours.member(imported.roomId, bob))!;
        expect(await delivered(peer, event)).toMatchObject({ state_key: bob });
      }
      const position = await imported.position();
      expect(await leave(imported.roomId)).toMatchObject({ status: 200, body: { status: 'completed' } });
      expect(await imported.position()).toBe(position);
    },
  );

  it('of a user who never was in the room: out already', async () => {
    const imported = await importRoom(ours, { version: '11' });
    expect(await leave(imported.roomId)).toMatchObject({ status: 200, body: { how: 'already-out' } });
  });
});

describe('a join by the platform', () => {
  it('makes the user a member, who may then leave', async () => {
    const imported = await importRoom(ours, { version: '11', joinRule: 'public' });
    const joined = await ours.ok('POST', imported.path('/joins'), { user_id: bob });
    expect(await ours.member(imported.roomId, bob)).toMatchObject({ event_id: joined['event_id'] });
    expect((await membershipsOf(ours, bob))['joins']).toContainEqual(
      expect.objectContaining({ room_id: imported.roomId, event_id: String(joined['event_id']) }),
    );
    expect((await leave(imported.roomId)).body).toMatchObject({ how: 'decided-here' });
  });

  it('of a room that this server is not in, or that is not open, is refused', async () => {
    expect((await ours.platform('POST', `/v1/rooms/!no%3A${peer.name}/joins`, { user_id: bob })).status).toBe(
      404,
    );
    const imported = await importRoom(ours, { version: '11', joinRule: 'invite' });
    expect((await ours.platform('POST', imported.path('/joins'), { user_id: bob })).status).toBe(403);
  });
});

describe('what is asked wrongly', () => {
  it.each<readonly [string, JsonObject, number]>([
    ['no user', { room_id: '!a:b' }, 400],
    ['a user of another server', { user_id: '@eve:b', room_id: '!a:b' }, 403],
    ['no room', { user_id: '@bob:b' }, 400],
    ['a room that is no ID', { user_id: '@bob:b', room_id: 'a' }, 400],
    ['servers that are none', { user_id: '@bob:b', room_id: '!a:b', via: ['not a server'] }, 400],
  ])('%s', async (_, body, status) => {
    expect((await ours.platform('POST', '/v1/leaves', body)).status).toBe(status);
  });

  it('a leave that nobody knows', async () => {
    expect((await ours.platform('GET', '/v1/leaves/nope')).status).toBe(404);
    expect((await ours.platform('GET', '/v1/leaves/%00')).status).toBe(404);
    expect((await ours.platform('POST', '/v1/leaves/nope/retry')).status).toBe(404);
    expect((await ours.platform('GET', '/v1/leaves?status=lost')).status).toBe(400);
  });

  it('a room that nobody knows is left already', async () => {
    expect(await leave(`!nobody:${peer.name}`)).toMatchObject({ status: 200, body: { how: 'already-out' } });
  });
});

describe('a restart', () => {
  it('goes on where it was: the room was away, and is told by the next process', async () => {
    const dataDirectory = await mkdtemp(join(tmpdir(), 'exeunt-leaving-'));
    try {
      const first = await startLeaveServer({ dataDirectory, environment });
      const room = await invited('11', `@bob:${first.name}`, first);
      let isBack = false;
      givesTemplate(peer, room.roomId, (_, response) =>
        isBack
          ? respond(response, 200, template(room, peer.name, `@bob:${first.name}`))
          : respond(response, 503, {}),
      );
      const { taken } = takesLeaves(peer, room, first);
      const answer = await leave(room.roomId, {}, first);
      expect(answer.status).toBe(202);
      const port = first.name.split(':')[1]!;
      await first.stop();
      isBack = true;
      const again = await startLeaveServer({
        dataDirectory,
        environment: { ...environment, EXEUNT_SERVER_NAME: first.name, EXEUNT_FEDERATION_PORT: port },
      });
      await settle('the leave at the resident', () => (taken.length === 1 ? true : undefined));
      await settle('its record', async () => {
        const found = await again.ok('GET', `/v1/leaves/${String(answer.body['leave_id'])}`);
        return found['status'] === 'completed' ? true : undefined;
      });
      await again.stop();
    } finally {
      await rm(dataDirectory, { recursive: true, force: true });
    }
  }, 120_000);
});

describe('a process that is killed', () => {
  it('while it asks, while it sends, and when it has been answered: the next one finishes, with one leave', async () => {
    await buildProgram();
    const dataDirectory = await mkdtemp(join(tmpdir(), 'exeunt-leaving-kill-'));
    const ports = {
      federationPort: await freePort('127.0.0.1'),
      platformPort: await freePort('127.0.0.1'),
    };
    let running = await startLeaveProcess({ dataDirectory, ...ports });
    try {
      for (const moment of ['make_leave', 'send_leave', 'answered'] as const) {
        const carol = `@carol:${running.name}`;
        const room = roomOf(peer, '11');
        await inviteOurUser(peer, running, room, carol);
        let isBack = false;
        const reached = new Promise<void>((resolve) => {
          givesTemplate(peer, room.roomId, (_, response) => {
            if (moment === 'make_leave' && !isBack) return resolve();
            respond(response, 200, template(room, peer.name, carol));
          });
          peer.on('PUT', sendLeavePath('v2', room.roomId), (_, response) => {
            if (moment === 'send_leave' && !isBack) return resolve();
            respond(response, 200, {});
            resolve();
          });
        });
        const asked = running
          .ok('POST', '/v1/leaves', { user_id: carol, room_id: room.roomId })
          .catch(() => undefined);
        await reached;
        await running.kill();
        await asked;
        isBack = true;
        running = await startLeaveProcess({ dataDirectory, ...ports });
        const path = `/v1/users/${encodeURIComponent(carol)}/memberships`;
        await settle(`the leave after the kill at ${moment}`, async () => {
          const { invites, leaves } = await running.ok('GET', path);
          expect(invites).toEqual([]);
          return (leaves as readonly JsonObject[]).length === 0 ? true : undefined;
        });
        const { leaves } = await running.ok('GET', '/v1/leaves?status=completed&limit=1000');
        expect(leaves).toContainEqual(expect.objectContaining({ room_id: room.roomId }));
        const sent = peer.requests.filter(({ url }) => url.startsWith(sendLeavePath('v2', room.roomId)));
        expect(new Set(sent.map(({ body }) => body.toString())).size).toBe(1);
      }
    } finally {
      await running.kill();
      await rm(dataDirectory, { recursive: true, force: true });
    }
  }, 240_000);
});
