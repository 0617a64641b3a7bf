#!/usr/bin/env node
// A real PostgreSQL for tests and for trying things out; what it exports is described in postgres.d.mts.
//
//   node scripts/services/postgres.mjs start    starts one that stays, prints EXEUNT_DATABASE_URL=…
//   node scripts/services/postgres.mjs url      prints that line again; exit code 1 when none is running
//   node scripts/services/postgres.mjs stop     ends it and deletes its data
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import {
  freePorts,
  hasDockerEngine,
  runServiceCommand,
  ServiceContainer,
  ServiceProcess,
  wantsContainers,
} from './service-process.mjs';

const DATABASE = 'exeunt';
const IMAGE = 'postgres:15-bookworm';
const SHARED_MEMORY_DEADLINE_MS = 60_000;

export function findPostgres() {
  const url = process.env.EXEUNT_TEST_DATABASE_URL;
  if (url) return { kind: 'configured', url };
  const directory = wantsContainers() ? undefined : findBinaries();
  if (directory !== undefined) return { kind: 'binaries', directory };
  return hasDockerEngine() ? { kind: 'docker', image: IMAGE } : undefined;
}

export async function startPostgres() {
  return start({ outlivesCaller: false });
}

/** Debian keeps the server's binaries outside PATH, in a folder a major version. */
function findBinaries() {
  const debian = '/usr/lib/postgresql';
  const majors = existsSync(debian) ? readdirSync(debian).filter((name) => /^\d+$/.test(name)) : [];
  const folders = [
    ...majors.sort((a, b) => Number(b) - Number(a)).map((major) => join(debian, major, 'bin')),
    ...(process.env.PATH ?? '').split(delimiter),
  ];
  return folders.find((folder) => existsSync(join(folder, 'postgres')) && existsSync(join(folder, 'initdb')));
}

/** Spawn options that make a process of ours one that PostgreSQL accepts: it refuses to run as root. */
function unprivileged() {
  if (process.getuid?.() !== 0) return {};
  const idOf = (user, flag) =>
    Number(execFileSync('id', [flag, user], { stdio: ['ignore', 'pipe', 'ignore'] }));
  for (const user of ['postgres', 'nobody']) {
    try {
      return { uid: idOf(user, '-u'), gid: idOf(user, '-g') };
    } catch {
      // No such user here: the next one.
    }
  }
  throw new Error(
    'PostgreSQL does not run as root, and this machine has no user postgres or nobody to run it as',
  );
}

async function start({ outlivesCaller }) {
  const binaries = wantsContainers() ? undefined : findBinaries();
  if (binaries !== undefined) return await startHere(binaries, outlivesCaller);
  if (hasDockerEngine()) return await startContainer(outlivesCaller);
  throw new Error(
    'no PostgreSQL server here, and no Docker engine. On Debian: apt-get install postgresql (or scripts/services/apt.sh)',
  );
}

async function startHere(binaries, outlivesCaller) {
  const user = unprivileged();
  // Below the temporary directory and not in the checkout: the other user may not be let into the checkout.
  const directory = mkdtempSync(join(tmpdir(), 'exeunt-postgres-'));
  if (user.uid !== undefined) chownSync(directory, user.uid, user.gid);
  try {
    const password = randomBytes(16).toString('hex');
    const passwordPath = join(directory, 'password');
    writeFileSync(passwordPath, password, { mode: 0o600 });
    if (user.uid !== undefined) chownSync(passwordPath, user.uid, user.gid);
    const data = join(directory, 'data');
    execFileSync(
      join(binaries, 'initdb'),
      [
        ['-D', data],
        ['--username=exeunt', '--auth=scram-sha-256', `--pwfile=${passwordPath}`],
        ['--encoding=UTF8', '--locale=C'],
      ].flat(),
      {
        ...user,
        cwd: directory,
        env: { ...process.env, HOME: directory },
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    );
    const [port] = await freePorts(1);
    const command = [
      [join(binaries, 'postgres'), '-D', data, '-p', String(port)],
      ['-c', 'listen_addresses=127.0.0.1', '-c', `unix_socket_directories=${directory}`, '-c', 'fsync=on'],
    ].flat();
    // SIGINT is PostgreSQL's "fast": sessions end at once, then everything is written out.
    const place = new ServiceProcess({
      what: 'PostgreSQL',
      directory,
      command,
      endSignal: 'SIGINT',
      orphanSignal: 'SIGINT',
      outlivesCaller,
      user,
    });
    const server = new Server(place, { directory, password, port });
    await server.start();
    await query(server.urlOf('postgres'), `CREATE DATABASE ${DATABASE}`);
    return server;
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
}

async function startContainer(outlivesCaller) {
  const password = randomBytes(16).toString('hex');
  const [port] = await freePorts(1);
  const place = new ServiceContainer({
    image: IMAGE,
    ports: { [port]: 5432 },
    environment: {
      POSTGRES_USER: 'exeunt',
      POSTGRES_PASSWORD: password,
      POSTGRES_DB: DATABASE,
      POSTGRES_INITDB_ARGS: '--encoding=UTF8 --locale=C',
    },
    outlivesCaller,
  });
  const server = new Server(place, { directory: undefined, password, port });
  try {
    await server.start();
    return server;
  } catch (error) {
    await place.remove();
    throw error;
  }
}

async function query(url, sql) {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  // An error after the answer (the server going down) has nobody to tell.
  client.on('error', () => {});
  await client.connect();
  try {
    return await client.query(sql);
  } finally {
    await client.end();
  }
}

class Server {
  #place;
  #settings;
  #databases = 0;

  constructor(place, settings) {
    this.#place = place;
    this.#settings = settings;
    this.directory = settings.directory;
    this.url = this.urlOf(DATABASE);
  }

  get pid() {
    return this.#place.pid;
  }

  get receipt() {
    return this.#place.receipt;
  }

  urlOf(database) {
    const { password, port } = this.#settings;
    return `postgres://exeunt:${password}@127.0.0.1:${port}/${database}`;
  }

  async createDatabase() {
    this.#databases += 1;
    const name = `${DATABASE}_${this.#databases}`;
    await query(this.urlOf('postgres'), `CREATE DATABASE ${name}`);
    return this.urlOf(name);
  }

  async start() {
    const deadline = Date.now() + SHARED_MEMORY_DEADLINE_MS;
    // After kill9 the orphaned backends may hold the shared memory a moment longer, and the postmaster refuses: again.
    for (;;) {
      const outcome = await this.#place.start(() => this.#answers());
      if (outcome === 'ready') return;
      if (Date.now() > deadline || !outcome.includes('pre-existing shared memory')) {
        throw new Error(`PostgreSQL did not come up:\n${outcome}`);
      }
      await delay(50);
    }
  }

  async restart() {
    await this.#place.end();
    await this.start();
  }

  async kill9() {
    await this.#place.kill9();
  }

  async stop() {
    // In its orderly way: it gives its shared memory back.
    await this.#place.end();
    await this.#place.remove();
  }

  async #answers() {
    try {
      await query(this.urlOf('postgres'), 'SELECT 1');
      return true;
    } catch {
      return false;
    }
  }
}

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === process.argv[1]) {
  await runServiceCommand(process.argv[2], {
    script: 'postgres',
    what: 'PostgreSQL',
    variable: 'EXEUNT_DATABASE_URL',
    query: 'url',
    start: async () => {
      const server = await start({ outlivesCaller: true });
      return { address: server.url, place: server.receipt };
    },
  });
}
