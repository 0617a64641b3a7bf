import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OwnKeys } from '@exeunt/key-ring';
import { parseServerName } from '@exeunt/pdu';
import { isJsonObject, withoutKeys, type JsonObject } from '@exeunt/signing';
import { importOf, pdusOf } from '../harness/imported-room.js';
import { buildProgram, startLeaveProcess, type LeaveProcess } from '../harness/leave-process.js';
import { freePort } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { federationUri, signTemplate } from '../harness/leaving-user.js';
import { startRemoteServer, type PeerResponse, type RemoteServer } from '../harness/remote-server.js';
import { RoomBuilder } from '../harness/room-builder.js';

type Leave = ReturnType<typeof signTemplate>;

const usersPerRoom = 60;
const rounds = 3;

let dataDirectory: string;
let ours: LeaveProcess;
let leaver: RemoteServer;
let observer: RemoteServer;
let start: () => Promise<LeaveProcess>;

beforeAll(async () => {
  await buildProgram();
  dataDirectory = await mkdtemp(join(tmpdir(), 'exeunt-kill-'));
  const ports = { federationPort: await freePort('127.0.0.1'), platformPort: await freePort('127.0.0.1') };
  start = () => startLeaveProcess({ dataDirectory, ...ports });
  ours = await start();
  leaver = await startRemoteServer({ host: '127.0.0.2' });
  observer = await startRemoteServer({ host: '127.0.0.3' });
});
afterAll(async () => {
  await ours?.kill();
  await Promise.all([leaver?.close(), observer?.close()]);
  if (dataDirectory !== undefined) await rm(dataDirectory, { recursive: true, force: true });
});

interface Storm {
  readonly roomId: string;
  readonly path: string;
  /** Of the room's log before the storm. */
  readonly before: number;
  readonly leaves: readonly Leave[];
}

/** A room of alice's with a user of the observer's joined and many of the leaver's invited, and their leaves. */
async function prepare(version: string, round: number): Promise<Storm> {
  const alice = `@alice:${ours.name}`;
  const keyFile = await readFile(join(dataDirectory, 'signing.key'), 'utf8');
  const own = OwnKeys.parse(parseServerName(ours.name)!, keyFile);
  const builder = new RoomBuilder({
    version,
    servers: [
      { name: own.serverName, key: own.signingKey },
      { name: leaver.name, key: leaver.key },
      { name: observer.name, key: observer.key },
    ],
    creator: alice,
  });
  builder.member(`@olga:${observer.name}`, 'join');
  const users = Array.from({ length: usersPerRoom }, (_, at) => `@user${round}x${at}:${leaver.name}`);
  for (const user of users) builder.member(user, 'invite', alice);
  const report = await ours.ok('POST', '/v1/rooms/import', importOf(builder, [leaver, observer]));
  expect(report).toMatchObject({ accepted: builder.pdus.length, rejected: [] });

  const path = `/v1/rooms/${encodeURIComponent(builder.roomId)}`;
  const leaves = await Promise.all(
    users.map(async (user) => {
      const made = await request('GET', federationUri('v1/make_leave', builder.roomId, user));
      return signTemplate(leaver, version, (made.json as JsonObject)['event'] as JsonObject);
    }),
  );
  const { position } = await ours.ok('GET', path);
  return { roomId: builder.roomId, path, before: Number(position), leaves };
}

function request(method: 'GET' | 'PUT', uri: string, body?: JsonObject): Promise<PeerResponse> {
  return leaver.request({
    method,
    uri,
    destination: ours.name,
    baseUrl: ours.federationUrl,
    ...(body === undefined ? {} : { body }),
  });
}

const submit = ({ roomId, eventId, event }: Leave): Promise<PeerResponse> =>
  request('PUT', federationUri('v2/send_leave', roomId, eventId), event);

