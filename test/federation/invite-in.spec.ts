import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { roomVersionIds } from '@exeunt/room-version';
import { JsonNumber, withKeys, type JsonObject } from '@exeunt/signing';
import type { RoomId, UserId } from '@exeunt/pdu';
import { deliveriesOf, importRoom } from '../harness/imported-room.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { countersigned, inviteOf, putInvite, resigned, roomOf, text } from '../leaving-harness.js';

let ours: LeaveServer;
let peer: RemoteServer;
let stranger: RemoteServer;
let bob: string;

beforeAll(async () => {
  ours = await startLeaveServer();
  peer = await startRemoteServer({ host: '127.0.0.2' });
  stranger = await startRemoteServer({ host: '127.0.0.3' });
  bob = `@bob:${ours.name}`;
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close(), stranger?.close()]);
});

/** The invite as it is stored for the user; undefined where none waits. */
async function waiting(roomId: string, userId = bob): Promise<JsonObject | undefined> {
  const key = { userId: userId as UserId, roomId: roomId as RoomId };
  return (await ours.running.platform.side.leaving.store.load(key)).state.invite?.pdu;
}

describe.each(roomVersionIds)('an invite in version %s', (version) => {
  it('hl-069: comes back with our signature and nothing else changed, and waits for the user', async () => {
    const invite = inviteOf(roomOf(peer, version), bob);
    const answer = await putInvite(peer, ours, invite);
    expect([answer.status, answer.json]).toEqual([200, { event: countersigned(ours, invite) }]);
    expect(await waiting(invite.roomId)).toEqual(countersigned(ours, invite));
  });

  it('again gets the same answer', async () => {
    const invite = inviteOf(roomOf(peer, version), bob);
    const first = await putInvite(peer, ours, invite);
    const again = await putInvite(peer, ours, invite);
    expect(again.body.toString()).toBe(first.body.toString());
  });
});

describe.each(['1', '2'])('an invite by v1 in version %s', (version) => {
  it('hl-070: is answered as v1 does', async () => {
    const invite = inviteOf(roomOf(peer, version), bob);
    const answer = await putInvite(peer, ours, invite, 'v1');
    const unsigned = { invite_room_state: invite.inviteRoomState };
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual([200, { event: withKeys(countersigned(ours, invite), { unsigned }) }]);
  });
});

describe('an invite with a number that JavaScript would round, in version 5', () => {
  it('comes back with the number as it was written', async () => {
    const invite = inviteOf(roomOf(peer, '5'), bob, {
      content: { membership: 'invite', n: new JsonNumber('1.50') },
    });
    const answer = await putInvite(peer, ours, invite);
    expect(answer.status).toBe(200);
    expect(text((answer.json as JsonObject)['event'] as JsonObject)).toContain('"n":1.50');
  });
});

