import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import kafkajs from 'kafkajs';
import pg from 'pg';
import { generateSigningKeyLine, OwnKeys, seedBytes } from '@exeunt/key-ring';
import { OUTBOUND_PDUS_TOPIC } from '@exeunt/message-bus';
import { parseServerName } from '@exeunt/pdu';
import { RoleProcess } from '../test/harness/role-process.js';
import { kafkaForBench } from './kafka-for-bench.js';
import { cpuSecondsOf, postgresForBench } from './postgres-for-bench.js';
import { flagOption, median, numberOption, progress, quantile, report, textOption } from './report.js';
import { startOtherSide, type OtherSide } from './other-side.js';
import type { LoadRequest, LoadRun } from './send-leave.load.js';

/*
 * Accepted leaves a second by two gateways, beside two federation-senders on PostgreSQL and Kafka, against one process
 * with the embedded bus on the same PostgreSQL: the same load, taken in turns in the same run. Every leave is delivered
 * to another server meanwhile. And how long a decided leave takes until Kafka has it.
 *
 *   --leaves N       leaves of each measured run (4000)
 *   --rooms N        their rooms (200)
 *   --connections N  kept alive, one request at a time each (64)
 *   --observers N    servers with a user in each room, which must be sent every leave (1)
 *   --any-gateway    leaves of a room go to both gateways, as with a proxy that knows no rooms
 *   --rounds N       runs of each shape; the middle one counts (3)
 *   --version V      room version (11)
 */

const leaves = numberOption('leaves', 4_000);
const rooms = numberOption('rooms', 200);
const rounds = numberOption('rounds', 3);

/** One way to be the same server. */
interface Shape {
  readonly name: 'one process' | 'cluster';
  readonly processes: readonly RoleProcess[];
  readonly database: pg.Client;
  readonly load: OtherSide<LoadRequest>;
}

interface Measured {
  readonly perSecond: number;
  readonly latencyMs: LoadRun['latencyMs'];
  /** From the last answer until every leave has been acknowledged by the other servers. */
  readonly deliveredAfterMs: number;
  /** CPU time a leave until then, by who used it. */
  readonly cpuMicros: Readonly<Record<string, number>>;
  /** Of a cluster: from each decision until the broker has the message for the senders. */
  readonly lagsMs: readonly number[];
}

// A script, so it is not among what is compiled; benchmarks run in the repository's root.
const { freePorts } = (await import(
  pathToFileURL(resolve('scripts/services/service-process.mjs')).href
)) as typeof import('../scripts/services/service-process.mjs');
const directory = await mkdtemp(join(tmpdir(), 'exeunt-bench-'));
const postgres = await postgresForBench();
const kafka = await kafkaForBench();
const client = new kafkajs.Kafka({ brokers: kafka.brokers, logLevel: kafkajs.logLevel.NOTHING });
const admin = client.admin();
await admin.connect();
const shapes: Shape[] = [];
try {
  shapes.push(await startShape('one process'), await startShape('cluster'));
  const measured = new Map<Shape, Measured[]>(shapes.map((shape) => [shape, []]));
  for (const shape of shapes) await measure(shape, { rooms: 20, leaves: 1_000 });
  progress('warm');
  for (let round = 0; round < rounds; round += 1) {
    for (const shape of shapes) measured.get(shape)!.push(await measure(shape, { rooms, leaves }));
  }
  const [one, cluster] = shapes.map((shape) => middleOf(measured.get(shape)!));
  const lagsMs = measured.get(shapes[1]!)!.flatMap((run) => run.lagsMs);
  const details = ({ perSecond: value, latencyMs, deliveredAfterMs, cpuMicros }: Measured) => ({
    value,
    latencyMs,
    deliveredAfterMs,
    cpuMicros,
  });
  report({
    name: 'cluster',
    unit: 'accepted leaves/s',
    value: cluster!.perSecond,
    baseline: one!.perSecond,
    ratio: cluster!.perSecond / one!.perSecond,
    baselineIs: 'one process with the embedded bus, on the same PostgreSQL',
    anyGateway: flagOption('any-gateway'),
    rooms,
    leaves,
    rounds,
    commitToKafkaMs: { p50: quantile(lagsMs, 0.5), p99: quantile(lagsMs, 0.99), messages: lagsMs.length },
    oneProcess: details(one!),
    cluster: details(cluster!),
  });
} finally {
  for (const { load, processes, database } of shapes) {
    load.stop();
    await Promise.all(processes.map((one) => one.terminate()));
    await database.end();
  }
  await admin.disconnect();
  await Promise.all([postgres.stop(), kafka.stop()]);
  await rm(directory, { recursive: true, force: true });
}

