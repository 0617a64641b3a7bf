import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DEAD_LETTER_TOPIC, type BusMessage, type ReceivedMessage } from '@exeunt/message-bus';
import { isPduFault, parsePdu } from '@exeunt/pdu';
import { JsonNumber, withKeys, type JsonObject, type JsonValue } from '@exeunt/signing';
import { messageOf } from '../contract/ingest.harness.js';
import { deliveriesOf, importOf, importRoom } from '../harness/imported-room.js';
import { leaveRoom } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { respond, startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { RoomBuilder } from '../harness/room-builder.js';
import {
  inviteOf,
  inviteOurUser,
  leaveTemplateOf,
  membershipsOf,
  putInvite,
  putTransaction,
  roomOf,
  type PeerRoom,
} from '../leaving-harness.js';

let ours: LeaveServer;
let peer: RemoteServer;
let bob: string;
const deadLetters: ReceivedMessage[] = [];

beforeAll(async () => {
  ours = await startLeaveServer({
    environment: { EXEUNT_HANDSHAKE_DEADLINE_MS: '3000', EXEUNT_SENDER_BACKOFF_MAX_MS: '200' },
  });
  peer = await startRemoteServer({ host: '127.0.0.2' });
  bob = `@bob:${ours.name}`;
  await ours.running.platform.bus.consume({
    topic: DEAD_LETTER_TOPIC,
    group: 'the-test',
    maxBatch: 100,
    handle: async (batch) => void deadLetters.push(...batch),
  });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close()]);
});

function message(type: string, key: string, value: JsonValue, more: Partial<BusMessage> = {}): BusMessage {
  return { ...messageOf(type, key, value), ...more };
}
const roomMessage = (builder: RoomBuilder, key: string = builder.roomId): BusMessage =>
  message('exeunt.ingest-room.v1', key, importOf(builder, [peer]));
const pdusMessage = (roomId: string, pdus: readonly JsonValue[], more: JsonObject = {}): BusMessage =>
  message('exeunt.ingest-pdus.v1', roomId, { room_id: roomId, pdus, ...more });
const knockMessage = (roomId: string, more: JsonObject = {}): BusMessage =>
  message('exeunt.ingest-knock.v1', roomId, { user_id: bob, room_id: roomId, via: [peer.name], ...more });

const publish = (...messages: readonly BusMessage[]): Promise<void> =>
  ours.running.platform.bus.publish(messages);

/** The reason of the message's dead letter, whenever it comes. */
async function deadLetterOf({ headers, key }: BusMessage): Promise<string> {
  const letter = await settle('the dead letter', () =>
    deadLetters.find(({ value }) => {
      const { message: parked } = JSON.parse(value) as { readonly message: ReceivedMessage };
      return parked.headers['ce_id'] === headers['ce_id'] && parked.key === key;
    }),
  );
  return String((JSON.parse(letter.value) as { readonly reason: unknown }).reason);
}

/** What is published is handled when a message behind it is. */
async function handled(): Promise<void> {
  const last = message('exeunt.unheard-of.v1', '!end:of.test', {});
  await publish(last);
  await deadLetterOf(last);
}

function paperRoom(
  version = '11',
  grow: (builder: RoomBuilder, alice: string) => void = () => {},
): RoomBuilder {
  const alice = `@alice:${ours.name}`;
  const builder = new RoomBuilder({
    version,
    servers: [
      { name: ours.name, key: ours.running.platform.side.signingKey },
      { name: peer.name, key: peer.key },
    ],
    creator: alice,
  });
  builder.member(`@ian:${peer.name}`, 'join');
  grow(builder, alice);
  return builder;
}

const path = (roomId: string, more = ''): string => `/v1/rooms/${encodeURIComponent(roomId)}${more}`;
async function logOf(roomId: string): Promise<readonly JsonObject[]> {
  return (await ours.ok('GET', path(roomId, '/events?limit=10000')))['events'] as readonly JsonObject[];
}