describe('the process is killed in a storm of leaves', () => {
  it(
    'every leave that was answered with 200 is in the log once, in the state, and with the observer (SL-14, BR-07)',
    { timeout: 120_000 },
    async () => {
      for (let round = 0; round < rounds; round++) {
        const version = ['11', '2', '12'][round]!;
        const storm = await prepare(version, round);

        // Killed after a number of answers that no two runs need have in common.
        const killAfter = 1 + Math.floor(Math.random() * (usersPerRoom - 10));
        const accepted = new Set<string>();
        let killed: Promise<void> | undefined;
        await Promise.all(
          storm.leaves.map((leave) =>
            submit(leave).then(
              ({ status }) => {
                expect(status).toBe(200);
                accepted.add(leave.eventId);
                if (accepted.size >= killAfter) killed ??= ours.kill();
              },
              // It was cut off: nobody knows what became of it.
              () => undefined,
            ),
          ),
        );
        await killed;
        expect(accepted.size).toBeGreaterThanOrEqual(killAfter);
        ours = await start();

        const logged = await expectWhole(storm, accepted);
        // Who was not answered asks again with the same event, and is told the same as those who were. (LV-15, SL-15)
        const again = await Promise.all(storm.leaves.map(submit));
        expect(again.map(({ status }) => status)).toEqual(storm.leaves.map(() => 200));
        const all = await expectWhole(storm, new Set(storm.leaves.map(({ eventId }) => eventId)));
        expect(all.slice(0, logged.length)).toEqual(logged);
        expect(await ours.ok('GET', storm.path)).toMatchObject({
          members: { join: 2, invite: 0, leave: usersPerRoom },
          position: storm.before + usersPerRoom,
        });
        await expectObserved(storm);
      }
    },
  );
});

/** The log has no gap, and every one of these leaves in it once, and in the state. Gives the IDs in order. */
async function expectWhole(storm: Storm, accepted: ReadonlySet<string>): Promise<readonly string[]> {
  const { events } = await ours.ok('GET', `${storm.path}/events?from=${storm.before + 1}&limit=10000`);
  const logged = events as readonly JsonObject[];
  expect(logged.map(({ position }) => position)).toEqual(logged.map((_, at) => storm.before + 1 + at));
  expect(logged.every(({ type }) => type === 'PduAccepted')).toBe(true);
  const ids = logged.map(({ event_id: id }) => String(id));
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids).toEqual(expect.arrayContaining([...accepted]));
  const sent = new Map(storm.leaves.map((leave) => [leave.eventId, leave.event]));
  for (const { event_id: id, pdu } of logged) expect(pdu).toEqual(sent.get(String(id)));

  const state = await ours.ok('GET', `${storm.path}/state?type=m.room.member`);
  const members = new Map(
    (state['events'] as readonly JsonObject[]).map((event) => [String(event['state_key']), event]),
  );
  for (const { eventId, event } of storm.leaves) {
    const member = members.get(String(event['sender']))!;
    const membership = isJsonObject(member['content']) ? member['content']['membership'] : undefined;
    if (ids.includes(eventId)) expect(member['event_id']).toBe(eventId);
    expect(membership).toBe(ids.includes(eventId) ? 'leave' : 'invite');
  }
  const shown = await ours.ok('GET', storm.path);
  expect(shown['position']).toBe(storm.before + ids.length);
  expect([...(shown['forward_extremities'] as readonly string[])].sort()).toEqual([...ids].sort());
  return ids;
}

/** The observer has had every leave at least once, each time as it was signed. */
async function expectObserved({ leaves }: Storm): Promise<void> {
  const sent = new Map(leaves.map(({ event }) => [JSON.stringify(event['signatures']), event]));
  await settle('the observer has every leave', () => {
    const got = new Set(observer.requests.flatMap(pdusOf).map((pdu) => JSON.stringify(pdu['signatures'])));
    return [...sent.keys()].every((signatures) => got.has(signatures)) ? true : undefined;
  });
  for (const pdu of observer.requests.flatMap(pdusOf)) {
    const event = sent.get(JSON.stringify(pdu['signatures']));
    if (event !== undefined) expect(withoutKeys(pdu, 'unsigned')).toEqual(event);
  }
}
