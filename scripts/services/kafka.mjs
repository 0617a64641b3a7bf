#!/usr/bin/env node
// A real Kafka for tests and for trying things out; what it exports is described in kafka.d.mts.
//
//   node scripts/services/kafka.mjs start      starts one that stays, prints EXEUNT_KAFKA_BROKERS=…
//   node scripts/services/kafka.mjs brokers    prints that line again; exit code 1 when none is running
//   node scripts/services/kafka.mjs stop       ends it and deletes its data
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import kafkajs from 'kafkajs';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const START_DEADLINE_MS = 60_000;
const STOP_DEADLINE_MS = 30_000;
/** A JVM that starts quickly and stays small; the broker under test is never under real load. */
const JVM = [
  '-Xms128m',
  '-Xmx512m',
  '-XX:+UseSerialGC',
  '-XX:TieredStopAtLevel=1',
  '-Djava.awt.headless=true',
];

export function findKafka() {
  const configured = process.env.EXEUNT_TEST_KAFKA_BROKERS;
  if (configured) {
    const brokers = configured.split(',').map((broker) => broker.trim());
    return { kind: 'configured', brokers };
  }
  const installed = findInstalled();
  return installed && findJava() ? { kind: 'installed', ...installed } : undefined;
}

export async function startKafka(options = {}) {
  return start({ outlivesCaller: false, properties: options.properties ?? {} });
}

function findInstalled() {
  const pom = readFileSync(join(ROOT, 'scripts/services/kafka-pom.xml'), 'utf8');
  const version = /<kafka\.version>([^<]+)</.exec(pom)?.[1];
  if (version === undefined) throw new Error('kafka-pom.xml names no <kafka.version>');
  const directory = join(ROOT, '.services', `kafka-${version}`);
  // The installer writes its receipt last.
  return existsSync(join(directory, 'installed-pom.xml')) ? { version, directory } : undefined;
}

function findJava() {
  const home = process.env.JAVA_HOME;
  const folders = [...(home ? [join(home, 'bin')] : []), ...(process.env.PATH ?? '').split(delimiter)];
  return folders.map((folder) => join(folder, 'java')).find((path) => existsSync(path));
}

