// Servers for tests as something that can be started, ended and killed: a process of this machine, or a container where
// a Docker engine is there. What it exports is described in service-process.d.mts.
import { execFile, execFileSync, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const START_DEADLINE_MS = 60_000;
/** The first start of a container fetches its image. */
const IMAGE_DEADLINE_MS = 300_000;
const STOP_DEADLINE_MS = 30_000;
const ENGINE_DEADLINE_MS = 5_000;

export async function freePorts(count) {
  // Held open together, so that they differ.
  const probes = await Promise.all(
    Array.from(
      { length: count },
      () =>
        new Promise((resolve, reject) => {
          const probe = createServer();
          probe.once('error', reject);
          probe.listen(0, '127.0.0.1', () => resolve(probe));
        }),
    ),
  );
  const ports = probes.map((probe) => probe.address().port);
  await Promise.all(probes.map((probe) => new Promise((resolve) => probe.close(resolve))));
  return ports;
}

// ---- a process ----

export class ServiceProcess {
  #settings;
  #supervisor;
  #pid;

  constructor(settings) {
    this.#settings = settings;
  }

  get pid() {
    return this.#pid;
  }

  get receipt() {
    const { directory, orphanSignal } = this.#settings;
    return { pid: this.#pid, directory, orphanSignal };
  }

  async start(isUp) {
    if (this.#pid !== undefined && isAlive(this.#pid)) return 'ready';
    const { directory, command, orphanSignal, outlivesCaller, user = {} } = this.#settings;
    const logPath = join(directory, 'server.log');
    const logStart = existsSync(logPath) ? statSync(logPath).size : 0;
    rmSync(pidPathIn(directory), { force: true });
    const log = openSync(logPath, 'a');
    // The shell ends the server when its standard input does, and that is with this process, whatever ends it.
    const withCaller = [
      'exec 3<&0',
      'pidfile="$1"; signal="$2"; shift 2',
      '"$@" 3<&- & server=$!',
      'echo "$server" > "$pidfile"',
      '(cat <&3 >/dev/null; kill -s "$signal" "$server") 2>/dev/null & watcher=$!',
      'wait "$server"; code=$?',
      'kill "$watcher" 2>/dev/null',
      'exit "$code"',
    ].join('\n');
    const onItsOwn = 'echo "$$" > "$1"; shift 2; exec "$@"';
    const supervisor = spawn(
      'sh',
      [
        ['-c', outlivesCaller ? onItsOwn : withCaller, 'sh'],
        [pidPathIn(directory), orphanSignal.replace(/^SIG/, ''), ...command],
      ].flat(),
      {
        ...user,
        cwd: directory,
        env: { ...process.env, HOME: directory },
        detached: true,
        stdio: [outlivesCaller ? 'ignore' : 'pipe', log, log],
      },
    );
    closeSync(log);
    let ended = false;
    supervisor.once('exit', () => (ended = true));
    supervisor.once('error', () => (ended = true));
    supervisor.stdin?.on('error', () => {});
    supervisor.stdin?.unref();
    supervisor.unref();
    this.#supervisor = supervisor;

    const deadline = Date.now() + START_DEADLINE_MS;
    while (!ended && Date.now() < deadline) {
      this.#pid ??= pidIn(directory);
      if (this.#pid !== undefined && (await isUp())) return 'ready';
      await delay(25);
    }
    this.#pid ??= pidIn(directory);
    await this.kill9();
    return textFrom(logPath, logStart);
  }

  async end() {
    await this.#end((pid) => [[pid, this.#settings.endSignal]]);
  }

  async kill9() {
    // The server first, or it would see its children die and start its own recovery.
    await this.#end((pid) => [pid, ...childrenOf(pid)].map((one) => [one, 'SIGKILL']));
  }

  remove() {
    rmSync(this.#settings.directory, { recursive: true, force: true });
  }

  async #end(signalsFor) {
    const pid = this.#pid;
    this.#pid = undefined;
    if (pid !== undefined) {
      const signals = signalsFor(pid);
      for (const [one, name] of signals) signal(one, name);
      await Promise.all(signals.map(([one]) => untilGone(one, this.#settings.what)));
    }
    this.#supervisor?.stdin?.destroy();
  }
}

const pidPathIn = (directory) => join(directory, 'server.pid');

function pidIn(directory) {
  const path = pidPathIn(directory);
  const pid = existsSync(path) ? Number(readFileSync(path, 'utf8')) : NaN;
  return Number.isInteger(pid) && pid > 1 ? pid : undefined;
}

function textFrom(path, start) {
  const file = openSync(path, 'r');
  try {
    const bytes = Buffer.alloc(statSync(path).size - start);
    readSync(file, bytes, 0, bytes.length, start);
    return bytes.toString();
  } finally {
    closeSync(file);
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

async function untilGone(pid, what) {
  const deadline = Date.now() + STOP_DEADLINE_MS;
  while (isAlive(pid)) {
    if (Date.now() > deadline) throw new Error(`process ${pid} of ${what} is still there`);
    await delay(10);
  }
}

function childrenOf(pid) {
  // Linux lists them; `ps` may be missing there, and is in place elsewhere.
  const children = `/proc/${pid}/task/${pid}/children`;
  try {
    if (existsSync(children))
      return readFileSync(children, 'utf8').trim().split(/\s+/).filter(Boolean).map(Number);
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'ESRCH') throw error;
    return [];
  }
  const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' });
  return table
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([, parent]) => parent === pid)
    .map(([child]) => child);
}

// ---- a container ----

export function wantsContainers() {
  return process.env.EXEUNT_TEST_SERVICES === 'docker';
}

export function hasDockerEngine() {
  try {
    // The client alone says its own version and fails for the engine's.
    const version = execFileSync('docker', ['version', '--format', '{{.Server.Version}}'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: ENGINE_DEADLINE_MS,
    });
    return version.trim() !== '';
  } catch {
    return false;
  }
}

export class ServiceContainer {
  #settings;
  #watcher;
  #id;
  #isRunning = false;

  constructor(settings) {
    this.#settings = settings;
  }

  /** Its processes are the engine's, and may be on another machine. */
  get pid() {
    return undefined;
  }

  get receipt() {
    return { container: this.#id };
  }

  async start(isUp) {
    if (this.#isRunning) return 'ready';
    const since = new Date().toISOString();
    if (this.#id === undefined) await this.#create();
    else await docker(['start', this.#id]);
    this.#isRunning = true;
    const deadline = Date.now() + START_DEADLINE_MS;
    while (Date.now() < deadline) {
      if (await isUp()) return 'ready';
      const { stdout } = await docker(['inspect', '--format', '{{.State.Running}}', this.#id]);
      if (stdout.trim() !== 'true') break;
      await delay(100);
    }
    const { stdout, stderr } = await docker(['logs', '--since', since, this.#id]);
    await docker(['kill', this.#id]).catch(() => {});
    this.#isRunning = false;
    return stdout + stderr;
  }

  async end() {
    if (!this.#isRunning) return;
    this.#isRunning = false;
    await docker(['stop', '-t', `${STOP_DEADLINE_MS / 1000}`, this.#id]);
  }

  async kill9() {
    if (!this.#isRunning) return;
    this.#isRunning = false;
    await docker(['kill', this.#id]);
  }

  async remove() {
    if (this.#id === undefined) return;
    await docker(['rm', '--force', '--volumes', this.#id]);
    this.#id = undefined;
    this.#isRunning = false;
    // Before its input ends, or it would remove the container once more.
    this.#watcher?.kill('SIGKILL');
    this.#watcher?.stdin.destroy();
  }

  async #create() {
    const { image, ports, environment, outlivesCaller } = this.#settings;
    const args = [
      ['run', '--detach', '--label', 'org.exeunt.test=true'],
      // Loopback alone, and the same port at every start.
      ...Object.entries(ports).map(([ours, its]) => ['--publish', `127.0.0.1:${ours}:${its}`]),
      // By name: their values are nobody's who lists the processes.
      ...Object.keys(environment).map((name) => ['--env', name]),
      [image],
    ].flat();
    const { stdout } = await docker(args, { environment, deadlineMs: IMAGE_DEADLINE_MS });
    this.#id = stdout.trim();
    if (outlivesCaller) return;
    // As with a process: the container goes when the shell's standard input ends, and that is with this process.
    const watcher = spawn(
      'sh',
      ['-c', 'cat >/dev/null; docker rm --force --volumes "$1" >/dev/null 2>&1', 'sh', this.#id],
      { detached: true, stdio: ['pipe', 'ignore', 'ignore'] },
    );
    watcher.once('error', () => {});
    watcher.stdin.on('error', () => {});
    watcher.stdin.unref();
    watcher.unref();
    this.#watcher = watcher;
  }
}

async function docker(args, { environment = {}, deadlineMs = START_DEADLINE_MS } = {}) {
  try {
    return await promisify(execFile)('docker', args, {
      env: { ...process.env, ...environment },
      timeout: deadlineMs,
      maxBuffer: 64 * 1024 * 1024,
    });
  } catch (error) {
    throw new Error(`docker ${args[0]}: ${error.stderr?.trim() || error.message}`, { cause: error });
  }
}

// ---- from the command line ----

export async function runServiceCommand(command, { script, what, variable, query, start }) {
  const path = join(ROOT, '.services', `${script}.json`);
  const receipt = running(path);
  const print = (address) => console.log(`${variable}=${address}`);
  switch (command) {
    case 'start': {
      if (receipt) return print(receipt.address);
      const { address, place } = await start();
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, JSON.stringify({ address, ...place }), { mode: 0o600 });
      return print(address);
    }
    case query:
      if (receipt) return print(receipt.address);
      console.error(`no ${what} of this checkout is running: node scripts/services/${script}.mjs start`);
      process.exitCode = 1;
      return;
    case 'stop':
      if (receipt?.container) await docker(['rm', '--force', '--volumes', receipt.container]);
      else if (receipt) {
        signal(receipt.pid, receipt.orphanSignal);
        await untilGone(receipt.pid, what);
        rmSync(receipt.directory, { recursive: true, force: true });
      }
      rmSync(path, { force: true });
      return;
    default:
      console.error(`usage: node scripts/services/${script}.mjs start|stop|${query}`);
      process.exitCode = 2;
  }
}

/** What `start` wrote down, while what it names is still that server. */
function running(path) {
  if (!existsSync(path)) return undefined;
  const receipt = JSON.parse(readFileSync(path, 'utf8'));
  if (receipt.container !== undefined) return isContainerRunning(receipt.container) ? receipt : undefined;
  const isOurs = receipt.pid !== undefined && pidIn(receipt.directory) === receipt.pid;
  return isOurs && isAlive(receipt.pid) && worksIn(receipt) ? receipt : undefined;
}

function isContainerRunning(id) {
  try {
    const state = execFileSync('docker', ['inspect', '--format', '{{.State.Running}}', id], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: ENGINE_DEADLINE_MS,
    });
    return state.trim() === 'true';
  } catch {
    return false;
  }
}

/** A process ID is used again some day: where the system tells the command line, it must name our directory. */
function worksIn({ pid, directory }) {
  const path = `/proc/${pid}/cmdline`;
  return !existsSync(path) || readFileSync(path, 'utf8').includes(directory);
}
