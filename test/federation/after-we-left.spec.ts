import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventIdOf, isPduFault, parsePdu, type Pdu } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { memberOf, stringifyJson, type JsonObject } from '@exeunt/signing';
import { asking, everyQuestion } from '../harness/asking-history.js';
import { delivered, importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { makeLeave } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { startRemoteServer, type PeerResponse, type RemoteServer } from '../harness/remote-server.js';
import { putTransaction } from '../leaving-harness.js';

/*
 * Our last user leaves. A server that was in the room then, and missed what came before, must be able to get it from
 * us, or it will never take the leave: we are not in the room any more and nobody else need have it.
 */

let directory: string;
let ours: LeaveServer;
/** In the room to the end. */
let behind: RemoteServer;
/** In the room, and gone before our last user. */
let gone: RemoteServer;
let stranger: RemoteServer;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'exeunt-left-'));
  ours = await startLeaveServer({ dataDirectory: directory });
  behind = await startRemoteServer({ host: '127.0.0.2' });
  gone = await startRemoteServer({ host: '127.0.0.3' });
  stranger = await startRemoteServer({ host: '127.0.0.4' });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), behind?.close(), gone?.close(), stranger?.close()]);
  await rm(directory, { recursive: true, force: true });
});

async function restart(): Promise<void> {
  const { name } = ours;
  await ours.stop();
  ours = await startLeaveServer({
    dataDirectory: directory,
    environment: {
      EXEUNT_SERVER_NAME: name,
      EXEUNT_FEDERATION_PORT: name.slice(name.lastIndexOf(':') + 1),
    },
  });
}

interface Left {
  readonly room: ImportedRoom;
  /** The last event that the peer has. */
  readonly had: Pdu;
  /** What it missed, oldest first. */
  readonly missed: readonly Pdu[];
  readonly leave: Pdu;
}

/** alice says three things and leaves, the last of ours. */
async function leaveARoom(version: string): Promise<Left> {
  const room = await importRoom(ours, {
    version,
    peers: [behind, gone],
    grow(builder) {
      builder.member(`@bob:${behind.name}`, 'join');
      builder.member(`@carol:${gone.name}`, 'join');
      builder.member(`@carol:${gone.name}`, 'leave');
    },
  });
  const position = await room.position();
  for (const topic of ['one', 'two', 'three']) await room.say('m.room.topic', '', { topic });
  await ours.ok('POST', '/v1/leaves', { user_id: room.alice, room_id: room.roomId, reason: 'bye' });
  const pdus = (await room.since(position)).map(({ pdu }) => {
    const parsed = parsePdu(pdu as JsonObject, roomVersion(version)!);
    if (isPduFault(parsed)) throw new Error(parsed.detail);
    return parsed;
  });
  expect(pdus).toHaveLength(4);
  return { room, had: room.builder.pdus.at(-1)!, missed: pdus.slice(0, 3), leave: pdus[3]! };
}

const list = (answer: PeerResponse, key: string): readonly unknown[] => {
  expect(answer.status, answer.body.toString()).toBe(200);
  return memberOf(answer.json as JsonObject, key) as unknown as readonly unknown[];
};
const texts = (pdus: readonly unknown[]): readonly string[] =>
  pdus.map((pdu) => stringifyJson(pdu as JsonObject));
const jsonOf = (pdus: readonly Pdu[]): string[] => pdus.map(({ json }) => stringifyJson(json));
const idsOf = (pdus: readonly Pdu[]): string[] => pdus.map(({ eventId }) => eventId);