async function startShape(name: Shape['name']): Promise<Shape> {
  const ports = await freePorts(6);
  const serverName = parseServerName(`127.0.0.1:${ports[0]}`)!;
  const keyLine = generateSigningKeyLine(randomBytes(seedBytes));
  const keyFile = join(directory, `${ports[0]}.key`);
  await writeFile(keyFile, `${keyLine}\n`);
  const databaseUrl = await postgres.createDatabase();
  const token = 'a-token-of-the-benchmark';
  const processOf = (role: 'standalone' | 'gateway' | 'federation-sender', at: number): RoleProcess =>
    new RoleProcess({
      role,
      logFile: join(directory, `${role}-${at}.log`),
      port: ports[2 + at]!,
      token,
      environment: {
        EXEUNT_SERVER_NAME: serverName,
        EXEUNT_SIGNING_KEY_FILE: keyFile,
        EXEUNT_PLATFORM_TOKEN: token,
        EXEUNT_DATABASE_URL: databaseUrl,
        ...(role === 'standalone' ? {} : { EXEUNT_KAFKA_BROKERS: kafka.brokers.join(',') }),
        EXEUNT_FEDERATION_PORT: String(ports[at]),
        EXEUNT_FEDERATION_TLS: 'off',
        EXEUNT_FEDERATION_VERIFY_TLS: 'false',
        EXEUNT_FEDERATION_ALLOW_NETWORKS: '127.0.0.0/8',
        EXEUNT_LOG_LEVEL: 'warn',
      },
    });
  const gateways =
    name === 'one process'
      ? [processOf('standalone', 0)]
      : [processOf('gateway', 0), processOf('gateway', 1)];
  const senders =
    name === 'one process' ? [] : [processOf('federation-sender', 2), processOf('federation-sender', 3)];
  const processes = [...gateways, ...senders];
  await Promise.all(processes.map((one) => one.start()));
  const database = new pg.Client({ connectionString: databaseUrl });
  await database.connect();
  const load = startOtherSide<LoadRequest>('send-leave.load.js');
  const { keyId, seed } = OwnKeys.parse(serverName, keyLine).signingKey;
  await load.ask({
    kind: 'setup',
    setup: {
      ours: {
        name: serverName,
        federationUrls: gateways.map((_, at) => `http://127.0.0.1:${ports[at]}`),
        platformUrl: gateways[0]!.url,
        token,
        key: { keyId, seed: Buffer.from(seed).toString('base64') },
      },
      version: textOption('version') ?? '11',
      anyGateway: flagOption('any-gateway'),
      connections: numberOption('connections', 64),
      observers: numberOption('observers', 1),
    },
  });
  progress(`${name}: ${processes.length} process(es) up`);
  return { name, processes, database, load };
}