describe.each(['7', '11', '12'])('a room of version %s that is handed over by the bus', (version) => {
  it('is there, its users may leave it from afar, and a repeat changes nothing', async () => {
    const builder = paperRoom(version);
    const handedOver = roomMessage(builder);
    await publish(handedOver, handedOver);
    await handled();
    const log = await logOf(builder.roomId);
    expect(log.filter(({ type }) => type === 'PduAccepted')).toHaveLength(builder.pdus.length);
    const { eventId } = await leaveRoom(peer, ours, builder.roomId, `@ian:${peer.name}`);
    expect((await logOf(builder.roomId)).at(-1)).toMatchObject({ event_id: eventId });
    await publish(handedOver);
    await handled();
    expect(await logOf(builder.roomId)).toHaveLength(log.length + 1);
  });
});

describe('PDUs that are handed over by the bus', () => {
  it('become part of their room in whatever order they are in, once, and nobody is sent them', async () => {
    const room = await importRoom(ours, {
      version: '11',
      peers: [peer],
      grow: (builder) => builder.member(`@ian:${peer.name}`, 'join'),
    });
    const { builder } = room;
    const first = builder.say({ sender: room.alice, content: { body: 'first' } });
    const joined = builder.member(bob, 'join');
    const last = builder.member(`@ian:${peer.name}`, 'leave');
    const position = await room.position();
    const handedOver = pdusMessage(room.roomId, [last.json, joined.json, first.json]);
    await publish(handedOver, handedOver);
    await handled();
    expect((await room.since(position)).map(({ event_id: id }) => id)).toEqual([
      first.eventId,
      joined.eventId,
      last.eventId,
    ]);
    expect(await room.membership(bob)).toBe('join');
    expect(deliveriesOf(peer, room.roomId)).toEqual([]);
  });

  it('that are bad are named with their rules in one dead letter, and the others are taken', async () => {
    const room = await importRoom(ours, {
      version: '11',
      peers: [peer],
      grow: (builder) => builder.member(`@ian:${peer.name}`, 'join'),
    });
    const { builder } = room;
    const ian = `@ian:${peer.name}`;
    const good = builder.say({ sender: ian, content: { body: 'good' } });
    const powerless = builder.make({ sender: ian, type: 'm.room.topic', stateKey: '', content: {} });
    const unsigned = builder.make({ sender: ian, content: { body: 'unsigned' } });
    const orphan = builder.make({
      sender: ian,
      content: { body: 'orphan' },
      changes: { prev_events: [`$${'C'.repeat(43)}`] },
    });
    const stranger = roomOf(peer, '11').builder.pdus[1]!;
    const handedOver = pdusMessage(room.roomId, [
      { type: 'no PDU' },
      withKeys(good.json, { depth: new JsonNumber('1.5') }),
      withKeys(unsigned.json, { signatures: {} }),
      powerless.json,
      orphan.json,
      stranger.json,
      good.json,
    ]);
    await publish(handedOver);
    const reason = await deadLetterOf(handedOver);
    expect(reason).toMatch(/^5 of 7 PDUs: /);
    expect(reason).toContain('one without an ID: EV-');
    expect(reason).toContain('CJ-05');
    expect(reason).toContain(`${unsigned.eventId}: PD-02`);
    expect(reason).toContain(`${orphan.eventId}: SL-13`);
    expect(reason).toContain(`${stranger.eventId}: AE-05`);
    expect(reason).not.toContain(powerless.eventId);
    const log = await logOf(room.roomId);
    expect(log.slice(-2)).toMatchObject([
      { type: 'PduAccepted', event_id: good.eventId },
      { type: 'PduRejected', event_id: powerless.eventId, rule: 'AU-30' },
    ]);
    const metrics = await (await fetch(`${ours.platformUrl}/metrics`)).text();
    expect(metrics).toMatch(/^exeunt_ingest_waiting 0$/m);
    expect(metrics).toMatch(/exeunt_dead_letters_total\{consumer="exeunt-ingest"\} [1-9]/);
    expect(metrics).toMatch(/exeunt_ingested_total\{type="exeunt.ingest-pdus.v1",outcome="in-part"\} [1-9]/);
  });

  it('that the current state forbids are soft-failed, for they are of now (PD-06)', async () => {
    const room = await importRoom(ours, {
      version: '11',
      peers: [peer],
      grow: (builder) => builder.member(`@ian:${peer.name}`, 'join'),
    });
    const late = room.builder.make({ sender: `@ian:${peer.name}`, content: { body: 'late' } });
    await room.say('m.room.member', `@ian:${peer.name}`, { membership: 'ban' });
    await publish(pdusMessage(room.roomId, [late.json]));
    await handled();
    expect((await logOf(room.roomId)).at(-1)).toMatchObject({
      type: 'PduSoftFailed',
      event_id: late.eventId,
    });
  });

  it('wait for keys that their server does not tell now, with what rests on them, and the others go on', async () => {
    const silent = await startRemoteServer({ host: '127.0.0.3' });
    silent.keys = 'fail';
    const sid = `@sid:${silent.name}`;
    const alice = `@alice:${ours.name}`;
    const builder = new RoomBuilder({
      version: '11',
      servers: [
        { name: ours.name, key: ours.running.platform.side.signingKey },
        { name: silent.name, key: silent.key },
      ],
      creator: alice,
    });
    await publish(message('exeunt.ingest-room.v1', builder.roomId, importOf(builder, [])));
    const before = builder.say({ sender: alice, content: { body: 'before' } });
    const joined = builder.member(sid, 'join');
    const resting = builder.say({ sender: alice, content: { body: 'rests on it' } });
    const behind = builder.say({ sender: alice, content: { body: 'in the next message' } });
    const forged = withKeys(builder.make({ sender: alice, content: { body: 'forged' } }).json, {
      origin_server_ts: 1,
    });
    const mixed = pdusMessage(builder.roomId, [before.json, joined.json, resting.json, forged]);
    await publish(mixed, pdusMessage(builder.roomId, [behind.json]));
    expect(await deadLetterOf(mixed)).toMatch(/^1 of 4 PDUs: \S+: PD-02/);
    await handled();
    const accepted = async (): Promise<readonly unknown[]> =>
      (await logOf(builder.roomId))
        .filter(({ type }) => type === 'PduAccepted')
        .map(({ event_id: id }) => id)
        .slice(builder.pdus.length - 4);
    expect(await accepted()).toEqual([before.eventId]);
    silent.keys = 'serve';
    await settle('what waited is taken', async () => ((await accepted()).length === 4 ? true : undefined));
    expect(await accepted()).toEqual([before, joined, resting, behind].map(({ eventId }) => eventId));
    await silent.close();
  });
});

