import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addSignature } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import type { JsonObject } from '@exeunt/signing';
import { importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { makeLeave, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import {
  respond,
  startRemoteServer,
  type PeerResponse,
  type RemoteServer,
} from '../harness/remote-server.js';

/*
 * A bot that rejects as soon as its server has the invite: that is before the room has it, for the invited server signs
 * first.
 */

let ours: LeaveServer;
let peer: RemoteServer;
let bot: string;

beforeAll(async () => {
  ours = await startLeaveServer();
  peer = await startRemoteServer({ host: '127.0.0.2' });
  bot = `@bot:${peer.name}`;
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close()]);
});

interface Asked {
  /** What the platform was told of its invite. */
  readonly invited: number;
  /** What the bot's server was answered, which asked before it answered the invite. */
  readonly made: PeerResponse;
}

/** Invites the bot, whose server asks for a template of a leave and then answers the invite with `status`. */
async function inviteTheBot(room: ImportedRoom, status: number): Promise<Asked> {
  let made: Promise<PeerResponse> | undefined;
  peer.on('PUT', '/_matrix/federation/v2/invite/', async (request, response) => {
    made = makeLeave(peer, ours, room.roomId, bot);
    // Two more after it: the first one has been looked at by then, and was answered if it was not made to wait.
    for (const user of ['@one', '@two']) await makeLeave(peer, ours, room.roomId, `${user}:${peer.name}`);
    const { event, room_version: version } = request.json as Record<string, JsonObject>;
    if (status !== 200) return respond(response, status, { errcode: 'M_FORBIDDEN', error: 'no bots' });
    const signed = addSignature(event!, roomVersion(String(version))!, peer.name, peer.key);
    return respond(response, 200, { event: signed });
  });
  const invited = await ours.platform('POST', room.path('/invites'), { sender: room.alice, target: bot });
  return { invited: invited.status, made: await made! };
}

describe('an invited server that asks for a leave before it has answered the invite', () => {
  it.each(roomVersionIds)(
    'is given the template as soon as the room has the invite, in version %s',
    async (version) => {
      const room = await importRoom(ours, { version });
      const { invited, made } = await inviteTheBot(room, 200);
      expect(invited).toBe(200);
      expect(made.status, made.body.toString()).toBe(200);
      const template = (made.json as JsonObject)['event'] as JsonObject;
      const leave = signTemplate(peer, version, template);
      expect((await sendLeave(peer, ours, leave)).status).toBe(200);
      expect(await room.membership(bot)).toBe('leave');
    },
  );

  it('is told no when the invite has come to nothing', async () => {
    const room = await importRoom(ours, { version: '11' });
    const { invited, made } = await inviteTheBot(room, 403);
    expect(invited).toBe(403);
    expect(made).toMatchObject({ status: 403, json: { errcode: 'M_FORBIDDEN', rule: 'AU-20' } });
    expect(await room.membership(bot)).toBe('none');
  });
});
