import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase, type Database } from '@exeunt/database';
import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import { JsonNumber, stringifyJson, type JsonObject } from '@exeunt/signing';
import { findPostgres, startPostgres } from '../../../test/harness/postgres-server.js';
import { decodeLeavingEvent, encodeLeavingEvent, upcasters } from './codec.js';
import { cancelLeave, noteKnock, receiveInvite, requestLeave } from './decide.js';
import type { LeavingEvent, LeavingKey } from './domain-events.js';
import { leavingMigrations } from './leaving.migration.js';
import { LeavingStore } from './leaving-store.js';

const ourName = 'ours.example' as ServerName;
const x = 'x.example' as ServerName;

const found = findPostgres();
if (found === undefined) console.warn('leaving store: PostgreSQL NOT tested; install a PostgreSQL server');

const adapters: readonly (readonly [string, () => Promise<{ database: Database; end: () => unknown }>])[] = [
  [
    'PGlite',
    async () => ({
      database: await openDatabase({ dataDir: 'memory://', migrations: leavingMigrations }),
      end: () => {},
    }),
  ],
  // A configured database may hold other tests' tables: only one of our own is made here.
  ...(found !== undefined && found.kind !== 'configured'
    ? [
        [
          'PostgreSQL',
          async () => {
            const server = await startPostgres();
            const database = await openDatabase({ url: server.url, migrations: leavingMigrations });
            return { database, end: () => server.stop() };
          },
        ] as const,
      ]
    : []),
];