/** All that a server must have to judge the leave, from the leave itself on. */
async function getAllThatIsMissing({ room, had, missed, leave }: Left): Promise<void> {
  const ask = asking(behind, ours, room.roomId);
  const all = [...room.builder.pdus, ...missed];
  const since = { earliest_events: [had.eventId] };
  expect(texts(list(await ask.missing([leave.eventId], since), 'events'))).toEqual(jsonOf(missed));
  for (const pdu of [...missed, leave]) {
    expect(texts(list(await ask.event(pdu.eventId), 'pdus'))).toEqual(jsonOf([pdu]));
  }
  expect(texts(list(await ask.backfill([leave.eventId], '4'), 'pdus'))).toEqual(
    jsonOf([leave, ...missed.toReversed()]),
  );
  const state = new Map(
    all.filter(({ stateKey }) => stateKey !== undefined).map((pdu) => [`${pdu.type} ${pdu.stateKey}`, pdu]),
  );
  const stateIds = await ask.stateIds(leave.eventId);
  expect([...list(stateIds, 'pdu_ids')].toSorted()).toEqual(idsOf([...state.values()]).toSorted());
  const full = await ask.state(leave.eventId);
  expect(texts(list(full, 'pdus')).toSorted()).toEqual(jsonOf([...state.values()]).toSorted());
  const chain = list(await ask.eventAuth(leave.eventId), 'auth_chain') as readonly JsonObject[];
  const version = roomVersion(room.version)!;
  expect(chain.map((pdu) => eventIdOf(pdu, version))).toEqual(expect.arrayContaining([...leave.authEvents]));
}

async function expectNothing(left: Left, peer: RemoteServer): Promise<void> {
  const questions = everyQuestion(asking(peer, ours, left.room.roomId), left.leave.eventId);
  for (const [endpoint, answer] of questions) {
    const { status, json } = await answer();
    expect([endpoint, status, json]).toMatchObject(
      endpoint === 'event'
        ? [endpoint, 404, { errcode: 'M_NOT_FOUND' }]
        : [endpoint, 403, { errcode: 'M_FORBIDDEN' }],
    );
  }
}

describe.each(['1', '11', '12'])('a room of version %s that our last user has left', (version) => {
  let left: Left;
  beforeAll(async () => {
    left = await leaveARoom(version);
  });

  it('gives the ancestors of that leave to a server that was in it then (FE-02 to FE-06)', async () => {
    expect(await delivered(behind, left.leave.json)).toEqual(left.leave.json);
    await getAllThatIsMissing(left);
  });

  it('gives nothing to a server that was never in it, or had gone before', async () => {
    await expectNothing(left, stranger);
    await expectNothing(left, gone);
  });

  it('stays as it was: what happens in it later is not taken, so never given', async () => {
    const { room, leave } = left;
    const position = await room.position();
    const later = room.builder.make({
      sender: `@bob:${behind.name}`,
      content: { body: 'they are gone' },
    });
    await putTransaction(behind, ours, `later${version}`, { pdus: [later.json] });
    expect(await room.position()).toBe(position);
    expect((await asking(behind, ours, room.roomId).event(later.eventId)).status).toBe(404);
    expect((await asking(behind, ours, room.roomId).event(leave.eventId)).status).toBe(200);
  });

  it('does so after a restart as well, and is otherwise not ours any more (ML-16)', async () => {
    await restart();
    await getAllThatIsMissing(left);
    await expectNothing(left, stranger);
    const bob = `@bob:${behind.name}`;
    expect(await makeLeave(behind, ours, left.room.roomId, bob)).toMatchObject({
      status: 404,
      json: { errcode: 'M_NOT_FOUND', rule: 'ML-16' },
    });
  });
});

it('a server that the ACL denied then stays denied, but for GET event, which names no room (AC-05)', async () => {
  const room = await importRoom(ours, {
    version: '11',
    peers: [behind],
    grow: (builder) => void builder.member(`@bob:${behind.name}`, 'join'),
  });
  const acl = await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
  await ours.ok('POST', '/v1/leaves', { user_id: room.alice, room_id: room.roomId });
  for (const [endpoint, answer] of everyQuestion(asking(behind, ours, room.roomId), acl)) {
    const { status, json } = await answer();
    if (endpoint === 'event') expect([endpoint, status]).toEqual([endpoint, 200]);
    else expect([endpoint, status, json]).toMatchObject([endpoint, 403, { rule: 'AC-05' }]);
  }
});
