import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventIdOf } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import { JsonNumber, withKeys, type JsonObject } from '@exeunt/signing';
import { deliveriesOf, importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { respond, startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import type { Saying } from '../harness/room-builder.js';
import { inviteOurUser, membershipsOf, putTransaction, roomOf } from '../leaving-harness.js';

let ours: LeaveServer;
let peer: RemoteServer;
let observer: RemoteServer;
let bob: string;

beforeAll(async () => {
  ours = await startLeaveServer({ environment: { EXEUNT_HANDSHAKE_DEADLINE_MS: '2000' } });
  peer = await startRemoteServer({ host: '127.0.0.2' });
  observer = await startRemoteServer({ host: '127.0.0.3' });
  bob = `@bob:${ours.name}`;
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close(), observer?.close()]);
});

let transactions = 0;
const send = (pdus: readonly JsonObject[], from = peer, txnId = `txn${++transactions}`) =>
  putTransaction(from, ours, txnId, { pdus });

/** A room of ours with a user of the peer's and one of the observer's. */
function sharedRoom(version = '11', acl?: JsonObject): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [peer, observer],
    grow(builder, alice) {
      builder.member(`@ian:${peer.name}`, 'join');
      builder.member(`@olga:${observer.name}`, 'join');
      if (acl !== undefined)
        builder.say({ sender: alice, type: 'm.room.server_acl', stateKey: '', content: acl });
    },
  });
}

/** A message of ian's over the room as it was imported; each follows the one before. */
function says(room: ImportedRoom, body: string, more: Partial<Saying> = {}) {
  return room.builder.say({ sender: `@ian:${peer.name}`, content: { body }, ...more });
}

async function acceptedIn(room: ImportedRoom): Promise<readonly unknown[]> {
  return (await room.since(0)).filter(({ type }) => type === 'PduAccepted').map(({ event_id: id }) => id);
}

describe.each(roomVersionIds)('a transaction for a room of version %s', (version) => {
  it('is taken in order, and answered under the IDs as computed; nothing is broadcast again', async () => {
    const room = await sharedRoom(version);
    const pdus = [says(room, 'one'), says(room, 'two'), room.builder.member(`@ian:${peer.name}`, 'leave')];
    const answer = await send(pdus.map(({ json }) => json));
    expect(answer).toMatchObject({
      status: 200,
      json: { pdus: Object.fromEntries(pdus.map(({ eventId }) => [eventId, {}])) },
    });
    expect((await acceptedIn(room)).slice(-3)).toEqual(pdus.map(({ eventId }) => eventId));
    expect(await room.membership(`@ian:${peer.name}`)).toBe('leave');
    await room.say('m.room.topic', '', { topic: 'after' });
    await settle('our own event at the observer', () =>
      deliveriesOf(observer, room.roomId).some(({ type }) => type === 'm.room.topic') ? true : undefined,
    );
    expect(deliveriesOf(observer, room.roomId).map(({ type }) => type)).toEqual(['m.room.topic']);
  });
});

describe('the limits', () => {
  it('hl-079: 51 PDUs: 400, and none is looked at', async () => {
    const room = await sharedRoom();
    const { json } = says(room, 'one');
    const position = await room.position();
    expect((await send(Array.from({ length: 51 }, () => json))).status).toBe(400);
    expect(await room.position()).toBe(position);
  });

  it('hl-080: 101 EDUs: 400; 100 are dropped', async () => {
    const edu = { edu_type: 'm.typing', content: {} };
    const edus = (count: number) => Array.from({ length: count }, () => edu);
    expect((await putTransaction(peer, ours, 'edus101', { pdus: [], edus: edus(101) })).status).toBe(400);
    expect(await putTransaction(peer, ours, 'edus100', { pdus: [], edus: edus(100) })).toMatchObject({
      status: 200,
      json: { pdus: {} },
    });
  });

  it.each<[string, JsonObject]>([
    ['no pdus', { origin_server_ts: 1 }],
    ['pdus that are no list', { pdus: {} }],
    ['edus that are no list', { pdus: [], edus: {} }],
    ['an origin that is not the sender', { pdus: [], origin: 'other.example' }],
  ])('%s: 400', async (_, body) => {
    const answer = await peer.request({
      method: 'PUT',
      uri: `/_matrix/federation/v1/send/bad${++transactions}`,
      destination: ours.name,
      baseUrl: ours.federationUrl,
      body,
    });
    expect(answer.status).toBe(400);
  });

  it('a transaction ID with a NUL: 400', async () => {
    expect((await send([], peer, 'a\0b')).status).toBe(400);
  });
});