describe('what cannot be taken goes to the dead-letter topic with the reason', () => {
  const rows: readonly (readonly [string, () => BusMessage, string])[] = [
    ['a value that is not JSON', () => ({ ...knockMessage('!r:x.test'), value: '{' }), 'not-json'],
    ['a value that is a list', () => message('exeunt.ingest-room.v1', '!r:x.test', []), 'not an object'],
    [
      'a type that nobody knows',
      () => message('exeunt.ingest-what.v9', '!r:x.test', {}),
      'type is not known',
    ],
    [
      'a message without CloudEvents headers',
      () => ({ ...knockMessage('!r:x.test'), headers: { ce_id: 'bare' } }),
      'ce_specversion',
    ],
    [
      'one of another content type',
      () => {
        const one = knockMessage('!r:x.test');
        return { ...one, headers: { ...one.headers, 'content-type': 'application/avro' } };
      },
      'content-type',
    ],
    ['one whose key is no room ID', () => ({ ...knockMessage('!r:x.test'), key: 'room' }), 'not a room ID'],
    [
      'one whose key is another room',
      () => ({ ...knockMessage('!r:x.test'), key: '!s:x.test' }),
      'key is not',
    ],
    ['PDUs of a room that nobody knows', () => pdusMessage('!unknown:x.test', []), 'ML-16'],
    [
      'more PDUs than a message may have',
      () =>
        pdusMessage(
          '!r:x.test',
          Array.from({ length: 1_001 }, () => ({})),
        ),
      'more than 1000',
    ],
    [
      'pdus that are no list',
      () => message('exeunt.ingest-pdus.v1', '!r:x.test', { room_id: '!r:x.test' }),
      'pdus',
    ],
    [
      'keys that are none',
      () => pdusMessage('!r:x.test', [], { server_keys: [{ server_name: 'x.test' }] }),
      'server_keys',
    ],
    ['a room under the key of another', () => roomMessage(paperRoom(), '!other:x.test'), 'AE-05'],
    [
      'a room without its create event',
      () => message('exeunt.ingest-room.v1', '!r:x.test', { room_version: '11', events: [] }),
      'AE-04',
    ],
    [
      'a room of a version that nobody knows',
      () => message('exeunt.ingest-room.v1', '!r:x.test', { room_version: '99', events: [] }),
      'RV-04',
    ],
    ['a knock of somebody else’s user', () => knockMessage('!r:x.test', { user_id: '@eve:x.test' }), 'KN-03'],
    ['a knock in a version without', () => knockMessage('!r:x.test', { room_version: '6' }), 'KN-04'],
    ['a knock that went by nobody', () => knockMessage('!r:x.test', { via: [] }), 'via'],
    [
      'a knock that is an invite',
      () =>
        knockMessage('!r:x.test', {
          event: {
            type: 'm.room.member',
            sender: bob,
            state_key: bob,
            room_id: '!r:x.test',
            content: { membership: 'invite' },
          },
        }),
      'KN-02',
    ],
  ];
  it.each(rows)('%s', async (_, make, reason) => {
    const bad = make();
    await publish(bad);
    expect(await deadLetterOf(bad)).toContain(reason);
  });

  it('holds the message as it came', async () => {
    const bad = { ...knockMessage('!r:x.test'), value: 'no JSON \0' };
    await publish(bad);
    await deadLetterOf(bad);
    const { message: parked, consumer } = JSON.parse(deadLetters.at(-1)!.value) as {
      readonly message: ReceivedMessage;
      readonly consumer: string;
    };
    expect(consumer).toBe('exeunt-ingest');
    expect(parked).toMatchObject(bad);
  });
});