describe('an invite that is refused', () => {
  it('hl-071: not signed by the sender: 403, and the same one signed is taken afterwards', async () => {
    const invite = inviteOf(roomOf(peer, '10'), bob);
    const bare = { ...invite, event: withKeys(invite.event, { signatures: {} }) };
    expect(await putInvite(peer, ours, bare)).toMatchObject({
      status: 403,
      json: { errcode: 'M_FORBIDDEN' },
    });
    expect(await waiting(invite.roomId)).toBeUndefined();
    expect((await putInvite(peer, ours, invite)).status).toBe(200);
  });

  it('hl-072: a float in version 6: 400 M_BAD_JSON', async () => {
    const invite = inviteOf(roomOf(peer, '6'), bob);
    const content = { membership: 'invite', bad_val: new JsonNumber('1.1') };
    const bad = { ...invite, event: withKeys(invite.event, { content }) };
    expect(await putInvite(peer, ours, bad)).toMatchObject({ status: 400, json: { errcode: 'M_BAD_JSON' } });
  });

  it.each<[string, (peer: RemoteServer) => JsonObject]>([
    ['hl-073: membership join', () => ({ content: { membership: 'join' } })],
    ['hl-074: a user of another server', (peer) => ({ state_key: `@zoe:${peer.name}` })],
    ['a state_key that is no user', () => ({ state_key: '' })],
    ['another type', () => ({ type: 'm.room.topic' })],
    ['a sender of another server', () => ({ sender: `@eve:${stranger.name}` })],
  ])('%s: 400', async (_, changes) => {
    const invite = resigned(peer, inviteOf(roomOf(peer, '11'), bob), changes(peer));
    expect(await putInvite(peer, ours, invite)).toMatchObject({
      status: 400,
      json: { errcode: 'M_INVALID_PARAM', rule: 'IN-04' },
    });
    expect(await waiting(invite.roomId)).toBeUndefined();
  });

  it('another room, or another ID, than the path says: 400', async () => {
    const invite = inviteOf(roomOf(peer, '11'), bob);
    const [otherRoom, otherId] = await Promise.all([
      putInvite(peer, ours, { ...invite, roomId: `!other:${peer.name}` }),
      putInvite(peer, ours, { ...invite, eventId: `$${'A'.repeat(43)}` }),
    ]);
    for (const answer of [otherRoom, otherId]) {
      expect(answer).toMatchObject({ status: 400, json: { errcode: 'M_INVALID_PARAM' } });
    }
  });

  it('hl-076: a version that nobody knows: 400 M_INCOMPATIBLE_ROOM_VERSION with the version', async () => {
    const invite = { ...inviteOf(roomOf(peer, '11'), bob), version: 'org.example.99' };
    expect(await putInvite(peer, ours, invite)).toMatchObject({
      status: 400,
      json: { errcode: 'M_INCOMPATIBLE_ROOM_VERSION', room_version: 'org.example.99' },
    });
  });

  it.each<[string, (state: readonly JsonObject[]) => readonly JsonObject[]]>([
    ['without the create event', (state) => state.filter(({ type }) => type !== 'm.room.create')],
    [
      'with a stripped create event',
      (state) => state.map((entry) => (entry['type'] === 'm.room.create' ? { ...entry, hashes: {} } : entry)),
    ],
  ])('hl-078: version 12 %s: 400', async (_, change) => {
    const invite = inviteOf(roomOf(peer, '12'), bob);
    const answer = await putInvite(peer, ours, {
      ...invite,
      inviteRoomState: change(invite.inviteRoomState),
    });
    expect(answer).toMatchObject({ status: 400, json: { errcode: 'M_INVALID_PARAM', rule: 'IN-07' } });
  });

  it('version 12 with the create event of another room: 400', async () => {
    const invite = inviteOf(roomOf(peer, '12'), bob);
    const other = inviteOf(roomOf(peer, '12'), bob);
    const answer = await putInvite(peer, ours, { ...invite, inviteRoomState: other.inviteRoomState });
    expect(answer).toMatchObject({ status: 400, json: { rule: 'IN-07' } });
  });

  it('a content hash that is not the event’s: 400', async () => {
    const invite = inviteOf(roomOf(peer, '11'), bob);
    const event = withKeys(invite.event, { content: { membership: 'invite', reason: 'put in later' } });
    expect(await putInvite(peer, ours, { ...invite, event })).toMatchObject({
      status: 400,
      json: { rule: 'SG-01' },
    });
  });

  it.each<[string, JsonObject]>([
    ['nothing signed', { display_name: 'bob' }],
    ['another user', { signed: { mxid: '@eve:x', token: 't', signatures: { x: {} } } }],
  ])('by third-party ID with %s: 400', async (_, thirdParty) => {
    const content = { membership: 'invite', third_party_invite: thirdParty };
    const invite = inviteOf(roomOf(peer, '11'), bob, { content });
    expect(await putInvite(peer, ours, invite)).toMatchObject({ status: 400, json: { rule: 'IN-12' } });
  });

  it('by third-party ID without a signature of the asking server: 403; with it, it is taken', async () => {
    const signed = { mxid: bob, token: 't', signatures: { 'id.example': { 'ed25519:0': 'x' } } };
    const content = { membership: 'invite', third_party_invite: { display_name: 'b', signed } };
    const invite = inviteOf(roomOf(peer, '11'), bob, { content });
    const bare = { ...invite, event: withKeys(invite.event, { signatures: {} }) };
    expect((await putInvite(peer, ours, bare)).status).toBe(403);
    expect((await putInvite(peer, ours, invite)).status).toBe(200);
  });

  it.each<[string, JsonObject]>([
    ['no event', { room_version: '11' }],
    ['no version', { event: {} }],
    ['a state that is no list', { room_version: '11', event: {}, invite_room_state: {} }],
  ])('%s: 400 M_BAD_JSON', async (_, body) => {
    const { roomId, eventId } = inviteOf(roomOf(peer, '11'), bob);
    const answer = await peer.request({
      method: 'PUT',
      uri: `/_matrix/federation/v2/invite/${encodeURIComponent(roomId)}/${encodeURIComponent(eventId)}`,
      destination: ours.name,
      baseUrl: ours.federationUrl,
      body,
    });
    expect(answer).toMatchObject({ status: 400, json: { errcode: 'M_BAD_JSON' } });
  });
});

