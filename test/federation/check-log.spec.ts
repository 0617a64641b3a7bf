import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkLogs } from '../../apps/operator/src/check-log.js';
import { OperatorApi } from '../../apps/operator/src/operator-api.js';
import { acceptInvites, leaveRoom } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { startRemoteServer, type RemoteServer } from '../harness/remote-server.js';

let ours: LeaveServer;
let peer: RemoteServer;
let roomId: string;

beforeAll(async () => {
  ours = await startLeaveServer();
  peer = await startRemoteServer({ host: '127.0.0.2' });
  acceptInvites(peer);
  const alice = `@alice:${ours.name}`;
  const invite = [`@bob:${peer.name}`, `@carol:${peer.name}`];
  roomId = String((await ours.ok('POST', '/v1/rooms', { creator: alice, invite }))['room_id']);
  await leaveRoom(peer, ours, roomId, `@bob:${peer.name}`);
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close()]);
});

async function check(): Promise<{ readonly code: number; readonly text: string }> {
  const out = new PassThrough();
  const code = await checkLogs(new OperatorApi(ours.platformUrl, ours.token), [], out as never);
  return { code, text: String(out.read()) };
}

describe("an operator checks the rooms' logs", () => {
  it('finds that replaying them gives the stored state', async () => {
    expect(await check()).toEqual({
      code: 0,
      text: `agrees  ${roomId}  9 events, 7 state entries\n1 room checked, 0 differ\n`,
    });
  });

  it('says what differs where a stored row was lost', async () => {
    const { database } = ours.running.platform;
    const bob = `@bob:${peer.name}`;
    await database.query('DELETE FROM room_state WHERE room_id = $1 AND state_key = $2', [roomId, bob]);
    const { code, text } = await check();
    expect(code).toBe(1);
    expect(text).toContain('6 state entries are stored, the log gives 7');
  });

  it('is told plainly that nobody answers', async () => {
    const nobody = new OperatorApi('http://127.0.0.1:9', 'token');
    await expect(checkLogs(nobody, [], new PassThrough() as never)).rejects.toThrow('is the server running?');
  });
});
