import { readdirSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  DEAD_LETTER_TOPIC,
  OUTBOUND_PDUS_TOPIC,
  ROOM_EVENTS_TOPIC,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import { isPduFault, parsePdu, type UserId } from '@exeunt/pdu';
import { leaveTemplate } from '@exeunt/room';
import { JsonNumber, type JsonObject } from '@exeunt/signing';
import { busDocs, faultsOf, schemaFiles } from '../harness/bus-schemas.js';
import { importRoom } from '../harness/imported-room.js';
import { buildProgram } from '../harness/leave-process.js';
import { acceptInvites, leaveRoom } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { handedOverMessages } from '../harness/published-messages.js';
import { respond, startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { countersigned, inviteOurUser, putTransaction, roomOf, type PeerRoom } from '../leaving-harness.js';

/* Everything that a whole server publishes is as docs/bus says. */

let ours: LeaveServer;
let peer: RemoteServer;
let observer: RemoteServer;
let bob: string;
const seen: ReceivedMessage[] = [];

beforeAll(async () => {
  ours = await startLeaveServer();
  peer = await startRemoteServer({ host: '127.0.0.2' });
  observer = await startRemoteServer({ host: '127.0.0.3' });
  bob = `@bob:${ours.name}`;
  acceptInvites(peer);
  for (const topic of [ROOM_EVENTS_TOPIC, OUTBOUND_PDUS_TOPIC, DEAD_LETTER_TOPIC]) {
    await ours.running.platform.bus.consume({
      topic,
      group: 'a-test',
      maxBatch: 100,
      handle: async (batch) => void seen.push(...batch),
    });
  }
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close(), observer?.close()]);
});

/** The message of this type under this key, or with this subject; fails where there is none in time. */
const told = (type: string, about: string): Promise<ReceivedMessage> =>
  settle(`${type} of ${about}`, () =>
    seen.find(
      ({ key, headers }) => headers['ce_type'] === type && [key, headers['ce_subject']].includes(about),
    ),
  );

/** A room of the peer's into which bob is invited, as both sides know. */
async function invited(): Promise<PeerRoom> {
  const room = roomOf(peer, '11');
  const invite = await inviteOurUser(peer, ours, room, bob);
  const pdu = parsePdu(countersigned(ours, invite), room.builder.version);
  if (isPduFault(pdu)) throw new Error(pdu.detail);
  room.builder.receive(pdu);
  return room;
}

const pathOf = (endpoint: string, { roomId }: PeerRoom) =>
  `/_matrix/federation/${endpoint}/${encodeURIComponent(roomId).replace('!', '%21')}/`;

function leave(room: PeerRoom): Promise<JsonObject> {
  return ours.ok('POST', '/v1/leaves', { user_id: bob, room_id: room.roomId });
}