describe('a bad PDU', () => {
  it('hl-081: a float in version 6 is dropped, and the good one beside it is taken', async () => {
    const room = await sharedRoom('6');
    const good = says(room, 'good');
    const float = withKeys(good.json, { content: { body: 'bad', n: new JsonNumber('1.1') } });
    const answer = await send([float, good.json]);
    expect(answer).toMatchObject({ status: 200, json: { pdus: { [good.eventId]: {} } } });
    expect(await acceptedIn(room)).toContain(good.eventId);
  });

  it('gets its error, whatever is wrong, and stops no other', async () => {
    const room = await sharedRoom();
    const { builder } = room;
    const good = says(room, 'good');
    const bare = withKeys(builder.make({ sender: `@ian:${peer.name}`, content: { body: 'x' } }).json, {
      signatures: {},
    });
    const stranger = withKeys(good.json, { room_id: `!unknown:${peer.name}` });
    const powerless = builder.make({
      sender: `@ian:${peer.name}`,
      type: 'm.room.topic',
      stateKey: '',
      content: { topic: 'x' },
    });
    const orphan = builder.make({
      sender: `@ian:${peer.name}`,
      content: { body: 'x' },
      changes: { prev_events: [`$${'C'.repeat(43)}`] },
    });
    const answer = await send([
      bare,
      stranger,
      powerless.json,
      orphan.json,
      ['no object'] as unknown as JsonObject,
      { room_id: 7 },
      { room_id: room.roomId },
      good.json,
    ]);
    const { pdus } = answer.json as { readonly pdus: Record<string, { readonly error?: string }> };
    expect(answer.status).toBe(200);
    expect(pdus[good.eventId]).toEqual({});
    expect(pdus[eventIdOf(bare, roomVersion('11')!)]?.error).toContain('PD-02');
    expect(pdus[powerless.eventId]?.error).toContain('AU-');
    expect(pdus[orphan.eventId]?.error).toContain('SL-13');
    // What has no ID that we could compute has no entry.
    expect(Object.keys(pdus)).toHaveLength(5);
    expect(await acceptedIn(room)).toContain(good.eventId);
  });

  it('of versions 1 and 2 in an unknown room has its ID in it, and an error under it', async () => {
    const room = roomOf(peer, '1');
    const [create] = room.builder.pdus;
    expect((await send([create!.json])).json).toEqual({
      pdus: { [create!.eventId]: { error: expect.any(String) } },
    });
  });

  it('whose content hash is wrong is taken redacted', async () => {
    const room = await sharedRoom();
    const said = says(room, 'hashed');
    const changed = withKeys(said.json, { content: { body: 'changed' } });
    expect((await send([changed])).json).toEqual({ pdus: { [said.eventId]: {} } });
    const logged = (await room.since(0)).find(({ event_id: id }) => id === said.eventId);
    expect(logged).toMatchObject({ pdu: { content: {} } });
  });
});

describe('a repeat', () => {
  it('hl-082: gets the first answer, and the PDUs are handled once', async () => {
    const room = await sharedRoom();
    const one = says(room, 'one');
    const first = await send([one.json], peer, 'same');
    const position = await room.position();
    // Even with another body: the ID is what counts between two servers.
    const two = says(room, 'two');
    const again = await send([two.json], peer, 'same');
    expect(again.body.toString()).toBe(first.body.toString());
    expect(await room.position()).toBe(position);
    // Another server may use the same ID.
    expect((await send([two.json], observer, 'same')).json).toEqual({ pdus: { [two.eventId]: {} } });
  });

  it('at the same time shares the answer', async () => {
    const room = await sharedRoom();
    const one = says(room, 'one');
    const answers = await Promise.all(Array.from({ length: 5 }, () => send([one.json], peer, 'at-once')));
    expect(new Set(answers.map(({ body }) => body.toString())).size).toBe(1);
  });
});