describe('an invite into a room that our users are in', () => {
  const room = async (acl?: JsonObject) => {
    const imported = await importRoom(ours, {
      version: '11',
      peers: [peer, stranger],
      grow(builder, alice) {
        builder.member(`@ian:${peer.name}`, 'join');
        builder.member(`@olga:${stranger.name}`, 'join');
        builder.say({
          sender: alice,
          type: 'm.room.power_levels',
          stateKey: '',
          content: { users: { [alice]: 100 }, invite: 0 },
        });
        if (acl !== undefined) {
          builder.say({ sender: alice, type: 'm.room.server_acl', stateKey: '', content: acl });
        }
      },
    });
    return { ...imported, ian: `@ian:${peer.name}` };
  };
  const made = (of: Awaited<ReturnType<typeof room>>, target = bob) => inviteOf(of, target);

  it('becomes part of the room, is signed, and is not broadcast by us', async () => {
    const into = await room();
    const invite = made(into);
    expect((await putInvite(peer, ours, invite)).status).toBe(200);
    expect(await into.membership(bob)).toBe('invite');
    expect(await waiting(into.roomId)).toBeUndefined();
    // What we say ourselves is broadcast after it, so that the invite would have come before.
    await into.say('m.room.topic', '', { topic: 'after' });
    await settle('the topic at the other server in the room', () =>
      deliveriesOf(stranger, into.roomId).some(({ type }) => type === 'm.room.topic') ? true : undefined,
    );
    expect(deliveriesOf(stranger, into.roomId).map(({ type }) => type)).toEqual(['m.room.topic']);
  });

  it('that cites what we do not know is signed, for it comes again', async () => {
    const into = await room();
    const invite = made(into);
    const odd = resigned(peer, invite, { prev_events: [`$${'B'.repeat(43)}`] });
    expect((await putInvite(peer, ours, odd)).status).toBe(200);
    expect(await into.membership(bob)).toBe('none');
  });

  it('of a member, or by somebody without the power, is refused and leaves no trace', async () => {
    const into = await room();
    const position = await into.position();
    const invite = made(into, into.alice);
    expect(await putInvite(peer, ours, invite)).toMatchObject({
      status: 403,
      json: { errcode: 'M_FORBIDDEN' },
    });
    expect(await into.position()).toBe(position);
  });

  it('AC-05: from a server that the room denies is refused', async () => {
    const into = await room({ allow: ['*'], deny: ['127.0.0.2'] });
    expect(await putInvite(peer, ours, made(into))).toMatchObject({ status: 403, json: { rule: 'AC-05' } });
  });
});

describe('the platform', () => {
  it('is told of an invite on the bus, once it is durable', async () => {
    const invite = inviteOf(roomOf(peer, '11'), bob);
    await putInvite(peer, ours, invite);
    const seen: string[] = [];
    const consumption = await ours.running.platform.bus.consume({
      topic: 'exeunt.room-events.v1',
      group: 'a-test',
      maxBatch: 100,
      handle: async (batch) => {
        for (const { key, headers } of batch) seen.push(`${headers['ce_type']} ${key}`);
      },
    });
    await settle('the fact', () =>
      seen.includes(`exeunt.invite-received.v1 ${invite.roomId}`) ? true : undefined,
    );
    await consumption.stop();
  });
});