/** Held open together, so that they differ. */
async function freePorts(count) {
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

async function start({ outlivesCaller, properties }) {
  const java = findJava();
  const installed = findInstalled();
  if (java === undefined || installed === undefined) {
    throw new Error(
      'no Kafka here: scripts/services/install-kafka.sh installs it (it needs Java 17 and Maven: scripts/services/apt.sh)',
    );
  }
  const directory = mkdtempSync(join(tmpdir(), 'exeunt-kafka-'));
  try {
    const [port, controllerPort] = await freePorts(2);
    const settings = {
      'process.roles': 'broker,controller',
      'node.id': '1',
      'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
      listeners: `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controllerPort}`,
      'advertised.listeners': `PLAINTEXT://127.0.0.1:${port}`,
      'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
      'controller.listener.names': 'CONTROLLER',
      'inter.broker.listener.name': 'PLAINTEXT',
      'log.dirs': join(directory, 'data'),
      'offsets.topic.num.partitions': '1',
      'offsets.topic.replication.factor': '1',
      'transaction.state.log.num.partitions': '1',
      'transaction.state.log.replication.factor': '1',
      'transaction.state.log.min.isr': '1',
      'auto.create.topics.enable': 'false',
      // The controller waits for the old one's session to end before it lets a killed broker in again.
      'broker.heartbeat.interval.ms': '200',
      'broker.session.timeout.ms': '1000',
      // Tests form groups, and kill their members.
      'group.initial.rebalance.delay.ms': '0',
      'group.min.session.timeout.ms': '500',
      ...properties,
    };
    writeFileSync(
      join(directory, 'server.properties'),
      Object.entries(settings)
        .map(([name, value]) => `${name}=${value}\n`)
        .join(''),
    );
    const server = new Server({ java, installed, directory, port, outlivesCaller });
    server.format();
    await server.start();
    return server;
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
}

class Server {
  #settings;
  #supervisor;
  #pid;

  constructor(settings) {
    this.#settings = settings;
    this.directory = settings.directory;
    this.version = settings.installed.version;
    this.brokers = [`127.0.0.1:${settings.port}`];
  }

  get pid() {
    return this.#pid;
  }

  #command(mainClass, ...args) {
    const { java, installed } = this.#settings;
    const classes = `${join(installed.directory, 'libs')}/*`;
    return [
      java,
      ...JVM,
      '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn',
      '-cp',
      classes,
      mainClass,
      ...args,
    ];
  }

  /** Makes the data directory one that a new cluster of one node can start on. */
  format() {
    const properties = join(this.directory, 'server.properties');
    const clusterId = randomBytes(16).toString('base64url');
    const [program, ...args] = this.#command(
      'kafka.tools.StorageTool',
      'format',
      '-t',
      clusterId,
      '-c',
      properties,
    );
    execFileSync(program, args, { cwd: this.directory, stdio: ['ignore', 'ignore', 'pipe'] });
  }

  async start() {
    if (this.#pid !== undefined && isAlive(this.#pid)) return;
    const { directory, outlivesCaller } = this.#settings;
    const logPath = join(directory, 'kafka.log');
    const pidPath = join(directory, 'kafka.pid');
    const logStart = existsSync(logPath) ? readFileSync(logPath).length : 0;
    rmSync(pidPath, { force: true });
    const command = this.#command('kafka.Kafka', join(directory, 'server.properties'));
    const log = openSync(logPath, 'a');
    // The shell ends the server when its standard input does, and that is with this process, whatever ends it.
    const withCaller = [
      'exec 3<&0',
      'pidfile="$1"; shift',
      '"$@" 3<&- & server=$!',
      'echo "$server" > "$pidfile"',
      '(cat <&3 >/dev/null; kill -KILL "$server") 2>/dev/null & watcher=$!',
      'wait "$server"; code=$?',
      'kill "$watcher" 2>/dev/null',
      'exit "$code"',
    ].join('\n');
    const onItsOwn = 'echo "$$" > "$1"; shift; exec "$@"';
    const supervisor = spawn(
      'sh',
      ['-c', outlivesCaller ? onItsOwn : withCaller, 'sh', pidPath, ...command],
      {
        cwd: directory,
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
      this.#pid ??= existsSync(pidPath) ? Number(readFileSync(pidPath, 'utf8')) || undefined : undefined;
      if (this.#pid !== undefined && (await answers(this.brokers))) return;
      await delay(25);
    }
    await this.#end('SIGKILL');
    throw new Error(`Kafka did not come up:\n${readFileSync(logPath).subarray(logStart).toString()}`);
  }

  async restart() {
    await this.#end('SIGTERM');
    await this.start();
  }

  async kill9() {
    await this.#end('SIGKILL');
  }

  async stop() {
    // Its data goes with it, so there is nothing to write out.
    await this.#end('SIGKILL');
    rmSync(this.directory, { recursive: true, force: true });
  }

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

const quiet = {
  clientId: 'exeunt-service-script',
  logLevel: kafkajs.logLevel.NOTHING,
  connectionTimeout: 1_000,
  requestTimeout: 5_000,
  retry: { retries: 0 },
};

/** Whether a broker tells its cluster's metadata with itself as a broker that is let in. */
async function answers(brokers) {
  stopEmptyTimers();
  const admin = new kafkajs.Kafka({ ...quiet, brokers }).admin();
  try {
    await admin.connect();
    const cluster = await admin.describeCluster();
    return cluster.brokers.length > 0;
  } catch {
    return false;
  } finally {
    await admin.disconnect().catch(() => {});
  }
}

/** kafkajs starts a timer of a negative length after every answer, and Node warns of it: tulios/kafkajs#1751. */
function stopEmptyTimers() {
  const queue = createRequire(import.meta.url)('kafkajs/src/network/requestQueue').prototype;
  const schedule = queue.scheduleCheckPendingRequests;
  if (schedule.onlyWhenNeeded) return;
  queue.scheduleCheckPendingRequests = Object.assign(
    function () {
      if (this.pending.length > 0) schedule.call(this);
    },
    { onlyWhenNeeded: true },
  );
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
    if (Date.now() > deadline) throw new Error(`process ${pid} of Kafka is still there`);
    await delay(10);
  }
}

// ---- from the command line ----

const RECEIPT = join(ROOT, '.services', 'kafka.json');

/** What `start` wrote down, while the process it names is still that server. */
function running() {
  if (!existsSync(RECEIPT)) return undefined;
  const receipt = JSON.parse(readFileSync(RECEIPT, 'utf8'));
  const pidPath = join(receipt.directory, 'kafka.pid');
  const isOurs = existsSync(pidPath) && Number(readFileSync(pidPath, 'utf8')) === receipt.pid;
  return isOurs && isAlive(receipt.pid) && isKafka(receipt) ? receipt : undefined;
}

/** A process ID is used again some day: where the system tells the command line, it must name our directory. */
function isKafka({ pid, directory }) {
  const path = `/proc/${pid}/cmdline`;
  return !existsSync(path) || readFileSync(path, 'utf8').includes(directory);
}

async function main(command) {
  const print = (brokers) => console.log(`EXEUNT_KAFKA_BROKERS=${brokers.join(',')}`);
  const receipt = running();
  switch (command) {
    case 'start': {
      if (receipt) return print(receipt.brokers);
      const server = await start({ outlivesCaller: true, properties: {} });
      mkdirSync(dirname(RECEIPT), { recursive: true });
      const { brokers, pid, directory } = server;
      writeFileSync(RECEIPT, JSON.stringify({ brokers, pid, directory }), { mode: 0o600 });
      return print(brokers);
    }
    case 'brokers':
      if (receipt) return print(receipt.brokers);
      console.error('no Kafka of this checkout is running: node scripts/services/kafka.mjs start');
      process.exitCode = 1;
      return;
    case 'stop':
      if (receipt) {
        signal(receipt.pid, 'SIGKILL');
        await untilGone(receipt.pid);
        rmSync(receipt.directory, { recursive: true, force: true });
      }
      rmSync(RECEIPT, { force: true });
      return;
    default:
      console.error('usage: node scripts/services/kafka.mjs start|stop|brokers');
      process.exitCode = 2;
  }
}

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === process.argv[1]) {
  await main(process.argv[2]);
}
