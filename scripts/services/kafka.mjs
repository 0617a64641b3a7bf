#!/usr/bin/env node
// A real Kafka for tests and for trying things out; what it exports is described in kafka.d.mts.
//
//   node scripts/services/kafka.mjs start      starts one that stays, prints EXEUNT_KAFKA_BROKERS=…
//   node scripts/services/kafka.mjs brokers    prints that line again; exit code 1 when none is running
//   node scripts/services/kafka.mjs stop       ends it and deletes its data
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import kafkajs from 'kafkajs';
import {
  freePorts,
  hasDockerEngine,
  runServiceCommand,
  ServiceContainer,
  ServiceProcess,
  wantsContainers,
} from './service-process.mjs';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
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
  const installed = wantsContainers() ? undefined : findInstalled();
  if (installed && findJava()) return { kind: 'installed', ...installed };
  return hasDockerEngine() ? { kind: 'docker', image: imageOf(pinnedVersion()) } : undefined;
}

export async function startKafka(options = {}) {
  return start({ outlivesCaller: false, properties: options.properties ?? {} });
}

function pinnedVersion() {
  const pom = readFileSync(join(ROOT, 'scripts/services/kafka-pom.xml'), 'utf8');
  const version = /<kafka\.version>([^<]+)</.exec(pom)?.[1];
  if (version === undefined) throw new Error('kafka-pom.xml names no <kafka.version>');
  return version;
}

const imageOf = (version) => `apache/kafka:${version}`;

function findInstalled() {
  const version = pinnedVersion();
  const directory = join(ROOT, '.services', `kafka-${version}`);
  // The installer writes its receipt last.
  return existsSync(join(directory, 'installed-pom.xml')) ? { version, directory } : undefined;
}

function findJava() {
  const home = process.env.JAVA_HOME;
  const folders = [...(home ? [join(home, 'bin')] : []), ...(process.env.PATH ?? '').split(delimiter)];
  return folders.map((folder) => join(folder, 'java')).find((path) => existsSync(path));
}

async function start({ outlivesCaller, properties }) {
  const java = findJava();
  const installed = wantsContainers() ? undefined : findInstalled();
  if (java !== undefined && installed !== undefined) {
    return await startHere({ java, installed, outlivesCaller, properties });
  }
  if (hasDockerEngine()) return await startContainer({ outlivesCaller, properties });
  throw new Error(
    'no Kafka here, and no Docker engine: scripts/services/install-kafka.sh installs Kafka (it needs Java 17 and Maven: scripts/services/apt.sh)',
  );
}

/** A broker that is its own controller, for clients on 127.0.0.1. */
function settingsOf({ port, controllerPort, host, data, properties }) {
  return {
    'process.roles': 'broker,controller',
    'node.id': '1',
    'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
    listeners: `PLAINTEXT://${host}:${port},CONTROLLER://127.0.0.1:${controllerPort}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port}`,
    'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
    'controller.listener.names': 'CONTROLLER',
    'inter.broker.listener.name': 'PLAINTEXT',
    'log.dirs': data,
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
}

async function startHere({ java, installed, outlivesCaller, properties }) {
  const directory = mkdtempSync(join(tmpdir(), 'exeunt-kafka-'));
  const command = (mainClass, ...args) => [
    java,
    ...JVM,
    '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn',
    '-cp',
    `${join(installed.directory, 'libs')}/*`,
    mainClass,
    ...args,
  ];
  try {
    const [port, controllerPort] = await freePorts(2);
    const data = join(directory, 'data');
    const settings = settingsOf({ port, controllerPort, host: '127.0.0.1', data, properties });
    const file = join(directory, 'server.properties');
    writeFileSync(
      file,
      Object.entries(settings)
        .map(([name, value]) => `${name}=${value}\n`)
        .join(''),
    );
    // Makes the data directory one that a new cluster of one node can start on.
    // An ID that starts with a hyphen is read as one more option.
    const clusterId = randomBytes(16).toString('base64url').replace(/^-/, '_');
    const [program, ...args] = command('kafka.tools.StorageTool', 'format', '-t', clusterId, '-c', file);
    execFileSync(program, args, { cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] });
    const place = new ServiceProcess({
      what: 'Kafka',
      directory,
      command: command('kafka.Kafka', file),
      endSignal: 'SIGTERM',
      orphanSignal: 'SIGKILL',
      outlivesCaller,
    });
    const server = new Server(place, { directory, version: installed.version, port });
    await server.start();
    return server;
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
}

async function startContainer({ outlivesCaller, properties }) {
  const version = pinnedVersion();
  const [port] = await freePorts(1);
  // The broker's port is the same inside, for it tells clients to come to it. The image's user may write to this data.
  const settings = settingsOf({
    port,
    controllerPort: port === 9093 ? 9094 : 9093,
    host: '0.0.0.0',
    data: '/var/lib/kafka/data',
    properties,
  });
  const place = new ServiceContainer({
    image: imageOf(version),
    ports: { [port]: port },
    environment: {
      KAFKA_HEAP_OPTS: JVM.filter((option) => option.startsWith('-Xm')).join(' '),
      // The image's names of the broker's settings.
      ...Object.fromEntries(
        Object.entries(settings).map(([name, value]) => [
          `KAFKA_${name.toUpperCase().replaceAll('.', '_')}`,
          value,
        ]),
      ),
    },
    outlivesCaller,
  });
  const server = new Server(place, { directory: undefined, version, port });
  try {
    await server.start();
    return server;
  } catch (error) {
    await place.remove();
    throw error;
  }
}

class Server {
  #place;

  constructor(place, { directory, version, port }) {
    this.#place = place;
    this.directory = directory;
    this.version = version;
    this.brokers = [`127.0.0.1:${port}`];
  }

  get pid() {
    return this.#place.pid;
  }

  get receipt() {
    return this.#place.receipt;
  }

  async start() {
    const outcome = await this.#place.start(() => answers(this.brokers));
    if (outcome !== 'ready') throw new Error(`Kafka did not come up:\n${outcome}`);
  }

  async restart() {
    await this.#place.end();
    await this.start();
  }

  async kill9() {
    await this.#place.kill9();
  }

  async stop() {
    // Its data goes with it, so there is nothing to write out.
    await this.#place.kill9();
    await this.#place.remove();
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

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === process.argv[1]) {
  await runServiceCommand(process.argv[2], {
    script: 'kafka',
    what: 'Kafka',
    variable: 'EXEUNT_KAFKA_BROKERS',
    query: 'brokers',
    start: async () => {
      const server = await start({ outlivesCaller: true, properties: {} });
      return { address: server.brokers.join(','), place: server.receipt };
    },
  });
}
