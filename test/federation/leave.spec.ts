import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { roomVersionIds } from '@exeunt/room-version';
import { isJsonObject, withoutKeys, type JsonObject } from '@exeunt/signing';
import { acceptInvites, leaveRoom, makeLeave, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { RoomBuilder, type BuilderServer } from '../harness/room-builder.js';

let ours: LeaveServer;
let leaver: RemoteServer;
let observer: RemoteServer;

beforeAll(async () => {
  ours = await startLeaveServer();
  leaver = await startRemoteServer({ host: '127.0.0.2' });
  observer = await startRemoteServer({ host: '127.0.0.3' });
  acceptInvites(leaver);
});
afterAll(async () => {
  await Promise.all([ours?.stop(), leaver?.close(), observer?.close()]);
});

/** A room of ours with a user of the observer's joined, imported as a graph. */
async function importRoom(version: string): Promise<{ readonly roomId: string; readonly alice: string }> {
  const us: BuilderServer = { name: ours.name, key: ours.running.platform.side.signingKey };
  const alice = `@alice:${ours.name}`;
  const builder = new RoomBuilder({
    version,
    servers: [us, { name: observer.name, key: observer.key }],
    creator: alice,
  });
  builder.member(`@olga:${observer.name}`, 'join');
  const report = await ours.ok('POST', '/v1/rooms/import', {
    room_version: version,
    events: builder.pdus.map(({ json }) => json),
    server_keys: [observer.keyResponse()],
  });
  expect(report).toEqual({ room_id: builder.roomId, accepted: builder.pdus.length, rejected: [] });
  return { roomId: builder.roomId, alice };
}

describe.each(roomVersionIds)('in a room of version %s', (version) => {
  it('an invited user rejects, and the other server in the room gets the leave as it was signed', async () => {
    const { roomId, alice } = await importRoom(version);
    const bob = `@bob:${leaver.name}`;
    await ours.ok('POST', `/v1/rooms/${encodeURIComponent(roomId)}/invites`, { sender: alice, target: bob });

    const { eventId, event } = await leaveRoom(leaver, ours, roomId, bob);

    const member = await ours.member(roomId, bob);
    expect(member).toMatchObject({ event_id: eventId, content: { membership: 'leave' } });
    const delivered = await observer.received(({ url, json }) => {
      if (!url.startsWith('/_matrix/federation/v1/send/') || !isJsonObject(json)) return false;
      const pdus = json['pdus'] as readonly JsonObject[];
      return pdus.some((pdu) => JSON.stringify(pdu['signatures']) === JSON.stringify(event['signatures']));
    });
    const pdus = (delivered.json as JsonObject)['pdus'] as readonly JsonObject[];
    expect(pdus).toContainEqual(withoutKeys(event, 'unsigned'));
    // The leaver has it already, and is not in the room.
    expect(leaver.requests.filter(({ url }) => url.startsWith('/_matrix/federation/v1/send/'))).toEqual([]);
  });

  it('the same leave again is the same success, and nothing new', async () => {
    const { roomId, alice } = await importRoom(version);
    const bob = `@bob:${leaver.name}`;
    await ours.ok('POST', `/v1/rooms/${encodeURIComponent(roomId)}/invites`, { sender: alice, target: bob });
    const made = (await makeLeave(leaver, ours, roomId, bob)).json as JsonObject;
    const leave = signTemplate(leaver, version, made['event'] as JsonObject);
    const first = await sendLeave(leaver, ours, leave, 'v1');
    expect([first.status, first.json]).toEqual([200, [200, {}]]);
    const { position } = await ours.ok('GET', `/v1/rooms/${encodeURIComponent(roomId)}`);
    const again = await sendLeave(leaver, ours, leave, 'v2');
    expect([again.status, again.json]).toEqual([200, {}]);
    expect(await ours.ok('GET', `/v1/rooms/${encodeURIComponent(roomId)}`)).toMatchObject({ position });
  });
});