describe('a server that the room denies', () => {
  it('hl-083, TX-08: gets an error a PDU, whoever made it, and other rooms are not touched by that', async () => {
    const denying = await sharedRoom('11', { allow: ['*'], deny: ['127.0.0.2'] });
    const open = await sharedRoom();
    const denied = says(denying, 'denied');
    const taken = says(open, 'taken');
    const answer = await send([denied.json, taken.json]);
    expect(answer.json).toEqual({
      pdus: { [denied.eventId]: { error: expect.stringContaining('AC-05') }, [taken.eventId]: {} },
    });
    // The same event by a server that is allowed.
    expect((await send([denied.json], observer)).json).toEqual({ pdus: { [denied.eventId]: {} } });
  });
});

describe('an invite that is taken back while we are not in the room', () => {
  const invitesOf = async () =>
    ((await membershipsOf(ours, bob))['invites'] as readonly JsonObject[]).map(({ room_id: id }) => id);

  it.each(roomVersionIds)('hl-084: by the inviter, in version %s', async (version) => {
    const room = roomOf(peer, version);
    const invite = await inviteOurUser(peer, ours, room, bob);
    expect(await invitesOf()).toContain(room.roomId);
    const rules = roomVersion(version)!;
    const cited = rules.referencesArePairs ? [invite.eventId, { sha256: 'A'.repeat(43) }] : invite.eventId;
    const kick = room.builder.make({
      sender: room.ian,
      type: 'm.room.member',
      stateKey: bob,
      content: { membership: 'leave' },
      changes: { auth_events: [cited] },
    });
    expect((await send([kick.json])).json).toEqual({ pdus: { [kick.eventId]: {} } });
    expect(await invitesOf()).not.toContain(room.roomId);
    expect(await ours.platform('POST', '/v1/leaves', { user_id: bob, room_id: room.roomId })).toMatchObject({
      status: 200,
      body: { how: 'already-out' },
    });
  });

  it('by a ban that cites the invite, and by nobody who can’t cite it', async () => {
    const room = roomOf(peer, '11');
    const invite = await inviteOurUser(peer, ours, room, bob);
    const ban = (authEvents: readonly string[]) =>
      observer.signPdu(
        {
          type: 'm.room.member',
          room_id: room.roomId,
          sender: `@mod:${observer.name}`,
          state_key: bob,
          content: { membership: 'ban' },
          origin_server_ts: Date.now(),
          depth: 9,
          auth_events: authEvents,
          prev_events: [invite.eventId],
        },
        '11',
      );
    const guess = ban([`$${'D'.repeat(43)}`]);
    expect((await send([guess], observer)).json).toEqual({
      pdus: { [eventIdOf(guess, roomVersion('11')!)]: { error: expect.any(String) } },
    });
    expect(await invitesOf()).toContain(room.roomId);
    await send([ban([invite.eventId])], observer);
    expect(await invitesOf()).not.toContain(room.roomId);
  });

  it('not where the signature is another server’s', async () => {
    const room = roomOf(peer, '11');
    await inviteOurUser(peer, ours, room, bob);
    const content = { membership: 'leave' };
    const kick = room.builder.make({ sender: room.ian, type: 'm.room.member', stateKey: bob, content });
    const forged = observer.signPdu(withKeys(kick.json, {}), '11');
    expect(JSON.stringify((await send([forged], observer)).json)).toContain('PD-02');
    expect(await invitesOf()).toContain(room.roomId);
  });

  it('ends a leave that was under way', async () => {
    const room = roomOf(peer, '11');
    const invite = await inviteOurUser(peer, ours, room, bob);
    peer.on('GET', '/_matrix/federation/v1/make_leave/', (_, response) => respond(response, 500, {}));
    const { body } = await ours.platform('POST', '/v1/leaves', { user_id: bob, room_id: room.roomId });
    expect(body['status']).toBe('retrying');
    const kick = room.builder.make({
      sender: room.ian,
      type: 'm.room.member',
      stateKey: bob,
      content: { membership: 'leave' },
      changes: { auth_events: [invite.eventId] },
    });
    await send([kick.json]);
    expect(await ours.ok('GET', `/v1/leaves/${String(body['leave_id'])}`)).toMatchObject({
      status: 'completed',
      how: 'retracted',
    });
  });
});