/** A room of the peer's on which bob knocks: the peer has his knock in its state. */
function knockedOn(version: string): {
  readonly room: PeerRoom;
  readonly knock: JsonObject;
  readonly eventId: string;
} {
  const ian = `@ian:${peer.name}`;
  const builder = new RoomBuilder({
    version,
    servers: [
      { name: ours.name, key: ours.running.platform.side.signingKey },
      { name: peer.name, key: peer.key },
    ],
    creator: ian,
    joinRule: 'knock',
  });
  const { json, eventId } = builder.member(bob, 'knock');
  return { room: { roomId: builder.roomId, version, builder, ian }, knock: json, eventId };
}

const knocksOf = async (): Promise<readonly JsonObject[]> =>
  (await membershipsOf(ours, bob))['knocks'] as readonly JsonObject[];
const knockOn = async (roomId: string): Promise<JsonObject | undefined> =>
  (await knocksOf()).find(({ room_id: id }) => id === roomId);
const leave = (roomId: string) => ours.platform('POST', '/v1/leaves', { user_id: bob, room_id: roomId });

/** The peer gives the template of bob's leave and takes the leave, as a good resident does. */
function takesRetraction(room: PeerRoom): JsonObject[] {
  const { builder, roomId } = room;
  const taken: JsonObject[] = [];
  const encoded = encodeURIComponent(roomId).replace('!', '%21');
  peer.on('GET', `/_matrix/federation/v1/make_leave/${encoded}/`, (_, response) =>
    respond(response, 200, leaveTemplateOf(room, peer.name, bob)),
  );
  peer.on('PUT', `/_matrix/federation/v2/send_leave/${encoded}/`, (request, response) => {
    const pdu = parsePdu(request.json as JsonObject, builder.version);
    if (isPduFault(pdu)) return respond(response, 400, { errcode: 'M_BAD_JSON', error: pdu.detail });
    const { refusal } = builder.receive(pdu);
    if (refusal !== undefined)
      return respond(response, 403, { errcode: 'M_FORBIDDEN', error: refusal.detail });
    taken.push(pdu.json);
    return respond(response, 200, {});
  });
  return taken;
}

