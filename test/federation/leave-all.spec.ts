import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generateSigningKeyLine, seedBytes } from '@exeunt/key-ring';
import { isJsonObject, type JsonObject } from '@exeunt/signing';
import { buildProgram, startLeaveProcess, type LeaveProcess } from '../harness/leave-process.js';
import { freePort, startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { findPostgres, startPostgres } from '../harness/postgres-server.js';
import { respond, startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { inviteOurUser, leaveTemplateOf, roomOf, type PeerRoom } from '../leaving-harness.js';

/** In this process, or one of its own. */
type Ours = LeaveServer | LeaveProcess;

let ours: LeaveServer;
/** Takes every leave. */
let alive: RemoteServer;
/** Answers nothing, after it has invited. */
let dead: RemoteServer;
/** Refuses every leave. */
let stubborn: RemoteServer;

beforeAll(async () => {
  ours = await startLeaveServer({
    environment: {
      EXEUNT_FEDERATION_TIMEOUT_MS: '600',
      EXEUNT_SENDER_BACKOFF_MIN_MS: '20',
      EXEUNT_SENDER_BACKOFF_MAX_MS: '100',
    },
  });
  alive = await startRemoteServer({ host: '127.0.0.2' });
  dead = await startRemoteServer({ host: '127.0.0.3' });
  stubborn = await startRemoteServer({ host: '127.0.0.4' });
  stubborn.on('GET', '/_matrix/federation/v1/make_leave/', (_, response) =>
    respond(response, 403, { errcode: 'M_FORBIDDEN', error: 'stay' }),
  );
});
afterAll(async () => {
  await Promise.all([ours?.stop(), alive?.close(), dead?.close(), stubborn?.close()]);
});

const userPath = (userId: string, what: string): string => `/v1/users/${encodeURIComponent(userId)}/${what}`;

function runOf(server: Ours, userId: string, query = ''): Promise<JsonObject> {
  return server.ok('GET', `${userPath(userId, 'leave-all')}${query}`);
}

const completed = (server: Ours, userId: string): Promise<JsonObject> =>
  settle(
    'the run is completed',
    async () => {
      const run = await runOf(server, userId, '?limit=1');
      return run['status'] === 'completed' ? run : undefined;
    },
    180_000,
  );

/** A room that `creator` made here, and its path. */
async function roomHere(server: Ours, creator: string, more: JsonObject = {}): Promise<string> {
  return String((await server.ok('POST', '/v1/rooms', { creator, ...more }))['room_id']);
}

async function knockHere(server: Ours, userId: string): Promise<string> {
  const roomId = await roomHere(server, `@alice:${server.name}`, { join_rule: 'knock', room_version: '11' });
  await server.ok('POST', `/v1/rooms/${encodeURIComponent(roomId)}/state`, {
    sender: userId,
    type: 'm.room.member',
    state_key: userId,
    content: { membership: 'knock' },
  });
  return roomId;
}

async function inviteFrom(peer: RemoteServer, server: Ours, userId: string): Promise<PeerRoom> {
  const room = roomOf(peer, '11');
  await inviteOurUser(peer, server, room, userId);
  return room;
}

async function times<T>(count: number, make: (at: number) => Promise<T>): Promise<readonly T[]> {
  const made: T[] = [];
  for (let at = 0; at < count; at++) made.push(await make(at));
  return made;
}

/** The user's own leaves in a room of ours. */
async function leavesIn(server: Ours, roomId: string, userId: string): Promise<number> {
  const { events } = await server.ok('GET', `/v1/rooms/${encodeURIComponent(roomId)}/events?limit=10000`);
  return (events as readonly JsonObject[]).filter(
    ({ pdu }) =>
      isJsonObject(pdu) &&
      pdu['sender'] === userId &&
      isJsonObject(pdu['content']) &&
      pdu['content']['membership'] === 'leave',
  ).length;
}

async function expectNowhere(server: Ours, userId: string): Promise<void> {
  const { joins, invites, knocks } = await server.ok('GET', userPath(userId, 'memberships'));
  expect([joins, invites, knocks]).toEqual([[], [], []]);
}

it('a user of 70 rooms leaves them: joined, invited and knocked, here and from afar, servers dead and alive', async () => {
  const mila = `@mila:${ours.name}`;
  const joined = await times(30, () => roomHere(ours, mila));
  const invitedHere = await times(8, () => roomHere(ours, `@alice:${ours.name}`, { invite: [mila] }));
  const knocked = await times(8, () => knockHere(ours, mila));
  const fromAlive = await times(10, () => inviteFrom(alive, ours, mila));
  const fromDead = await times(10, () => inviteFrom(dead, ours, mila));
  const fromStubborn = await times(4, () => inviteFrom(stubborn, ours, mila));
  const byId = new Map(fromAlive.map((room) => [room.roomId, room]));
  alive.on('GET', '/_matrix/federation/v1/make_leave/', ({ url }, response) =>
    respond(
      response,
      200,
      leaveTemplateOf(byId.get(decodeURIComponent(url.split('/')[5]!))!, alive.name, mila),
    ),
  );
  alive.on('PUT', '/_matrix/federation/v2/send_leave/', (_, response) => respond(response, 200, {}));
  await dead.close();

  const answer = await ours.platform('POST', userPath(mila, 'leave-all'), { reason: 'moves house' });
  expect([answer.status, answer.body]).toMatchObject([
    202,
    { user_id: mila, status: 'running', total: 70, refused: 0, include: ['join', 'invite', 'knock'] },
  ]);
  const again = await ours.platform('POST', userPath(mila, 'leave-all'), {});
  expect(again.body['leave_all_id']).toBe(answer.body['leave_all_id']);

  expect(await completed(ours, mila)).toMatchObject({
    total: 70,
    waiting: 0,
    left: 70,
    reason: 'moves house',
  });
  await expectNowhere(ours, mila);
  for (const roomId of [...joined, ...invitedHere, ...knocked]) {
    expect(await leavesIn(ours, roomId, mila)).toBe(1);
    const member = await ours.member(roomId, mila);
    // Of a room that nobody here is in any more, the state is still there to be asked for.
    expect(member?.['content']).toEqual({ membership: 'leave', reason: 'moves house' });
  }
  const known = await settle('who can be told is told', async () => {
    const run = await runOf(ours, mila);
    return run['retrying'] === 10 && run['refused'] === 4 ? run : undefined;
  });
  const rooms = known['rooms'] as readonly JsonObject[];
  expect(new Set(rooms.map((room) => room['room_id']))).toEqual(
    new Set([...fromDead, ...fromStubborn].map(({ roomId }) => roomId)),
  );
  for (const room of rooms) {
    const isRefused = fromStubborn.some(({ roomId }) => roomId === room['room_id']);
    expect(room).toMatchObject({
      membership: 'invite',
      status: isRefused ? 'refused' : 'retrying',
      servers: [{ server: isRefused ? stubborn.name : dead.name, detail: expect.any(String) }],
    });
    if (isRefused) expect(JSON.stringify(room['servers'])).toContain('stay');
    expect(typeof room['next_attempt_at']).toBe(isRefused ? 'undefined' : 'number');
    const record = await ours.ok('GET', `/v1/leaves/${String(room['leave_id'])}`);
    expect(record).toMatchObject({ room_id: room['room_id'], user_id: mila, status: room['status'] });
  }
  for (const { roomId } of fromAlive) {
    const path = encodeURIComponent(roomId).replace('!', '%21');
    const { json } = await alive.received(({ url }) => url.includes(`/v2/send_leave/${path}/`));
    expect((json as JsonObject)['content']).toEqual({ membership: 'leave', reason: 'moves house' });
  }
});

describe('what is still open is told a page at a time', () => {
  it('in order of the rooms, each once', async () => {
    const nora = `@nora:${ours.name}`;
    const silent = await startRemoteServer({ host: '127.0.0.5' });
    const rooms = await times(7, () => inviteFrom(silent, ours, nora));
    await silent.close();
    await ours.ok('POST', userPath(nora, 'leave-all'), {});
    await completed(ours, nora);
    const seen: unknown[] = [];
    let from = '';
    for (let pages = 0; pages < 5; pages++) {
      const page = await runOf(ours, nora, `?limit=3${from}`);
      seen.push(...(page['rooms'] as readonly JsonObject[]).map((room) => room['room_id']));
      if (page['next'] === undefined) break;
      from = `&from=${encodeURIComponent(String(page['next']))}`;
    }
    expect(seen).toEqual(rooms.map(({ roomId }) => roomId).sort());
  });
});

describe('what a call may ask for', () => {
  const olaf = () => `@olaf:${ours.name}`;

  it('is some of the memberships', async () => {
    const kept = await roomHere(ours, olaf());
    const asked = await roomHere(ours, `@alice:${ours.name}`, { invite: [olaf()] });
    await ours.ok('POST', userPath(olaf(), 'leave-all'), { include: ['knock', 'invite', 'invite'] });
    expect(await completed(ours, olaf())).toMatchObject({ total: 1, include: ['invite', 'knock'] });
    const { joins, invites } = await ours.ok('GET', userPath(olaf(), 'memberships'));
    expect(joins).toMatchObject([{ room_id: kept }]);
    expect([invites, await leavesIn(ours, asked, olaf())]).toEqual([[], 1]);
  });

  it('is nothing that there is: the run is over at once', async () => {
    const answer = await ours.platform('POST', userPath(`@nobody:${ours.name}`, 'leave-all'));
    expect([answer.status, answer.body]).toMatchObject([202, { status: 'completed', total: 0 }]);
  });

  it('is asked for again when it is over: what there is by then', async () => {
    const pia = `@pia:${ours.name}`;
    const first = await ours.ok('POST', userPath(pia, 'leave-all'));
    await roomHere(ours, pia);
    const second = await ours.ok('POST', userPath(pia, 'leave-all'));
    expect(second['leave_all_id']).not.toBe(first['leave_all_id']);
    expect(await completed(ours, pia)).toMatchObject({ total: 1, left: 1 });
  });

  it.each<[string, () => string, JsonObject | undefined, number, string]>([
    ['of a user of another server', () => '@bob:elsewhere.example', {}, 403, 'M_FORBIDDEN'],
    ['of what is no user', () => 'bob', {}, 400, 'M_INVALID_PARAM'],
    ['with an include that is no list', olaf, { include: 'join' }, 400, 'M_INVALID_PARAM'],
    ['with an empty include', olaf, { include: [] }, 400, 'M_INVALID_PARAM'],
    ['with a membership that cannot be left', olaf, { include: ['join', 'ban'] }, 400, 'M_INVALID_PARAM'],
    ['with an object for a membership', olaf, { include: [{}] }, 400, 'M_INVALID_PARAM'],
    ['with a reason that is no text', olaf, { reason: 1 }, 400, 'M_INVALID_PARAM'],
    ['with a reason of 40 kB', olaf, { reason: 'x'.repeat(40_000) }, 413, 'M_TOO_LARGE'],
  ])('is not a call %s', async (_, userId, body, status, errcode) => {
    const answer = await ours.platform('POST', userPath(userId(), 'leave-all'), body);
    expect([answer.status, answer.body['errcode']]).toEqual([status, errcode]);
  });

  it.each([
    ['', 404],
    ['?limit=0', 400],
    ['?limit=x', 400],
    ['?from=nowhere', 400],
  ])('GET%s of a user who was never told to is %s', async (query, status) => {
    const answer = await ours.platform('GET', `${userPath(`@never:${ours.name}`, 'leave-all')}${query}`);
    expect(answer.status).toBe(status);
  });

  it('is for those with the token', async () => {
    for (const method of ['GET', 'POST']) {
      const response = await fetch(`${ours.platformUrl}${userPath(olaf(), 'leave-all')}`, { method });
      expect(response.status).toBe(401);
    }
  });
});

describe('the process is killed in the middle', () => {
  const count = 80;

  /** A user of many rooms, some invites of a dead server among them. */
  async function prepare(
    server: Ours,
  ): Promise<{ readonly userId: string; readonly rooms: readonly string[] }> {
    const userId = `@rosa:${server.name}`;
    const rooms = await times(count - 10, async (at) =>
      at % 10 === 0
        ? knockHere(server, userId)
        : at % 3 === 0
          ? roomHere(server, `@alice:${server.name}`, { invite: [userId] })
          : roomHere(server, userId),
    );
    const gone = await startRemoteServer({ host: '127.0.0.6' });
    await times(10, () => inviteFrom(gone, server, userId));
    await gone.close();
    return { userId, rooms };
  }

  /** Begins the run and kills the process when some rooms are left and some are not. */
  async function killMidway(server: LeaveProcess, userId: string): Promise<JsonObject> {
    const begun = await server.ok('POST', userPath(userId, 'leave-all'), { reason: 'closed' });
    expect(begun).toMatchObject({ total: count });
    const midway = await settle('some rooms are left', async () => {
      const run = await runOf(server, userId, '?limit=1');
      return Number(run['left']) > 0 ? run : undefined;
    });
    await server.kill();
    expect(Number(midway['waiting'])).toBeGreaterThan(0);
    return begun;
  }

  async function expectDone(server: Ours, begun: JsonObject, rooms: readonly string[]): Promise<void> {
    const userId = String(begun['user_id']);
    expect(await completed(server, userId)).toMatchObject({
      leave_all_id: begun['leave_all_id'],
      total: count,
      left: count,
      retrying: 10,
      refused: 0,
    });
    await expectNowhere(server, userId);
    for (const roomId of rooms) expect(await leavesIn(server, roomId, userId)).toBe(1);
  }

  it('the next one goes on by itself, and every room is left once', async () => {
    await buildProgram();
    const dataDirectory = await mkdtemp(join(tmpdir(), 'exeunt-leave-all-'));
    const ports = { federationPort: await freePort('127.0.0.1'), platformPort: await freePort('127.0.0.1') };
    let running = await startLeaveProcess({ dataDirectory, ...ports });
    try {
      const { userId, rooms } = await prepare(running);
      const begun = await killMidway(running, userId);
      running = await startLeaveProcess({ dataDirectory, ...ports });
      await expectDone(running, begun, rooms);
    } finally {
      await running.kill();
      await rm(dataDirectory, { recursive: true, force: true });
    }
  }, 420_000);

  const canRun = findPostgres()?.kind === 'binaries';
  if (!canRun) console.warn('leave-all of two gateways: NOT tested; install a PostgreSQL server');
  it.runIf(canRun)(
    'of two on one PostgreSQL the other goes on',
    async () => {
      await buildProgram();
      const postgres = await startPostgres();
      const dataDirectory = await mkdtemp(join(tmpdir(), 'exeunt-leave-all-'));
      const keyFile = join(dataDirectory, 'shared.key');
      await writeFile(keyFile, `${generateSigningKeyLine(randomBytes(seedBytes))}\n`);
      const federationPort = await freePort('127.0.0.1');
      const start = async (port: number): Promise<LeaveProcess> =>
        startLeaveProcess({
          dataDirectory,
          federationPort: port,
          platformPort: await freePort('127.0.0.1'),
          environment: {
            EXEUNT_SERVER_NAME: `127.0.0.1:${federationPort}`,
            EXEUNT_SIGNING_KEY_FILE: keyFile,
            EXEUNT_DATABASE_URL: postgres.url,
          },
        });
      const first = await start(federationPort);
      const second = await start(await freePort('127.0.0.1'));
      try {
        const { userId, rooms } = await prepare(first);
        const begun = await killMidway(first, userId);
        await expectDone(second, begun, rooms);
      } finally {
        await Promise.all([first.kill(), second.kill()]);
        await postgres.stop();
        await rm(dataDirectory, { recursive: true, force: true });
      }
    },
    240_000,
  );
});
