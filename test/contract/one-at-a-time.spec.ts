import { setTimeout as delay } from 'node:timers/promises';
import { OneAtATime, openDatabase, type Database } from '@exeunt/database';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { postgresKind } from './message-bus.database.js';
import { until } from '../harness/settle.js';

/** A process of several that want to do the work. */
function contender(database: Database, lock: bigint) {
  const seen = { works: false, starts: 0 };
  const one = new OneAtATime({
    database,
    lock,
    everyMs: 50,
    work: [
      {
        start: () => {
          seen.works = true;
          seen.starts += 1;
        },
        stop: async () => void (seen.works = false),
      },
    ],
  });
  return Object.assign(seen, { start: () => one.start(), stop: () => one.stop() });
}

const postgres = await postgresKind();
if (postgres !== undefined) {
  describe('one at a time on PostgreSQL', () => {
    afterAll(() => postgres.end());

    it('lets one of two work, and the other when that one stops', async () => {
      const databases = [await postgres.open('a', []), await postgres.open('a', [])] as const;
      const a = contender(databases[0], 7n);
      const b = contender(databases[1], 7n);
      a.start();
      await until('a works', () => a.works);
      b.start();
      await delay(300);
      expect(b.works).toBe(false);
      await a.stop();
      expect(a.works).toBe(false);
      await until('b works', () => b.works);
      await b.stop();
      await Promise.all(databases.map((database) => database.close()));
    });

    it('gives the work to the other within seconds when the session of the first is gone', async () => {
      const database = await postgres.open('b', []);
      const a = contender(database, 8n);
      const b = contender(database, 8n);
      a.start();
      await until('a works', () => a.works);
      b.start();
      for (let round = 1; round <= 3; round += 1) {
        const starts = a.starts + b.starts;
        await database.query(
          `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 8 AND granted`,
        );
        await until('one of them works again', () => a.starts + b.starts > starts);
        await until('one of them only', () => a.works !== b.works);
      }
      await Promise.all([a.stop(), b.stop()]);
      // A lock goes with its session, and the server ends that a moment after we have left it.
      const left = () => database.query(`SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 8`);
      await vi.waitFor(async () => expect(await left()).toEqual([]), { timeout: 10_000 });
      await database.close();
    });

    it('tells two works apart', async () => {
      const database = await postgres.open('c', []);
      const [a, b] = [contender(database, 9n), contender(database, 10n)];
      a.start();
      b.start();
      await until('both work', () => a.works && b.works);
      await Promise.all([a.stop(), b.stop()]);
      await database.close();
    });
  });
}

describe('one at a time on PGlite', () => {
  it('is the one process there is', async () => {
    const database = await openDatabase({ dataDir: 'memory://', migrations: [] });
    const a = contender(database, 7n);
    a.start();
    await until('it works', () => a.works);
    await a.stop();
    expect(a.works).toBe(false);
    await database.close();
  });
});
