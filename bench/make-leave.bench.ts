import 'reflect-metadata';
import { serverNameOf, type RoomId, type UserId } from '@exeunt/pdu';
import { admitServer, isRefusal, leaveTemplate } from '@exeunt/room';
import { RoomStore } from '@exeunt/room-store';
import { signRequest } from '@exeunt/signing';
import { startLeaveServer } from '../test/harness/leave-server.js';
import { federationUri } from '../test/harness/leaving-user.js';
import { startRemoteServer } from '../test/harness/remote-server.js';
import { growth, usersOf } from './large-room.js';
import { postgresForBench } from './postgres-for-bench.js';
import { flagOption, median, numberOption, progress, report, textOption } from './report.js';

/*
 * A leave template of a room with a hundred thousand members against one of a room with ten, in turns in the same run.
 *
 * warm: over HTTP (loopback, kept alive, TLS off, X-Matrix checked), of rooms that the server has in its cache, by users
 * whose facts it has. cold: the decision on a room store with an empty cache, as in a new process: everything comes from the database.
 * Nothing is left in memory of the making of the rooms.
 *
 *   --members N  of the large room (100000)
 *   --rounds N   (400)
 *   --version V  (11)
 *   --pglite     on PGlite in memory; PostgreSQL with fsync unless told
 */

const members = numberOption('members', 100_000);
const rounds = numberOption('rounds', 400);
const version = textOption('version') ?? '11';
const askers = 10;

const postgres = flagOption('pglite') ? undefined : await postgresForBench();
const peer = await startRemoteServer({ host: '127.0.0.2' });
const options = {
  ...(postgres === undefined ? {} : { databaseUrl: postgres.url }),
  environment: { EXEUNT_FEDERATION_TLS: 'off' },
};
const ours = await startLeaveServer(options);
const { side, store } = ours.running.platform;

try {
  const small = await makeRoom(askers);
  const start = performance.now();
  const large = await makeRoom(members);
  progress(`a room of ${members} members made in ${((performance.now() - start) / 1000).toFixed(0)} s`);

  const warm = await inTurns(rounds, (roomId, round) => ask(roomId, user(round % askers)));
  const cold = await inTurns(Math.ceil(rounds / 4), async (roomId, round) => {
    const fresh = new RoomStore(store);
    await template(fresh, roomId, user(round % askers));
  });

  report({
    name: 'make-leave',
    unit: 'ms',
    value: warm.large,
    baseline: warm.small,
    ratio: warm.large / warm.small,
    target: { atMost: 1.2 },
    baselineIs: `a room of ${askers} members`,
    database: postgres === undefined ? 'PGlite' : 'PostgreSQL',
    members,
    version,
    warm,
    cold: { ...cold, moreMs: cold.large - cold.small, target: { moreMsAtMost: 50 } },
  });

  async function inTurns(times: number, one: (roomId: RoomId, round: number) => Promise<void>) {
    const took = { large: [] as number[], small: [] as number[] };
    for (let round = -20; round < times; round++) {
      const pair = [['large', large] as const, ['small', small] as const];
      for (const [size, roomId] of round % 2 === 0 ? pair : pair.reverse()) {
        const begun = performance.now();
        await one(roomId, Math.max(0, round));
        if (round >= 0) took[size].push(performance.now() - begun);
      }
    }
    return { large: median(took.large), small: median(took.small) };
  }
} finally {
  await ours.stop();
  await peer.close();
  await postgres?.stop();
}

function user(at: number): UserId {
  return `@user-${at}:${peer.name}` as UserId;
}

/** A room of ours with the peer's users and, beyond those, others of a hundred members a server. */
async function makeRoom(count: number): Promise<RoomId> {
  function* all() {
    for (let at = 0; at < askers; at++) yield user(at);
    yield* usersOf(count - askers, 100);
  }
  // A store of its own, so that the server's cache knows nothing of the room.
  const rooms = new RoomStore(store);
  const { roomId, steps } = growth({ version, ourName: ours.name, members: all() });
  const decisions = await rooms.executeAll(roomId, [...steps]);
  const refused = decisions.find(({ refusal }) => refusal !== undefined)?.refusal;
  if (refused !== undefined) throw new Error(`${refused.rule}: ${refused.detail}`);
  return roomId;
}

async function ask(roomId: string, userId: UserId): Promise<void> {
  const uri = federationUri('v1/make_leave', roomId, userId);
  const authorization = signRequest(
    { method: 'GET', uri, origin: serverNameOf(userId), destination: ours.name },
    peer.key,
  );
  const response = await fetch(`${ours.federationUrl}${uri}`, { headers: { authorization } });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${response.status} ${text}`);
}

async function template(rooms: RoomStore, roomId: RoomId, userId: UserId): Promise<void> {
  const asked = { userId, ourName: side.ourName, now: Date.now() };
  const servers = { origin: serverNameOf(userId), ourName: side.ourName };
  const made = await rooms.query(roomId, (room) => admitServer(room, servers) ?? leaveTemplate(room, asked));
  if (isRefusal(made)) throw new Error(made.detail);
}
