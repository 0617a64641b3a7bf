import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Database } from '@exeunt/database';
import {
  LeaveAll1700000000050,
  LeaveAllRunner,
  LeaveAllStore,
  leavingMigrations,
  LeavingStore,
  maxSweeps,
  requestLeave,
  type LeaveAllRun,
  type LeaveAllRunnerOptions,
  type MembershipToLeave,
  type RoomLeft,
  type RoomToLeave,
} from '@exeunt/leaving';
import { ManualClock } from '@exeunt/message-bus';
import type { RoomId, ServerName, UserId } from '@exeunt/pdu';
import { settle, ticking, until } from '../harness/settle.js';
import { pgliteKind, postgresKind, type DatabaseKind } from './message-bus.database.js';

const migrations = [...leavingMigrations, LeaveAll1700000000050];
const kinds: DatabaseKind[] = [await pgliteKind()];
const postgres = await postgresKind();
if (postgres === undefined) console.warn('leave-all: PostgreSQL NOT tested; install a PostgreSQL server');
else kinds.push(postgres);
afterAll(async () => {
  for (const kind of kinds) await kind.end();
});

const all: readonly MembershipToLeave[] = ['join', 'invite', 'knock'];
const room = (name: number | string): RoomId => `!${String(name).padStart(5, '0')}:y.example` as RoomId;

/** The rooms that a user is in, as a map, and what becomes of them. */
class House {
  readonly rooms = new Map<RoomId, MembershipToLeave>();
  /** In order, whatever came of it. */
  readonly asked: RoomId[] = [];
  /** Takes the place of leaving. */
  readonly otherwise = new Map<RoomId, () => Promise<RoomLeft>>();
  underWay = 0;
  mostUnderWay = 0;

  constructor(...rooms: readonly (readonly [RoomId, MembershipToLeave])[]) {
    for (const [roomId, membership] of rooms) this.rooms.set(roomId, membership);
  }

  async *roomsOf(): AsyncGenerator<RoomToLeave> {
    const asTheyAre = [...this.rooms];
    for (const [roomId, membership] of asTheyAre) yield { roomId, membership };
  }

  async leave(roomId: RoomId): Promise<RoomLeft> {
    this.asked.push(roomId);
    this.mostUnderWay = Math.max(this.mostUnderWay, ++this.underWay);
    try {
      await new Promise((resolve) => setImmediate(resolve));
      const otherwise = this.otherwise.get(roomId);
      if (otherwise !== undefined) return await otherwise();
      this.rooms.delete(roomId);
      return { leaveId: `leave-${roomId}` };
    } finally {
      this.underWay--;
    }
  }
}

