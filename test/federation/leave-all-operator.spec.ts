import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import { leaveAll, type LeaveAllOptions } from '../../apps/operator/src/leave-all.js';
import { OperatorApi } from '../../apps/operator/src/operator-api.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { respond, startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { inviteOurUser, roomOf } from '../leaving-harness.js';

let ours: LeaveServer;
let stubborn: RemoteServer;
let users = 0;

beforeAll(async () => {
  ours = await startLeaveServer({
    environment: {
      EXEUNT_FEDERATION_TIMEOUT_MS: '600',
      EXEUNT_SENDER_BACKOFF_MIN_MS: '20',
      EXEUNT_SENDER_BACKOFF_MAX_MS: '100',
    },
  });
  stubborn = await startRemoteServer({ host: '127.0.0.2' });
  stubborn.on('GET', '/_matrix/federation/v1/make_leave/', (_, response) =>
    respond(response, 403, { errcode: 'M_FORBIDDEN', error: 'stay\u001b[2J here' }),
  );
});
afterAll(async () => {
  await Promise.all([ours?.stop(), stubborn?.close()]);
});

const aUser = (): string => `@user${++users}:${ours.name}`;
const joined = (creator: string): Promise<JsonObject> => ours.ok('POST', '/v1/rooms', { creator });
async function invitedBy(peer: RemoteServer, userId: string): Promise<string> {
  const room = roomOf(peer, '11');
  await inviteOurUser(peer, ours, room, userId);
  return room.roomId;
}

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the command; `answer` is typed by somebody at a terminal. `onWords` hears what it says besides its report. */
async function run(
  options: Partial<LeaveAllOptions> & { userId: string },
  answer?: string,
  onWords: (words: string) => void = () => {},
): Promise<Ran> {
  const [input, out, err] = [new PassThrough(), new PassThrough(), new PassThrough()];
  if (answer !== undefined) {
    Object.assign(input, { isTTY: true });
    input.write(`${answer}\n`);
  }
  const words: string[] = [];
  err.on('data', (chunk: Buffer) => {
    words.push(chunk.toString());
    onWords(words.join(''));
  });
  const code = await leaveAll(
    new OperatorApi(ours.platformUrl, ours.token),
    { yes: answer === undefined, json: false, waitMs: 20_000, everyMs: 5, ...options },
    { in: input as never, out: out as never, err: err as never },
  );
  return { code, out: String(out.read() ?? ''), err: words.join('') };
}

describe('an operator takes a user out of every room', () => {
  it('out of all of them, and every room knows: 0', async () => {
    const userId = aUser();
    for (let at = 0; at < 5; at++) await joined(userId);
    const { code, out, err } = await run({ userId, reason: 'closed' });
    expect([code, out]).toEqual([0, `${userId}: 5 of 5 rooms left, 0 still to be told, 0 refused\n`]);
    expect(err).toContain('5 of 5 rooms left');
  });

  it('some server has still to be told: 3, and which', async () => {
    const userId = aUser();
    const gone = await startRemoteServer({ host: '127.0.0.3' });
    const roomId = await invitedBy(gone, userId);
    await gone.close();
    await joined(userId);
    const { code, out } = await run({ userId, waitMs: 0 });
    expect(code).toBe(3);
    expect(out).toContain(`${userId}: 2 of 2 rooms left, 1 still to be told, 0 refused`);
    expect(out).toContain(roomId.slice(0, 20));
    expect(out).toContain('retrying');
  });

  it('some room refuses: 1, and in whose words, which do nothing to the terminal', async () => {
    const userId = aUser();
    await invitedBy(stubborn, userId);
    const { code, out } = await run({ userId });
    expect(code).toBe(1);
    expect(out).toContain('refused');
    expect(out).toContain('stay');
    expect(out).not.toContain('\u001b[2J');
  });

  it('says all of it to programs', async () => {
    const userId = aUser();
    const roomId = await invitedBy(stubborn, userId);
    const { code, out } = await run({ userId, json: true });
    expect(code).toBe(1);
    expect(out.split('\n')).toHaveLength(2);
    expect(JSON.parse(out)).toMatchObject({
      user_id: userId,
      status: 'completed',
      total: 1,
      left: 1,
      refused: 1,
      rooms: [{ room_id: roomId, status: 'refused', servers: [{ server: stubborn.name }] }],
    });
  });

  it('leaves what it is told to', async () => {
    const userId = aUser();
    await joined(userId);
    const { code, out } = await run({ userId, include: ['invite', 'knock'] });
    expect([code, out]).toEqual([0, `${userId}: 0 of 0 rooms left, 0 still to be told, 0 refused\n`]);
  });

  it('watches a run that is under way, without beginning another', async () => {
    const userId = aUser();
    for (let at = 0; at < 3; at++) await joined(userId);
    const { store, runner } = ours.running.platform.side.leaveAll;
    await runner.stop();
    await store.begin({
      userId: userId as UserId,
      leaveAllId: 'of-before',
      reason: undefined,
      include: ['join'],
      now: Date.now(),
    });
    const ran = await run({ userId, json: true }, 'never asked', (words) => {
      if (words.includes('watching')) runner.start();
    });
    expect([ran.code, JSON.parse(ran.out)]).toMatchObject([
      0,
      { leave_all_id: 'of-before', total: 3, left: 3 },
    ]);
    expect(ran.err).not.toContain('[y/N]');
  });

  it.each([
    ['y', 0],
    ['YES', 0],
    ['n', 2],
    ['', 2],
    ['yesterday', 2],
  ])('asks first, and takes %j for what it is', async (answer, code) => {
    const userId = aUser();
    await joined(userId);
    const ran = await run({ userId }, answer);
    expect(ran.code).toBe(code);
    expect(ran.err).toContain(`Take ${userId} out of every room?`);
    const { joins } = await ours.ok('GET', `/v1/users/${encodeURIComponent(userId)}/memberships`);
    expect(joins).toHaveLength(code === 0 ? 0 : 1);
  });

  it('does not ask where nobody is', async () => {
    await expect(run({ userId: aUser(), yes: false })).rejects.toThrow('--yes');
  });

  it('passes on what the server refuses', async () => {
    await expect(run({ userId: '@bob:elsewhere.example' })).rejects.toThrow(/^403 /);
    await expect(run({ userId: aUser(), include: ['ban'] })).rejects.toThrow(/^400 /);
  });
});