describe.each(['7', '11', '12'])('a knock on a room of version %s', (version) => {
  it('waits, and the leave retracts it at the server that it went by (KN-03)', async () => {
    const { room, knock, eventId } = knockedOn(version);
    const shown = room.builder.pdus.filter(({ type }) => type !== 'm.room.member').map(({ json }) => json);
    const told = knockMessage(room.roomId, {
      room_version: version,
      event: knock,
      knock_room_state: shown,
    });
    await publish(told, told);
    await handled();
    expect((await knocksOf()).filter(({ room_id: id }) => id === room.roomId)).toMatchObject([
      { room_id: room.roomId, room_version: version, via: [peer.name], event_id: eventId, event: knock },
    ]);
    const taken = takesRetraction(room);
    expect(await leave(room.roomId)).toMatchObject({
      status: 200,
      body: { status: 'completed', how: 'accepted' },
    });
    expect(taken).toMatchObject([{ sender: bob, state_key: bob, content: { membership: 'leave' } }]);
    expect(await knockOn(room.roomId)).toBeUndefined();
    // Told of once more it stays retracted.
    await publish(told);
    await handled();
    expect(await knockOn(room.roomId)).toBeUndefined();
  });

  it('is denied by a leave that cites it, and needs no retraction then', async () => {
    const { room, knock, eventId } = knockedOn(version);
    await publish(knockMessage(room.roomId, { room_version: version, event: knock }));
    await handled();
    const deny = (authEvents: JsonObject) =>
      room.builder.make({
        sender: room.ian,
        type: 'm.room.member',
        stateKey: bob,
        content: { membership: 'leave' },
        changes: authEvents,
      });
    const guess = deny({ auth_events: [`$${'D'.repeat(43)}`] });
    await putTransaction(peer, ours, `guess${version}`, { pdus: [guess.json] });
    expect(await knockOn(room.roomId)).toBeDefined();
    const denial = deny({});
    expect(denial.authEvents).toContain(eventId);
    const answer = await putTransaction(peer, ours, `denial${version}`, { pdus: [denial.json] });
    expect(answer.json).toEqual({ pdus: { [denial.eventId]: {} } });
    expect(await knockOn(room.roomId)).toBeUndefined();
    expect(await leave(room.roomId)).toMatchObject({ status: 200, body: { how: 'already-out' } });
  });

  it('is answered by an invite, which says so (IN-13)', async () => {
    const { room, knock, eventId } = knockedOn(version);
    await publish(knockMessage(room.roomId, { room_version: version, event: knock }));
    await handled();
    const invite = inviteOf(room, bob);
    expect((await putInvite(peer, ours, invite)).status).toBe(200);
    expect(await knockOn(room.roomId)).toBeUndefined();
    const { invites } = await membershipsOf(ours, bob);
    expect(invites).toContainEqual(
      expect.objectContaining({
        room_id: room.roomId,
        event_id: invite.eventId,
        answers_knock: { event_id: eventId, told_at: expect.any(Number) },
      }),
    );
  });
});

describe('a knock of which only the server is told', () => {
  it('is retracted in whatever version the server names', async () => {
    const { room } = knockedOn('9');
    await publish(knockMessage(room.roomId));
    await handled();
    expect(await knockOn(room.roomId)).toMatchObject({ room_id: room.roomId, via: [peer.name] });
    const taken = takesRetraction(room);
    expect((await leave(room.roomId)).body).toMatchObject({ status: 'completed', how: 'accepted' });
    expect(taken).toHaveLength(1);
  });
});

describe('a knock that is told of when the invite that answers it is here', () => {
  it('is not pending, and the invite says what it answers (IN-13)', async () => {
    const room = roomOf(peer, '11');
    await inviteOurUser(peer, ours, room, bob);
    await publish(knockMessage(room.roomId, { event_id: `$${'K'.repeat(43)}`, room_version: '11' }));
    await handled();
    expect(await knockOn(room.roomId)).toBeUndefined();
    expect((await membershipsOf(ours, bob))['invites']).toContainEqual(
      expect.objectContaining({
        room_id: room.roomId,
        answers_knock: { event_id: `$${'K'.repeat(43)}`, told_at: expect.any(Number) },
      }),
    );
  });
});
