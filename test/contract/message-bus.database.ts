import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDatabase, type Database, type DatabaseOptions } from '@exeunt/database';
import pg from 'pg';
import { findPostgres, startPostgres } from '../harness/postgres-server.js';

/** Where a suite's databases come from. */
export interface DatabaseKind {
  readonly name: string;
  /** The same `id` gives the same database again, with what was committed before it was closed. */
  open(id: string, migrations: DatabaseOptions['migrations']): Promise<Database>;
  end(): Promise<void>;
}

/** PGlite with files in a temporary folder. */
export async function pgliteKind(): Promise<DatabaseKind> {
  const folder = await mkdtemp(join(tmpdir(), 'exeunt-'));
  return {
    name: 'PGlite',
    open: (id, migrations) => openDatabase({ dataDir: join(folder, id), migrations }),
    end: () => rm(folder, { recursive: true, force: true }),
  };
}

/** Databases that others can open as well. */
export interface PostgresKind extends DatabaseKind {
  /** Of the database of this `id`, which is made where there is none yet. */
  urlOf(id: string): Promise<string>;
}

/** A PostgreSQL of this machine; `undefined` where there is none. */
export async function postgresKind(): Promise<PostgresKind | undefined> {
  const found = findPostgres();
  if (found === undefined) return undefined;
  const server = found.kind === 'configured' ? undefined : await startPostgres();
  const urls = new Map<string, string>();
  const urlOf = async (id: string): Promise<string> => {
    const url = urls.get(id) ?? (await server?.createDatabase()) ?? (await createDatabaseOn(found));
    urls.set(id, url);
    return url;
  };
  return {
    name: 'PostgreSQL',
    urlOf,
    open: async (id, migrations) => openDatabase({ url: await urlOf(id), migrations }),
    end: async () => server?.stop(),
  };
}

async function createDatabaseOn(found: NonNullable<ReturnType<typeof findPostgres>>): Promise<string> {
  if (found.kind !== 'configured') throw new Error('no PostgreSQL is configured');
  const client = new pg.Client({ connectionString: found.url });
  const name = `exeunt_${randomUUID().replaceAll('-', '')}`;
  await client.connect();
  await client.query(`CREATE DATABASE ${name}`);
  await client.end();
  const url = new URL(found.url);
  url.pathname = `/${name}`;
  return url.href;
}