describe('the platform listener', () => {
  const get = (path: string) => fetch(new URL(path, ours.platformUrl));

  it('shows the contract as it is, to anybody, with every schema that it refers to', async () => {
    const document = await get('/asyncapi.yaml');
    expect([document.status, document.headers.get('content-type')]).toEqual([
      200,
      expect.stringContaining('yaml'),
    ]);
    const text = await document.text();
    expect(text).toBe(readFileSync(new URL('asyncapi.yaml', busDocs), 'utf8'));
    const refs = new Set([...text.matchAll(/\$ref: (\.\/schemas\/[^#\n]+)/g)].map(([, ref]) => ref!));
    expect(refs.size).toBeGreaterThan(10);
    for (const ref of refs) {
      const schema = await get(ref);
      expect([schema.status, await schema.json()]).toEqual([
        200,
        schemaFiles.get(ref.slice('./schemas/'.length, -'.json'.length)),
      ]);
    }
  });

  it.each([
    '/README.md',
    '/schemas',
    '/schemas/',
    '/schemas/..%2f..%2f..%2fpackage.json',
    '/%2e%2e/package.json',
  ])('shows nothing at %s', async (path) => {
    expect((await get(path)).status).toBe(404);
  });

  it('finds it beside the built program as well', async () => {
    await buildProgram();
    const files = (at: string) => readdirSync(new URL(at, busDocs)).sort();
    expect(files('../../dist/docs/bus/schemas')).toEqual(files('schemas'));
    expect(files('../../dist/docs/bus')).toContain('asyncapi.yaml');
  });
});

describe('a server tells the bus', () => {
  it.each(['1', '4', '11', '12'])('of a room of version %s, and of a leave', async (version) => {
    const { roomId, alice, path } = await importRoom(ours, {
      version,
      peers: [observer],
      grow(builder) {
        const olga = `@olga:${observer.name}`;
        builder.member(olga, 'join');
        if (!builder.version.strictCanonicalJson) {
          const changes = { depth: new JsonNumber('9223372036854775807') };
          builder.say({ sender: olga, content: { body: 'deep' }, changes });
        }
      },
    });
    const pia = `@pia:${peer.name}`;
    await ours.ok('POST', path('/invites'), { sender: alice, target: pia });
    const { eventId } = await leaveRoom(peer, ours, roomId, pia);
    await told('exeunt.pdu-accepted.v1', eventId);
    await told('exeunt.outbound-pdu.v1', eventId);
  });

  it('of an invite and the leave that rejects it', async () => {
    const room = await invited();
    const { builder, roomId } = room;
    peer.on('GET', pathOf('v1/make_leave', room), (_, response) => {
      const event = leaveTemplate(builder.room, { userId: bob as UserId, ourName: peer.name, now: 1 });
      respond(response, 200, { room_version: builder.version.id, event: event as JsonObject });
    });
    peer.on('PUT', pathOf('v2/send_leave', room), (_, response) => respond(response, 200, {}));
    expect(await leave(room)).toMatchObject({ status: 'completed', how: 'accepted' });
    await told('exeunt.invite-received.v1', roomId);
    await told('exeunt.leave-started.v1', roomId);
    await told('exeunt.leave-completed.v1', roomId);
  });

  it('of an invite that is taken back', async () => {
    const { builder, ian, roomId } = await invited();
    const kick = builder.make({
      sender: ian,
      type: 'm.room.member',
      stateKey: bob,
      content: { membership: 'leave' },
    });
    await putTransaction(peer, ours, 'taken-back', { pdus: [kick.json] });
    await told('exeunt.invite-retracted.v1', roomId);
  });

  it('of a leave that is refused, and of one that is cancelled', async () => {
    const refused = await invited();
    peer.on('GET', pathOf('v1/make_leave', refused), (_, response) =>
      respond(response, 200, { room_version: 'org.example.1', event: {} }),
    );
    await leave(refused);
    await told('exeunt.leave-refused.v1', refused.roomId);
    const cancelled = await invited();
    peer.on('GET', pathOf('v1/make_leave', cancelled), (_, response) => respond(response, 500, {}));
    const { leave_id: leaveId } = await leave(cancelled);
    await ours.ok('POST', `/v1/leaves/${String(leaveId)}/cancel`);
    await told('exeunt.leave-cancelled.v1', cancelled.roomId);
  });

  it('of a knock that another service hands over', async () => {
    const roomId = `!knocked:${peer.name}`;
    const [knock] = handedOverMessages().filter(
      ({ headers }) => headers['ce_type'] === 'exeunt.ingest-knock.v1',
    );
    const value = JSON.stringify({ user_id: bob, room_id: roomId, via: [peer.name] });
    await ours.running.platform.bus.publish([{ ...knock!, key: roomId, value }]);
    await told('exeunt.knock-made.v1', roomId);
  });

  it('of a message that its sender can’t read', async () => {
    await ours.running.platform.bus.publish([
      { topic: OUTBOUND_PDUS_TOPIC, key: '0', headers: { ce_type: 'exeunt.outbound-pdu.v1' }, value: '{' },
    ]);
    await told('exeunt.dead-letter.v1', '0');
  });

  it('nothing that the contract does not tell of', () => {
    // But for the one that the test itself published.
    const published = seen.filter(({ value }) => value !== '{');
    expect(new Set(published.map(({ headers }) => headers['ce_type']))).toEqual(
      new Set([
        'exeunt.pdu-accepted.v1',
        'exeunt.outbound-pdu.v1',
        'exeunt.invite-received.v1',
        'exeunt.invite-retracted.v1',
        'exeunt.knock-made.v1',
        'exeunt.leave-started.v1',
        'exeunt.leave-completed.v1',
        'exeunt.leave-refused.v1',
        'exeunt.leave-cancelled.v1',
        'exeunt.dead-letter.v1',
      ]),
    );
    for (const message of published) expect(faultsOf(message)).toEqual([]);
  });
});