async function measure(shape: Shape, plan: { rooms: number; leaves: number }): Promise<Measured> {
  const { load, name } = shape;
  await load.ask({
    kind: 'prepare',
    rooms: plan.rooms,
    leavesPerRoom: Math.max(1, Math.round(plan.leaves / plan.rooms)),
  });
  const queued = await pdusQueued(shape);
  const offsets = await admin.fetchTopicOffsets(OUTBOUND_PDUS_TOPIC);
  const before = cpuSeconds(shape);
  const run = (await load.ask({ kind: 'run' })) as LoadRun;
  if (run.answers['200 {}'] !== run.leaves)
    throw new Error(`not all accepted: ${JSON.stringify(run.answers)}`);
  const answeredAt = performance.now();
  while (!(await isDelivered(shape, queued + run.leaves))) await delay(10);
  const deliveredAfterMs = performance.now() - answeredAt;
  const after = cpuSeconds(shape);
  const cpuMicros = Object.fromEntries(
    Object.entries({ ...after, load: run.cpuSeconds }).map(([who, seconds]) => [
      who,
      ((seconds - (before[who] ?? 0)) * 1e6) / run.leaves,
    ]),
  );
  const lagsMs = name === 'cluster' ? await lagsSince(offsets) : [];
  const perSecond = (run.leaves / run.elapsedMs) * 1000;
  progress(
    `${name}: ${run.leaves} leaves, ${perSecond.toFixed(0)}/s, p50 ${run.latencyMs.p50.toFixed(1)} ms, ` +
      `p99 ${run.latencyMs.p99.toFixed(1)} ms; all delivered ${deliveredAfterMs.toFixed(0)} ms later; µs a leave: ` +
      Object.entries(cpuMicros)
        .map(([who, micros]) => `${who} ${micros.toFixed(0)}`)
        .join(', ') +
      (lagsMs.length > 0
        ? `; in Kafka after p50 ${quantile(lagsMs, 0.5)}, p99 ${quantile(lagsMs, 0.99)} ms`
        : ''),
  );
  return { perSecond, latencyMs: run.latencyMs, deliveredAfterMs, cpuMicros, lagsMs };
}

function cpuSeconds({ name, processes }: Shape): Record<string, number> {
  const of = (some: readonly RoleProcess[]): number =>
    some.reduce((seconds, one) => seconds + cpuSecondsOf(one), 0);
  return name === 'one process'
    ? { process: of(processes), postgres: cpuSecondsOf(postgres) }
    : {
        gateways: of(processes.slice(0, 2)),
        senders: of(processes.slice(2)),
        postgres: cpuSecondsOf(postgres),
        kafka: cpuSecondsOf(kafka),
      };
}

/** PDUs that have come to the senders so far; they are kept for an hour. */
async function pdusQueued({ database }: Shape): Promise<number> {
  const { rows } = await database.query<{ pdus: string }>('SELECT count(*) AS pdus FROM sender_pdus');
  return Number(rows[0]!.pdus);
}

async function isDelivered(shape: Shape, pdus: number): Promise<boolean> {
  const { rows } = await shape.database.query<{ waiting: boolean }>(
    'SELECT EXISTS (SELECT 1 FROM outbox) OR EXISTS (SELECT 1 FROM sender_queue) AS waiting',
  );
  return rows[0]?.waiting === false && (await pdusQueued(shape)) >= pdus;
}

/** Of every message behind the offsets: ms from the decision on its PDU until the broker wrote it. */
async function lagsSince(offsets: readonly { partition: number; offset: string }[]): Promise<number[]> {
  const ends = new Map(
    (await admin.fetchTopicOffsets(OUTBOUND_PDUS_TOPIC)).map(({ partition, high }) => [
      partition,
      BigInt(high),
    ]),
  );
  const open = new Set(
    offsets
      .filter(({ partition, offset }) => BigInt(offset) < ends.get(partition)!)
      .map(({ partition }) => partition),
  );
  const lags: number[] = [];
  const consumer = client.consumer({ groupId: `bench-${randomBytes(6).toString('hex')}` });
  await consumer.connect();
  await consumer.subscribe({ topics: [OUTBOUND_PDUS_TOPIC], fromBeginning: true });
  await new Promise<void>((allRead, reject) => {
    const starts = new Map(offsets.map(({ partition, offset }) => [partition, BigInt(offset)]));
    consumer
      .run({
        autoCommit: false,
        eachMessage: ({ partition, message: { offset, timestamp, headers } }) => {
          if (BigInt(offset) >= starts.get(partition)!) {
            lags.push(Number(timestamp) - Date.parse(String(headers?.['ce_time'])));
          }
          if (BigInt(offset) + 1n >= ends.get(partition)!) open.delete(partition);
          if (open.size === 0) allRead();
          return Promise.resolve();
        },
      })
      .catch(reject);
    for (const [partition, offset] of starts) {
      consumer.seek({ topic: OUTBOUND_PDUS_TOPIC, partition, offset: offset.toString() });
    }
  });
  await consumer.disconnect();
  return lags;
}

function middleOf(runs: readonly Measured[]): Measured {
  const middle = median(runs.map(({ perSecond }) => perSecond));
  return runs.find(({ perSecond }) => perSecond === middle)!;
}