describe.each(adapters)('leaving store on %s', (kind, openAdapter) => {
  let database: Database;
  let end: () => unknown;
  let store: LeavingStore;
  let rooms = 0;

  beforeAll(async () => {
    ({ database, end } = await openAdapter());
    store = new LeavingStore(database);
  }, 120_000);
  afterAll(async () => {
    await database?.close();
    await end?.();
  });

  const aKey = (user = 'bob'): LeavingKey => ({
    userId: `@${user}:${ourName}` as UserId,
    roomId: `!${kind}${++rooms}:y.example` as RoomId,
  });
  const invite = (key: LeavingKey, name = 'one', pdu: JsonObject = {}) =>
    store.execute(key, (state) =>
      receiveInvite(state, {
        eventId: `$${name}` as EventId,
        sender: '@i:x.example' as UserId,
        origin: x,
        roomVersion: '5',
        isVersionStated: true,
        pdu: { hashes: { sha256: name }, ...pdu },
        inviteRoomState: [],
        at: 10,
      }),
    );
  const leave = (key: LeavingKey, leaveId: string, now = 20) =>
    store.execute(key, (state) => requestLeave(state, { leaveId, reason: undefined, via: [], ourName, now }));

  it('gives back what was appended, numbers and NULs as they were', async () => {
    const key = aKey();
    const odd = { content: { big: new JsonNumber('9007199254740993.50'), nul: 'a\0b' } };
    await invite(key, 'odd', odd);
    const { state, position } = await store.load(key);
    expect(position).toBe(1);
    expect(stringifyJson(state.invite!.pdu)).toContain('9007199254740993.50');
    expect((state.invite!.pdu['content'] as JsonObject)['nul']).toBe('a\0b');
    expect(await store.invitesOf(key.userId)).toContain(key.roomId);
  });

  it('finds the rooms of knocks that wait, and of those alone', async () => {
    const [first, second] = [aKey('knocker'), aKey('knocker')];
    for (const key of [first, second]) {
      await store.execute(key, (state) =>
        noteKnock(state, { knockId: '$knock', via: [x], knockRoomState: [], at: 10 }),
      );
    }
    expect(await store.knocksOf(first.userId)).toEqual([first.roomId, second.roomId].sort());
    await leave(first, `knock-${kind}`);
    await invite(second);
    expect(await store.knocksOf(first.userId)).toEqual([]);
    const { state } = await store.load(second);
    expect(state.answered).toEqual({ at: 10 });
    expect((await store.toTell(1_000)).map(({ event }) => event.type)).toContain('KnockMade');
    await store.execute(first, (state) => cancelLeave(state, `knock-${kind}`, 30));
  });

  it('decides again where another append was faster: nothing is lost, nothing twice', async () => {
    const key = aKey();
    await Promise.all(Array.from({ length: 8 }, (_, at) => invite(key, `invite${at}`)));
    await Promise.all(Array.from({ length: 8 }, () => leave(key, 'the-leave')));
    const { events, position } = await store.load(key);
    expect(events.filter(({ type }) => type === 'InviteReceived')).toHaveLength(8);
    expect(events.filter(({ type }) => type === 'LeaveHandshakeStarted')).toHaveLength(1);
    expect(position).toBe(9);
  });

  it('hands a due stream to one claimer, until it is given back or the claim runs out', async () => {
    const key = aKey();
    await invite(key);
    await leave(key, `claim-${kind}`, 1_000_000);
    const claims = await Promise.all(
      ['a', 'b', 'c', 'd'].map((claim) =>
        store.claim({ now: 1_000_000, limit: 100, claim, claimUntil: 2_000_000 }),
      ),
    );
    const holders = claims.filter((keys) => keys.some(({ roomId }) => roomId === key.roomId));
    expect(holders).toHaveLength(1);
    // What happens meanwhile does not make it due for others.
    await store.execute(key, (state) => cancelLeave(state, `claim-${kind}`, 1_000_001));
    expect(await store.claim({ now: 1_999_999, limit: 100, claim: 'e', claimUntil: 3_000_000 })).toEqual([]);
    expect(
      (await store.claim({ now: 2_000_000, limit: 100, claim: 'f', claimUntil: 3_000_000 })).length,
    ).toBeGreaterThan(0);
    // The former holder can't give back what it lost.
    for (const claim of ['a', 'b', 'c', 'd']) await store.release(key, claim);
    expect(await store.nextDue()).toBe(3_000_000);
    await store.release(key, 'f');
    await store.forgetClaims();
    expect(
      await store.claim({ now: 9_000_000, limit: 100, claim: 'g', claimUntil: 9_000_001 }),
    ).not.toContainEqual(key);
    await store.forgetClaims();
  });

  it('finds leaves by ID, by user and by status, a page at a time', async () => {
    const user = `pages${kind}`;
    const keys = [aKey(user), aKey(user), aKey(user)];
    for (const [at, key] of keys.entries()) {
      await invite(key);
      await leave(key, `${user}-${at}`);
    }
    const userId = keys[0]!.userId;
    expect((await store.underWayOf(userId)).map(({ leaveId }) => leaveId)).toEqual(
      [0, 1, 2].map((at) => `${user}-${at}`),
    );
    await store.execute(keys[1]!, (state) => cancelLeave(state, `${user}-1`, 30));
    expect((await store.underWayOf(userId)).map(({ leaveId }) => leaveId)).toEqual([
      `${user}-0`,
      `${user}-2`,
    ]);
    expect(await store.find(`${user}-1`)).toMatchObject({ ...keys[1], status: 'cancelled' });
    const [first] = (await store.list({ status: 'cancelled', after: undefined, limit: 1000 })).slice(-1);
    expect(first).toMatchObject({ leaveId: `${user}-1` });
    const all = await store.list({ status: undefined, after: undefined, limit: 1000 });
    const page = await store.list({ status: undefined, after: all.at(-2)!.seq, limit: 1000 });
    expect(page.map(({ leaveId }) => leaveId)).toEqual([`${user}-2`]);
  });

  // PGlite has one session: no transaction can commit beside another.
  if (kind !== 'PGlite') {
    it('tells no fact before one that commits late', async () => {
      for (let facts = await store.toTell(1000); facts.length > 0; facts = await store.toTell(1000))
        await store.told(facts);
      let open = (): void => {};
      let commit = (): void => {};
      const isOpen = new Promise<void>((resolve) => (open = resolve));
      const mayCommit = new Promise<void>((resolve) => (commit = resolve));
      const late = database.transaction(async (session) => {
        // An older transaction that is still under way when the newer one has committed.
        await session.query('SELECT pg_current_xact_id()');
        open();
        await mayCommit;
      });
      await isOpen;
      const key = aKey();
      await invite(key);
      expect(await store.toTell(10)).toEqual([]);
      commit();
      await late;
      expect((await store.toTell(10)).map(({ roomId, event }) => [roomId, event.type])).toEqual([
        [key.roomId, 'InviteReceived'],
      ]);
    });
  }
});

describe('the stored form of a domain event', () => {
  const event: LeavingEvent = { type: 'LeaveRetried', leaveId: 'a', at: 1 };

  it('of an earlier schema version is read by way of its upcasters', () => {
    const grown = { ...upcasters, LeaveRetried: [(payload: JsonObject) => ({ ...payload, by: 'operator' })] };
    expect(decodeLeavingEvent(encodeLeavingEvent(event), grown)).toEqual({ ...event, by: 'operator' });
    expect(encodeLeavingEvent(event, grown).schemaVersion).toBe(1);
  });

  it('of a later release is not guessed at', () => {
    expect(() => decodeLeavingEvent({ ...encodeLeavingEvent(event), schemaVersion: 1 })).toThrow(
      'later release',
    );
    expect(() => decodeLeavingEvent({ type: 'Unheard', schemaVersion: 0, payload: '{}' })).toThrow(
      'later release',
    );
  });
});
