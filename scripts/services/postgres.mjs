#!/usr/bin/env node
// A real PostgreSQL for tests and for trying things out; what it exports is described in postgres.d.mts.
//
//   node scripts/services/postgres.mjs start    starts one that stays, prints EXEUNT_DATABASE_URL=…
//   node scripts/services/postgres.mjs url      prints that line again; exit code 1 when none is running
//   node scripts/services/postgres.mjs stop     ends it and deletes its data
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';

const DATABASE = 'exeunt';
const START_DEADLINE_MS = 60_000;
const STOP_DEADLINE_MS = 30_000;

export function findPostgres() {
  const url = process.env.EXEUNT_TEST_DATABASE_URL;
  if (url) return { kind: 'configured', url };
  const directory = findBinaries();
  return directory === undefined ? undefined : { kind: 'binaries', directory };
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

async function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

async function start({ outlivesCaller }) {
  const binaries = findBinaries();
  if (binaries === undefined) {
    throw new Error(
      'no PostgreSQL server here. On Debian: apt-get install postgresql (or scripts/services/apt.sh)',
    );
  }
  const user = unprivileged();
  // Below the temporary directory and not in the checkout: the other user may not be let into the checkout.
  const directory = mkdtempSync(join(tmpdir(), 'exeunt-postgres-'));
  if (user.uid !== undefined) chownSync(directory, user.uid, user.gid);
  try {
    const password = randomBytes(16).toString('hex');
    const passwordPath = join(directory, 'password');
    writeFileSync(passwordPath, password, { mode: 0o600 });
    if (user.uid !== undefined) chownSync(passwordPath, user.uid, user.gid);
    execFileSync(
      join(binaries, 'initdb'),
      [
        ['-D', join(directory, 'data')],
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

    const server = new Server({
      binaries,
      user,
      directory,
      password,
      port: await freePort(),
      outlivesCaller,
    });
    await server.start();
    await query(server.urlOf('postgres'), `CREATE DATABASE ${DATABASE}`);
    return server;
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
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
  #settings;
  #supervisor;
  #pid;
  #databases = 0;

  constructor(settings) {
    this.#settings = settings;
    this.directory = settings.directory;
    this.url = this.urlOf(DATABASE);
  }

  get pid() {
    return this.#pid;
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
    if (this.#pid !== undefined && isAlive(this.#pid)) return;
    const deadline = Date.now() + START_DEADLINE_MS;
    // After kill9 the orphaned backends may hold the shared memory a moment longer, and the postmaster refuses: again.
    for (;;) {
      const outcome = await this.#launch(deadline);
      if (outcome === 'ready') return;
      if (Date.now() > deadline || !outcome.includes('pre-existing shared memory')) {
        throw new Error(`PostgreSQL did not come up:\n${outcome}`);
      }
      await delay(50);
    }
  }

  /** `ready`, or the log of a server that ended or did not answer before the deadline. */
  async #launch(deadline) {
    const { binaries, user, directory, port, outlivesCaller } = this.#settings;
    const logPath = join(directory, 'postgres.log');
    const logStart = existsSync(logPath) ? readFileSync(logPath).length : 0;
    const logSince = () => readFileSync(logPath).subarray(logStart).toString();
    const command = [
      [join(binaries, 'postgres'), '-D', join(directory, 'data'), '-p', String(port)],
      ['-c', 'listen_addresses=127.0.0.1', '-c', `unix_socket_directories=${directory}`, '-c', 'fsync=on'],
    ].flat();
    const log = openSync(logPath, 'a');
    // The shell ends the server when its standard input does, and that is with this process, whatever ends it.
    const withCaller = [
      'exec 3<&0',
      '"$@" 3<&- & server=$!',
      '(cat <&3 >/dev/null; kill -INT "$server") 2>/dev/null & watcher=$!',
      'wait "$server"; code=$?',
      'kill "$watcher" 2>/dev/null',
      'exit "$code"',
    ].join('\n');
    const [program, ...args] = outlivesCaller ? command : ['sh', '-c', withCaller, 'sh', ...command];
    const supervisor = spawn(program, args, {
      ...user,
      cwd: directory,
      env: { ...process.env, HOME: directory },
      detached: true,
      stdio: [outlivesCaller ? 'ignore' : 'pipe', log, log],
    });
    closeSync(log);
    let ended = false;
    supervisor.once('exit', () => (ended = true));
    supervisor.once('error', () => (ended = true));
    supervisor.stdin?.on('error', () => {});
    supervisor.stdin?.unref();
    supervisor.unref();
    this.#supervisor = supervisor;

    while (!ended && Date.now() < deadline) {
      try {
        await query(this.urlOf('postgres'), 'SELECT 1');
        this.#pid = this.#pidFromFile();
        if (this.#pid !== undefined) return 'ready';
      } catch {
        // Not up yet.
      }
      await delay(25);
    }
    this.#pid = this.#pidFromFile();
    await this.#end('SIGINT');
    return logSince();
  }

  #pidFromFile() {
    const path = join(this.directory, 'data', 'postmaster.pid');
    const pid = existsSync(path) ? Number(readFileSync(path, 'utf8').split('\n')[0]) : NaN;
    return Number.isInteger(pid) && pid > 1 ? pid : undefined;
  }

  async restart() {
    await this.#end('SIGINT');
    await this.start();
  }

  async kill9() {
    const postmaster = this.#pid;
    if (postmaster === undefined) return;
    const children = childrenOf(postmaster);
    // The postmaster first, or it would see its children die and start its own recovery.
    for (const pid of [postmaster, ...children]) signal(pid, 'SIGKILL');
    await Promise.all([postmaster, ...children].map(untilGone));
    this.#pid = undefined;
  }

  async stop() {
    await this.#end('SIGINT');
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** SIGINT is PostgreSQL's "fast": sessions end at once, then everything is written out. */
  async #end(signalName) {
    const pid = this.#pid;
    this.#pid = undefined;
    if (pid !== undefined) {
      signal(pid, signalName);
      await untilGone(pid);
    }
    this.#supervisor?.stdin?.destroy();
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return error.code === 'EPERM';
  }
  // A zombie answers signal 0; it waits for its parent only.
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return !existsSync('/proc/self/status');
  }
}

function signal(pid, name) {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

async function untilGone(pid) {
  const deadline = Date.now() + STOP_DEADLINE_MS;
  while (isAlive(pid)) {
    if (Date.now() > deadline) throw new Error(`process ${pid} of PostgreSQL is still there`);
    await delay(10);
  }
}

function childrenOf(pid) {
  // Linux lists them; `ps` may be missing there, and is in place elsewhere.
  const children = `/proc/${pid}/task/${pid}/children`;
  if (existsSync(children))
    return readFileSync(children, 'utf8').trim().split(/\s+/).filter(Boolean).map(Number);
  const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' });
  return table
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([, parent]) => parent === pid)
    .map(([child]) => child);
}

// ---- from the command line ----

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const RECEIPT = join(ROOT, '.services', 'postgres.json');

/** What `start` wrote down, while the process it names is still that server. */
function running() {
  if (!existsSync(RECEIPT)) return undefined;
  const receipt = JSON.parse(readFileSync(RECEIPT, 'utf8'));
  const pidPath = join(receipt.directory, 'data', 'postmaster.pid');
  // A process ID is used again some day: the server's own lock file must name it too.
  const isOurs = existsSync(pidPath) && Number(readFileSync(pidPath, 'utf8').split('\n')[0]) === receipt.pid;
  return isOurs && isAlive(receipt.pid) ? receipt : undefined;
}

async function main(command) {
  const print = (url) => console.log(`EXEUNT_DATABASE_URL=${url}`);
  const receipt = running();
  switch (command) {
    case 'start': {
      if (receipt) return print(receipt.url);
      const server = await start({ outlivesCaller: true });
      mkdirSync(dirname(RECEIPT), { recursive: true });
      const { url, pid, directory } = server;
      writeFileSync(RECEIPT, JSON.stringify({ url, pid, directory }), { mode: 0o600 });
      return print(url);
    }
    case 'url':
      if (receipt) return print(receipt.url);
      console.error('no PostgreSQL of this checkout is running: node scripts/services/postgres.mjs start');
      process.exitCode = 1;
      return;
    case 'stop':
      if (receipt) {
        signal(receipt.pid, 'SIGINT');
        await untilGone(receipt.pid);
        rmSync(receipt.directory, { recursive: true, force: true });
      }
      rmSync(RECEIPT, { force: true });
      return;
    default:
      console.error('usage: node scripts/services/postgres.mjs start|stop|url');
      process.exitCode = 2;
  }
}

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === process.argv[1]) {
  await main(process.argv[2]);
}
