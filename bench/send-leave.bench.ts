import 'reflect-metadata';
import { availableParallelism } from 'node:os';
import { TypeormEventStore } from '@exeunt/event-store';
import { startLeaveServer, type LeaveServer } from '../test/harness/leave-server.js';
import { startProfile } from './cpu-profile.js';
import { signaturePairsPerSecond } from './ed25519-limit.js';
import { startOtherSide } from './other-side.js';
import { cpuSecondsOf, postgresForBench } from './postgres-for-bench.js';
import { flagOption, numberOption, progress, report, textOption } from './report.js';
import type { LoadRequest, LoadRun } from './send-leave.load.js';

/*
 * Accepted leaves a second, whole: HTTP on loopback, both signatures checked, durable in PostgreSQL with fsync on,
 * with relay and embedded bus at work; for one room and for a thousand. Against how often one core can check two
 * signatures and do nothing else, in the same run. The result's ratio is the lower of the two.
 *
 *   --leaves N       leaves of each measured run (10000)
 *   --rooms N        rooms of the second run (1000)
 *   --connections N  kept alive, one request at a time each (64)
 *   --observers N    servers with a user in each room that must be sent every leave (0)
 *   --version V      room version (11)
 *   --only one|many  one of the runs
 *   --tls            the listener's TLS on; off unless told, as behind a proxy
 *   --without-relay  nothing is taken out of the outbox while a run is measured: what relay and bus cost
 *   --profile FILE   a CPU profile of the last run
 */

const leaves = numberOption('leaves', 10_000);
const rooms = numberOption('rooms', 1_000);
const only = textOption('only');
const profile = textOption('profile');
const tls = flagOption('tls');
const withoutRelay = flagOption('without-relay');

interface Measured {
  readonly rooms: number;
  readonly perSecond: number;
  readonly run: LoadRun;
  /** CPU time a leave. */
  readonly cpuMicros: Readonly<Record<'gateway' | 'postgres' | 'load', number>>;
  /** How much of all cores' time the run has used: well below 1 on a machine that others keep busy. */
  readonly shareOfMachine: number;
}

const limits: number[] = [signaturePairsPerSecond()];
const postgres = await postgresForBench();
const ours = await startLeaveServer({
  databaseUrl: postgres.url,
  environment: { EXEUNT_FEDERATION_TLS: tls ? 'self-signed' : 'off' },
});
const load = startOtherSide<LoadRequest>('send-leave.load.js');
try {
  await load.ask({ kind: 'setup', setup: setupFor(ours) });
  progress('warming up');
  await load.ask({ kind: 'prepare', rooms: 1, leavesPerRoom: 1_500 });
  await load.ask({ kind: 'run' });
  await load.ask({ kind: 'prepare', rooms: 150, leavesPerRoom: 10 });
  await load.ask({ kind: 'run' });

  const measured: Measured[] = [];
  if (only !== 'many') measured.push(await measure(1));
  if (only !== 'one') measured.push(await measure(rooms));
  const limit = Math.max(...limits);
  const worst = measured.toSorted((a, b) => a.perSecond - b.perSecond)[0]!;
  report({
    name: 'send-leave',
    unit: 'accepted leaves/s',
    value: worst.perSecond,
    baseline: limit,
    ratio: worst.perSecond / limit,
    target: { atLeast: 0.4 },
    baselineIs: 'two Ed25519 checks each, on one core, nothing else',
    tls: tls ? 'on' : 'off',
    ...Object.fromEntries(
      measured.map(({ rooms, perSecond, run, cpuMicros, shareOfMachine }) => [
        rooms === 1 ? 'oneRoom' : 'manyRooms',
        {
          rooms,
          leaves: run.leaves,
          value: perSecond,
          ratio: perSecond / limit,
          latencyMs: run.latencyMs,
          cpuMicros,
          shareOfMachine,
        },
      ]),
    ),
  });
} finally {
  load.stop();
  await ours.stop();
  await postgres.stop();
}

async function measure(roomCount: number): Promise<Measured> {
  const leavesPerRoom = Math.max(1, Math.round(leaves / roomCount));
  await load.ask({ kind: 'prepare', rooms: roomCount, leavesPerRoom });
  await settled();
  limits.push(signaturePairsPerSecond());
  const before = { gateway: process.cpuUsage(), postgres: cpuSecondsOf(postgres) };
  const stopProfile = profile === undefined ? undefined : await startProfile(profile);
  const { store } = ours.running.platform;
  if (withoutRelay) store.take = () => Promise.resolve([]);
  const run = (await load.ask({ kind: 'run' })) as LoadRun;
  if (withoutRelay) store.take = TypeormEventStore.prototype.take;
  await stopProfile?.();
  const { user, system } = process.cpuUsage(before.gateway);
  const gatewayCpu = (user + system) / 1e6;
  const postgresCpu = cpuSecondsOf(postgres) - before.postgres;
  limits.push(signaturePairsPerSecond());
  if (run.answers['200 {}'] !== run.leaves)
    throw new Error(`not all accepted: ${JSON.stringify(run.answers)}`);
  const relayStart = performance.now();
  await settled();
  const relayedMs = performance.now() - relayStart;
  await load.ask({ kind: 'check' });

  const perSecond = (run.leaves / run.elapsedMs) * 1000;
  const ratio = perSecond / Math.max(...limits);
  const micros = (seconds: number): number => (seconds * 1e6) / run.leaves;
  const cpuMicros = {
    gateway: micros(gatewayCpu),
    postgres: micros(postgresCpu),
    load: micros(run.cpuSeconds),
  };
  const usedSeconds = gatewayCpu + postgresCpu + run.cpuSeconds;
  const shareOfMachine = usedSeconds / ((run.elapsedMs / 1000) * availableParallelism());
  progress(
    `${roomCount} room(s): ${run.leaves} leaves in ${(run.elapsedMs / 1000).toFixed(2)} s, ` +
      `${perSecond.toFixed(0)}/s, ${ratio.toFixed(3)} of ${Math.max(...limits).toFixed(0)}/s; ` +
      `p50 ${run.latencyMs.p50.toFixed(1)} ms, p99 ${run.latencyMs.p99.toFixed(1)} ms`,
  );
  progress(
    `  CPU a leave: gateway ${cpuMicros.gateway.toFixed(0)} µs (${micros(system / 1e6).toFixed(0)} in the kernel), ` +
      `PostgreSQL ${cpuMicros.postgres.toFixed(0)} µs, load ${cpuMicros.load.toFixed(0)} µs: ` +
      `${(shareOfMachine * 100).toFixed(0)} % of all cores; outbox empty ${relayedMs.toFixed(0)} ms later`,
  );
  return { rooms: roomCount, perSecond, run, cpuMicros, shareOfMachine };
}

/** Waits until relay and sender have nothing left to do. */
async function settled(): Promise<void> {
  const { database } = ours.running.platform;
  for (;;) {
    const [row] = await database.query<{ waiting: boolean }>(
      'SELECT EXISTS (SELECT 1 FROM outbox) AS waiting',
    );
    if (row?.waiting === false) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function setupFor({ name, federationUrl, platformUrl, token, running }: LeaveServer) {
  const { keyId, seed } = running.platform.side.signingKey;
  return {
    ours: {
      name,
      federationUrls: [federationUrl],
      platformUrl,
      token,
      key: { keyId, seed: Buffer.from(seed).toString('base64') },
    },
    version: textOption('version') ?? '11',
    connections: numberOption('connections', 64),
    observers: numberOption('observers', 0),
  };
}