describe.each(kinds.map((kind) => [kind.name, kind] as const))('leaving everything, on %s', (name, kind) => {
  let database: Database;
  let store: LeaveAllStore;
  let users = 0;
  const runners: LeaveAllRunner[] = [];

  beforeAll(async () => {
    database = await kind.open('leave-all', migrations);
    store = new LeaveAllStore(database);
  });
  afterEach(async () => {
    for (const runner of runners.splice(0)) await runner.stop();
    // What a test left waiting is not the next one's.
    await database.query('DELETE FROM leave_all_rooms');
    await database.query('DELETE FROM leave_all_runs');
  });
  afterAll(() => database?.close());

  const aUser = (): UserId => `@user${++users}-${name}:ours.example` as UserId;
  const begin = (
    userId: UserId,
    more: Partial<Parameters<LeaveAllStore['begin']>[0]> = {},
  ): Promise<LeaveAllRun> =>
    store.begin({
      userId,
      leaveAllId: `run-${userId}`,
      reason: undefined,
      include: all,
      now: 1,
      ...more,
    });

  function runnerOf(
    houses: ReadonlyMap<UserId, House>,
    options: Partial<LeaveAllRunnerOptions> = {},
  ): LeaveAllRunner {
    const runner = new LeaveAllRunner({
      store,
      roomsOf: (userId) => houses.get(userId)!.roomsOf(),
      leave: (userId, roomId) => houses.get(userId)!.leave(roomId),
      bounds: { minMs: 1_000, maxMs: 60_000 },
      random: () => 0,
      ...options,
    });
    runners.push(runner);
    return runner;
  }

  const completed = (userId: UserId): Promise<LeaveAllRun> =>
    settle('the run is completed', async () => {
      const run = await store.newestOf(userId);
      return run?.status === 'completed' ? run : undefined;
    });

  it('takes the user out of every room, a bounded number at a time, and ends', async () => {
    const userId = aUser();
    const house = new House(...Array.from({ length: 120 }, (_, at) => [room(at), all[at % 3]!] as const));
    const run = await begin(userId);
    const runner = runnerOf(new Map([[userId, house]]), { concurrency: 4 });
    await runner.sweep(run);
    expect(await store.countsOf(run)).toEqual({ total: 120, waiting: 120, left: 0, retrying: 0, refused: 0 });
    runner.start();
    expect(await completed(userId)).toMatchObject({ leaveAllId: run.leaveAllId });
    expect(house.rooms.size).toBe(0);
    expect(house.mostUnderWay).toBe(4);
    expect(await store.countsOf(run)).toEqual({ total: 120, waiting: 0, left: 120, retrying: 0, refused: 0 });
  });

  it('looks the rooms through itself where whoever began the run could not', async () => {
    const userId = aUser();
    const house = new House([room(1), 'join']);
    runnerOf(new Map([[userId, house]]), { pollMs: 10 }).start();
    await begin(userId);
    await completed(userId);
    expect(house.asked).toEqual([room(1)]);
  });

  it('is over at once for a user who is nowhere', async () => {
    const userId = aUser();
    const run = await begin(userId);
    await runnerOf(new Map([[userId, new House()]])).sweep(run);
    expect(await store.newestOf(userId)).toMatchObject({ status: 'completed', sweeps: 1 });
    expect(await store.countsOf(run)).toMatchObject({ total: 0 });
  });

  it('leaves what it was told to, and nothing else', async () => {
    const userId = aUser();
    const house = new House([room(1), 'join'], [room(2), 'invite'], [room(3), 'knock']);
    await begin(userId, { include: ['invite', 'knock'] });
    runnerOf(new Map([[userId, house]])).start();
    await completed(userId);
    expect([...house.rooms.keys()]).toEqual([room(1)]);
  });

  it('is the same run while it is running, and a new one in its place afterwards', async () => {
    const userId = aUser();
    const first = await begin(userId, { reason: 'moves \0 house' });
    expect(first).toMatchObject({ status: 'running', reason: 'moves \0 house', include: all });
    expect(await begin(userId, { leaveAllId: 'another', include: ['join'] })).toEqual(first);
    await runnerOf(new Map([[userId, new House([room(1), 'join'])]])).sweep(first);
    runners.at(-1)!.start();
    await completed(userId);
    const second = await begin(userId, { leaveAllId: 'another' });
    expect(second).toMatchObject({ leaveAllId: 'another', status: 'running', sweeps: 0, reason: undefined });
    expect(await store.countsOf(second)).toMatchObject({ total: 0 });
  });

  it('begins once where many begin it at the same time', async () => {
    const userId = aUser();
    const runs = await Promise.all(
      Array.from({ length: 10 }, (_, at) => begin(userId, { leaveAllId: `run-${at}` })),
    );
    expect(new Set(runs.map(({ leaveAllId }) => leaveAllId)).size).toBe(1);
  });

  it('leaves rooms that the user got into meanwhile, one left before among them', async () => {
    const userId = aUser();
    const house = new House([room(1), 'join'], [room(2), 'join']);
    house.otherwise.set(room(2), () => {
      house.otherwise.delete(room(2));
      house.rooms.delete(room(2));
      house.rooms.set(room(1), 'invite').set(room(3), 'invite');
      return Promise.resolve({ leaveId: 'second' });
    });
    const run = await begin(userId);
    runnerOf(new Map([[userId, house]]), { concurrency: 1 }).start();
    await completed(userId);
    expect(house.rooms.size).toBe(0);
    expect(house.asked).toEqual([room(1), room(2), room(1), room(3)]);
    expect(await store.countsOf(run)).toMatchObject({ total: 3, left: 3 });
  });

  it('ends though the user is invited again without end', async () => {
    const userId = aUser();
    const house = new House([room(1), 'invite']);
    house.otherwise.set(room(1), () => Promise.resolve({ leaveId: 'but is asked again' }));
    await begin(userId);
    runnerOf(new Map([[userId, house]])).start();
    expect(await completed(userId)).toMatchObject({ sweeps: maxSweeps });
    expect(house.asked).toHaveLength(maxSweeps);
  });

  it('does not try again what this server refuses, and says by which rule', async () => {
    const userId = aUser();
    const house = new House([room(1), 'join'], [room(2), 'join']);
    const refused = { rule: 'PS-01', detail: 'no \0 signature of the policy server' };
    house.otherwise.set(room(1), () => Promise.resolve({ refused }));
    const run = await begin(userId);
    runnerOf(new Map([[userId, house]])).start();
    await completed(userId);
    expect(house.asked.filter((one) => one === room(1))).toHaveLength(1);
    expect(await store.countsOf(run)).toEqual({ total: 2, waiting: 0, left: 1, retrying: 0, refused: 1 });
    expect(await store.openRoomsOf(run, { after: undefined, limit: 10 })).toEqual([
      { roomId: room(1), membership: 'join', status: 'refused', said: refused },
    ]);
  });

  it('tries a room again when its backoff is over, and goes on with the others meanwhile', async () => {
    const userId = aUser();
    const clock = new ManualClock(1_000);
    const house = new House([room(1), 'join'], [room(2), 'join']);
    let failures = 0;
    house.otherwise.set(room(1), () => {
      if (++failures === 3) house.otherwise.delete(room(1));
      return Promise.reject(new Error(`broken ${failures}`));
    });
    const problems: string[] = [];
    const run = await begin(userId);
    runnerOf(new Map([[userId, house]]), { clock, onProblem: (what) => problems.push(what) }).start();
    for (const [attempt, dueAt] of [2_000, 4_000, 8_000].entries()) {
      const [open] = await settle('it has failed', async () => {
        const rooms = await store.openRoomsOf(run, { after: undefined, limit: 10 });
        return rooms[0]?.said?.detail === `broken ${attempt + 1}` && rooms.length === 1 ? rooms : undefined;
      });
      expect(open).toMatchObject({ roomId: room(1), status: 'waiting', nextAttemptAt: dueAt });
      expect(await store.newestOf(userId)).toMatchObject({ status: 'running' });
      clock.advance(dueAt - clock.now());
    }
    await completed(userId);
    expect(house.rooms.size).toBe(0);
    expect(problems).toEqual(Array(3).fill(`the leave of ${userId} from ${room(1)}`));
  });

  it('is taken up by another where it was cut off, and does nothing twice but what was under way', async () => {
    const userId = aUser();
    const house = new House(...Array.from({ length: 130 }, (_, at) => [room(at), 'join'] as const));
    let hang: () => void = () => {};
    const hangs = new Promise<void>((resolve) => (hang = resolve));
    house.otherwise.set(room(60), () => {
      hang();
      return new Promise(() => {});
    });
    const run = await begin(userId);
    // As a process that dies: nobody stops it, it just never comes to the end of its fourth batch.
    const dying = new LeaveAllRunner({
      store,
      roomsOf: () => house.roomsOf(),
      leave: (_, roomId) => house.leave(roomId),
      bounds: { minMs: 1, maxMs: 1 },
      concurrency: 1,
    });
    dying.start();
    await hangs;
    house.otherwise.clear();
    const { waiting, left } = await store.countsOf(run);
    expect([waiting, left]).toEqual([70, 60]);
    const before = new Set(house.asked.slice(0, 60));
    const heir = new Map([[userId, house]]);
    runnerOf(heir).start();
    await completed(userId);
    expect(house.asked.slice(61).filter((roomId) => before.has(roomId))).toEqual([]);
    expect(house.rooms.size).toBe(0);
    expect(await store.countsOf(run)).toMatchObject({ total: 130, left: 130 });
  });

  it('comes to the same end where two work at it at once', async () => {
    const userId = aUser();
    const house = new House(...Array.from({ length: 150 }, (_, at) => [room(at), 'invite'] as const));
    const run = await begin(userId);
    const houses = new Map([[userId, house]]);
    runnerOf(houses).start();
    runnerOf(houses).start();
    await completed(userId);
    expect(house.rooms.size).toBe(0);
    expect(await store.countsOf(run)).toEqual({ total: 150, waiting: 0, left: 150, retrying: 0, refused: 0 });
  });

  it('many users leave at the same time, and nobody waits for the end of another', async () => {
    const houses = new Map<UserId, House>();
    for (let at = 0; at < 5; at++) {
      houses.set(aUser(), new House(...Array.from({ length: 20 }, (_, n) => [room(n), 'join'] as const)));
    }
    for (const userId of houses.keys()) await begin(userId);
    runnerOf(houses).start();
    await Promise.all([...houses.keys()].map(completed));
    expect([...houses.values()].map(({ rooms }) => rooms.size)).toEqual([0, 0, 0, 0, 0]);
  });

  it('goes on for others where the rooms of one cannot be read, and for that one when they can', async () => {
    const [one, other] = [aUser(), aUser()];
    const houses = new Map([one, other].map((userId) => [userId, new House([room(1), 'join'])]));
    const clock = new ManualClock();
    let isReadable = false;
    await begin(one, { now: 1 });
    await begin(other, { now: 2 });
    runnerOf(houses, {
      clock,
      async *roomsOf(userId) {
        if (userId === one && !isReadable) throw new Error('cannot be read');
        yield* houses.get(userId)!.roomsOf();
      },
    }).start();
    await completed(other);
    expect(await store.newestOf(one)).toMatchObject({ status: 'running', sweeps: 0 });
    isReadable = true;
    clock.advance(10_000);
    const isSwept = async (): Promise<boolean> => (await store.newestOf(one))!.sweeps > 0;
    await until('its rooms are looked through', isSwept, undefined, ticking(clock));
    await completed(one);
    expect(houses.get(one)!.rooms.size).toBe(0);
  });

  it('counts the rooms whose servers are still being told, and those that refuse, from the leaves themselves', async () => {
    const userId = aUser();
    const leaving = new LeavingStore(database);
    const rooms = [room('a'), room('b'), room('c')].map((roomId) => [roomId, 'invite'] as const);
    const run = await begin(userId);
    const house = new House(...rooms);
    for (const [roomId] of rooms) {
      house.otherwise.set(roomId, async () => {
        house.rooms.delete(roomId);
        const { state } = await leaving.execute({ userId, roomId }, (before) =>
          requestLeave(before, {
            leaveId: `${name}-${roomId}`,
            reason: undefined,
            via: ['x.example' as ServerName],
            ourName: 'ours.example' as ServerName,
            now: 5,
          }),
        );
        return { leaveId: state.leave!.leaveId };
      });
    }
    runnerOf(new Map([[userId, house]])).start();
    await completed(userId);
    const over = (roomId: RoomId, type: 'LeaveCompleted' | 'LeaveRefused') =>
      leaving.execute({ userId, roomId }, ({ leave }) => [
        type === 'LeaveRefused'
          ? { type, leaveId: leave!.leaveId, at: 6 }
          : { type, leaveId: leave!.leaveId, how: 'accepted', at: 6 },
      ]);
    await over(room('b'), 'LeaveRefused');
    await over(room('c'), 'LeaveCompleted');
    expect(await store.countsOf(run)).toEqual({ total: 3, waiting: 0, left: 3, retrying: 1, refused: 1 });
    const [first, ...more] = await store.openRoomsOf(run, { after: undefined, limit: 1 });
    expect(more).toEqual([]);
    expect(first).toEqual({
      roomId: room('a'),
      membership: 'invite',
      status: 'retrying',
      leaveId: `${name}-${room('a')}`,
      nextAttemptAt: 5,
    });
    expect(await store.openRoomsOf(run, { after: first!.roomId, limit: 10 })).toMatchObject([
      { roomId: room('b'), status: 'refused' },
    ]);
  });
});
