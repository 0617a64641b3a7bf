import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { DatabaseUnavailable, openDatabase, type Database, type Session } from '@exeunt/database';
import { eventStoreMigrations, TypeormEventStore } from '@exeunt/event-store';
import type { RoomId } from '@exeunt/pdu';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findPostgres, startPostgres, type PostgresServer } from '../harness/postgres-server.js';
import { accepted, anEvent, append, aRoom, drain, pduOf } from './event-store.rooms.js';

const migrations = eventStoreMigrations;
const opened: Database[] = [];
async function open(options: Omit<Parameters<typeof openDatabase>[0], 'migrations'>): Promise<Database> {
  const database = await openDatabase({ ...options, migrations });
  opened.push(database);
  return database;
}
afterEach(async () => {
  await Promise.all(opened.splice(0).map((database) => database.close()));
});

describe('a PGlite directory', () => {
  const folder = mkdtempSync(join(tmpdir(), 'exeunt-pglite-'));
  const children: ChildProcess[] = [];
  afterAll(() => {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });

  function anotherProcess(dataDir: string) {
    const script = fileURLToPath(new URL('event-store.child.ts', import.meta.url));
    const root = fileURLToPath(new URL('../../', import.meta.url));
    const libs = readdirSync(join(root, 'libs'));
    const alias = Object.fromEntries(
      libs.map((lib) => [`@exeunt/${lib}`, join(root, 'libs', lib, 'src/index.ts')]),
    );
    const run = `import { runnerImport } from 'vite';
      await runnerImport(${JSON.stringify(script)}, { configFile: false, logLevel: 'silent', resolve: { alias: ${JSON.stringify(alias)} } });`;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', run, '--', dataDir], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    children.push(child);
    const lines = createInterface(child.stdout);
    const errors: Buffer[] = [];
    child.stderr.on('data', (chunk: Buffer) => errors.push(chunk));
    return {
      child,
      lines,
      ended: once(lines, 'close'),
      exit: once(child, 'exit') as Promise<[code: number | null]>,
      errors: () => Buffer.concat(errors).toString(),
    };
  }

  it('is refused to a second process while the first has it, with one sentence', async () => {
    const dataDir = join(folder, 'taken');
    const database = await open({ dataDir });
    const { exit, errors } = anotherProcess(dataDir);
    const [code] = await exit;
    expect(code).not.toBe(0);
    expect(errors()).toContain(
      `the database directory ${dataDir} is in use by process ${process.pid}: one process at a time may open it`,
    );
    await expect(open({ dataDir })).rejects.toThrow('is in use');
    await database.check();
    await database.close();
    opened.length = 0;
    expect(existsSync(join(dataDir, 'lock'))).toBe(false);
    await (await open({ dataDir })).check();
  });

  it('holds every append that resolved after its process was killed in the middle', async () => {
    const dataDir = join(folder, 'killed');
    const { child, lines, ended, exit, errors } = anotherProcess(dataDir);
    const resolved = new Map<string, number>();
    let count = 0;
    lines.on('line', (line) => {
      const [roomId = '', position] = line.split(' ');
      resolved.set(roomId, Number(position));
      if ((count += 1) === 400) child.kill('SIGKILL');
    });
    await Promise.all([exit, ended]);
    expect(count, errors()).toBeGreaterThanOrEqual(400);
    expect(existsSync(join(dataDir, 'lock'))).toBe(true);
    const store = new TypeormEventStore(await open({ dataDir }));
    expect(resolved.size).toBe(3);
    for (const [roomId, position] of resolved) {
      const header = await store.header(roomId as RoomId);
      expect(header?.position).toBeGreaterThanOrEqual(position);
      const log = await store.read(roomId as RoomId, 1, 10_000);
      expect(log).toHaveLength(header?.position ?? -1);
    }
    const outbox = await store.take(10_000);
    expect(outbox.length).toBeGreaterThanOrEqual(count);
  });

  it('is taken over from a process whose ID another one has now', async () => {
    const dataDir = join(folder, 'reused');
    await (await open({ dataDir })).close();
    opened.length = 0;
    const held = await open({ dataDir });
    const lock = JSON.parse(readFileSync(join(dataDir, 'lock'), 'utf8')) as object;
    await held.close();
    opened.length = 0;
    writeFileSync(join(dataDir, 'lock'), JSON.stringify({ ...lock, pid: process.ppid, startedAt: '1' }));
    await (await open({ dataDir })).check();
  });

  it('is taken over from another container once that is silent, not while it shows signs of life', async () => {
    const dataDir = join(folder, 'foreign');
    await (await open({ dataDir })).close();
    opened.length = 0;
    const path = join(dataDir, 'lock');
    const foreign = JSON.stringify({ token: 'x', pid: 1, startedAt: '1', processes: 'elsewhere' });
    writeFileSync(path, foreign);
    const signsOfLife = setInterval(() => writeFileSync(path, foreign), 500);
    await expect(open({ dataDir })).rejects.toThrow('is in use by process 1');
    clearInterval(signsOfLife);
    await (await open({ dataDir })).check();
  });

  it('starts anew where the first start was cut off', async () => {
    const dataDir = join(folder, 'half');
    await (await open({ dataDir })).close();
    opened.length = 0;
    rmSync(join(dataDir, 'initialised'));
    rmSync(join(dataDir, 'postgres', 'global'), { recursive: true });
    await (await open({ dataDir })).check();
  });

  it('is given to one transaction at a time', async () => {
    const database = await open({ dataDir: 'memory://' });
    await database.query('CREATE TABLE counted (n integer)');
    let reach!: () => void;
    let letGo!: () => void;
    const inserted = new Promise<void>((resolve) => (reach = resolve));
    const othersWait = new Promise<void>((resolve) => (letGo = resolve));
    const failing = database.transaction(async (session) => {
      await session.query('INSERT INTO counted VALUES (1)');
      reach();
      await othersWait;
      throw new Error('rolled back');
    });
    await inserted;
    const others = [1, 2, 3].map(() => database.query('INSERT INTO counted VALUES (2)'));
    letGo();
    await expect(failing).rejects.toThrow('rolled back');
    await Promise.all(others);
    expect(await database.query('SELECT n FROM counted')).toEqual([{ n: 2 }, { n: 2 }, { n: 2 }]);
  });

  it('lets timers run while many statements wait', async () => {
    const database = await open({ dataDir: 'memory://' });
    let isOver = false;
    const busy = Array.from({ length: 4 }, async () => {
      while (!isOver) await database.query('SELECT 1');
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    isOver = true;
    await Promise.all(busy);
  });
});

it('redactions that were in the log before they were looked for are found after the migration', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'exeunt-redactions-'));
  const roomId = aRoom();
  const redacts = anEvent('secret');
  const redaction = (name: string, text: string) =>
    accepted(name, { pdu: pduOf(text.replaceAll('SECRET', redacts)) });
  const before = await open({ dataDir });
  const store = new TypeormEventStore(before);
  await store.append(
    append(roomId, 0, [
      redaction(
        'top',
        '{"type":"m.room.redaction","redacts":"SECRET","depth":9223372036854775807,"content":{"x":1e400}}',
      ),
      redaction('within', '{"type":"m.room.redaction","content":{"redacts":"SECRET"}}'),
      redaction(
        'other',
        '{"type":"m.room.message","redacts":"SECRET","content":{"body":"m.room.redaction"}}',
      ),
      redaction(
        'nul',
        String.raw`{"type":"m.room.message","content":{"m.room.redaction":"\u0000","redacts":"SECRET"}}`,
      ),
    ]),
  );
  const found = await store.redactionsOf(roomId, [redacts]);
  expect(found.map(({ by }) => by)).toEqual(['top', 'within'].map(anEvent));
  // As it was before.
  await before.query('DROP TABLE room_redactions');
  await before.query('DROP INDEX room_log_event_anywhere');
  await before.query(`DELETE FROM migrations WHERE name = 'ServingHistory1767225600030'`);
  await before.close();
  opened.length = 0;
  const after = await open({ dataDir });
  expect(await new TypeormEventStore(after).redactionsOf(roomId, [redacts])).toEqual(found);
  await after.close();
  opened.length = 0;
  rmSync(dataDir, { recursive: true });
});

it('a database that was not given one of url and dataDir is refused', async () => {
  await expect(open({})).rejects.toThrow('either');
  await expect(open({ url: 'postgres://x', dataDir: 'y' })).rejects.toThrow('either');
});

it('a server that is not there is unavailable', async () => {
  await expect(open({ url: 'postgres://x:y@127.0.0.1:1/z' })).rejects.toThrow(DatabaseUnavailable);
});

const found = findPostgres();
if (found === undefined) {
  describe('PostgreSQL sessions', () => {
    it.skip('do NOT run here: set EXEUNT_TEST_DATABASE_URL or install a PostgreSQL server', () => {});
  });
  console.warn('PostgreSQL sessions NOT tested; set EXEUNT_TEST_DATABASE_URL or install a PostgreSQL server');
}

describe.runIf(found !== undefined)('PostgreSQL sessions', () => {
  let server: PostgresServer | undefined;
  let url = '';
  let database: Database;
  let store: TypeormEventStore;
  let client: pg.Client;
  beforeAll(async () => {
    server = found?.kind === 'configured' ? undefined : await startPostgres();
    url = server?.url ?? (found as { url: string }).url;
    await (await openDatabase({ url, migrations })).close();
  });
  afterAll(async () => server?.stop());

  async function connect(): Promise<void> {
    database = await open({ url, statementTimeoutMs: 2_000, acquireTimeoutMs: 1_000, poolSize: 4 });
    store = new TypeormEventStore(database);
    client = new pg.Client({ connectionString: url });
    client.on('error', () => {});
    await client.connect();
  }
  afterEach(async () => {
    await client?.end().catch(() => {});
  });

  /** A store whose appends are in the open transaction of `client`. */
  function storeOfTransaction(): TypeormEventStore {
    const session: Session = {
      query: async (statement, values) => {
        const config = typeof statement === 'string' ? { text: statement, values } : statement;
        return (await client.query(config as pg.QueryConfig)).rows;
      },
    };
    return new TypeormEventStore({
      ...session,
      transaction: (work: (session: Session) => unknown) => work(session),
    } as Database);
  }

  /** Resolves when some session waits for a lock. */
  async function untilBlocked(): Promise<void> {
    for (;;) {
      const waiting = await database.query(
        `SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      if (waiting.length > 0) return;
    }
  }

  describe('an append while another session has appended and not committed', () => {
    it.each([
      { expectedPosition: 0, end: 'COMMIT', outcome: 'conflict' },
      { expectedPosition: 0, end: 'ROLLBACK', outcome: 'appended' },
      { expectedPosition: 2, end: 'COMMIT', outcome: 'conflict' },
      { expectedPosition: 2, end: 'ROLLBACK', outcome: 'appended' },
    ])('at $expectedPosition is $outcome after $end', async ({ expectedPosition, end, outcome }) => {
      await connect();
      const roomId = aRoom();
      if (expectedPosition > 0) await store.append(append(roomId, 0, [accepted('begin')]));
      await client.query('BEGIN');
      const first = append(roomId, expectedPosition, [accepted('first')]);
      const second = append(roomId, expectedPosition, [accepted('second')]);
      expect(await storeOfTransaction().append(first)).toBe('appended');
      const waiting = store.append(second);
      await untilBlocked();
      await client.query(end);
      expect(await waiting).toBe(outcome);
      const last = (await store.read(roomId, 1, 10)).at(-1)?.domainEvent;
      expect(last).toEqual((outcome === 'conflict' ? first : second).domainEvents.at(-1));
      await drain(store);
    });
  });

  it('skip and reorder nothing in the outbox when an append commits late', async () => {
    await connect();
    await drain(store);
    const [early, late, other] = [aRoom(), aRoom(), aRoom()];
    await store.append(append(early, 0, [accepted('before')]));
    await client.query('BEGIN');
    // It has its rows and its transaction ID now, and others with higher ones are durable before it.
    await storeOfTransaction().append(append(late, 0, [accepted('late')]));
    await store.append(append(other, 0, [accepted('after')]));
    await store.append(append(early, 2, [accepted('after')]));
    const positions = async () => (await store.take(10)).map(({ roomId, position }) => [roomId, position]);
    /** A reader that goes on behind the last row it saw, which is what the outbox must not be. */
    let seen = '0';
    const afterTheLast = async () => {
      const rows = await database.query<{ xid: string }>(
        'SELECT xid::text AS xid FROM outbox WHERE xid > $1::text::xid8 ORDER BY xid, position',
        [seen],
      );
      seen = rows.at(-1)?.xid ?? seen;
      return rows.length;
    };
    expect(await afterTheLast()).toBe(3);
    expect(await positions()).toEqual([[early, 2]]);
    await store.done(await store.take(10));
    expect(await positions()).toEqual([]);
    await client.query('COMMIT');
    // The race was one: that reader never sees the late row, which stands before what it saw.
    expect(await afterTheLast()).toBe(0);
    expect(await positions()).toEqual([
      [late, 2],
      [other, 2],
      [early, 3],
    ]);
    await drain(store);
  });

  it('give out again what a dump brought from a server with more transactions', async () => {
    await connect();
    await drain(store);
    const roomId = aRoom();
    await store.append(append(roomId, 0, [accepted('one'), accepted('two')]));
    await database.query(`UPDATE outbox SET xid = '9000000000'`);
    const restored = new TypeormEventStore(database);
    await restored.append(append(roomId, 3, [accepted('three')]));
    expect((await restored.take(10)).map(({ position }) => position)).toEqual([2, 3, 4]);
    await drain(restored);
  });

  it('migrate once when several processes start together', async () => {
    await connect();
    const { rows } = await client.query(`SELECT quote_ident('exeunt_' || floor(random() * 1e9)) AS name`);
    const { name } = rows[0] as { name: string };
    await client.query(`CREATE DATABASE ${name}`);
    const fresh = new URL(url);
    fresh.pathname = `/${name}`;
    const all = await Promise.all([1, 2, 3, 4].map(() => open({ url: fresh.href, poolSize: 2 })));
    const ran = await all[0]?.query(`SELECT name FROM migrations`);
    expect(ran).toHaveLength(migrations.length);
    await Promise.all(opened.splice(0).map((one) => one.close()));
    await client.query(`DROP DATABASE ${name}`);
  });

  it('bound how long a statement and the wait for a connection take', async () => {
    await connect();
    await expect(database.query('SELECT pg_sleep(20)')).rejects.toThrow(DatabaseUnavailable);
    const sleeping = [1, 2, 3, 4].map(() =>
      database.query('SELECT pg_sleep(20)').catch((error: unknown) => error),
    );
    await expect(database.query('SELECT 1')).rejects.toThrow(DatabaseUnavailable);
    for (const outcome of await Promise.all(sleeping)) expect(outcome).toBeInstanceOf(DatabaseUnavailable);
    await database.check();
  });

  it('are kept after a statement that is at fault', async () => {
    await connect();
    const pids = new Set<unknown>();
    for (let round = 0; round < 5; round += 1) {
      await expect(database.query('SELECT 1 / 0')).rejects.toThrow(pg.DatabaseError);
      await expect(
        database.transaction(async (session) => {
          await session.query('SELECT 1');
          await session.query('nonsense');
        }),
      ).rejects.toThrow(pg.DatabaseError);
      pids.add((await database.query<{ pid: number }>('SELECT pg_backend_pid() AS pid'))[0]?.pid);
    }
    expect(pids.size).toBe(1);
  });

  it('fail a transaction whose failed statement was ignored', async () => {
    await connect();
    const ignoring = database.transaction(async (session) => {
      await session.query('SELECT 1 / 0').catch(() => {});
    });
    await expect(ignoring).rejects.toThrow('rolled back');
  });

  it('end as unavailable when their server does, and come back with it', async () => {
    if (server === undefined) {
      console.warn('the restart of PostgreSQL is NOT tested: it is not ours to restart');
      return;
    }
    await connect();
    const roomId = aRoom();
    await store.append(append(roomId, 0, [accepted('before')]));
    const underWay = [
      database.query('SELECT pg_sleep(20)'),
      database.transaction((session) => session.query('SELECT pg_sleep(20)')),
    ].map((statement) => statement.catch((error: unknown) => error));
    await server.kill9();
    for (const outcome of await Promise.all(underWay)) expect(outcome).toBeInstanceOf(DatabaseUnavailable);
    await expect(database.check()).rejects.toThrow(DatabaseUnavailable);
    await expect(store.append(append(roomId, 2, [accepted('down')]))).rejects.toThrow(DatabaseUnavailable);
    await server.start();
    expect((await store.header(roomId))?.position).toBe(2);
    expect(await store.append(append(roomId, 2, [accepted('after')]))).toBe('appended');
    await server.restart();
    // The pool may still hold connections that it has not seen end.
    await database.check().catch(() => {});
    expect((await store.header(roomId))?.position).toBe(3);
  });
});
