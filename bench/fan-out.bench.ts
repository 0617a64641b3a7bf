import { randomBytes } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { openDatabase } from '@exeunt/database';
import { FederationClient, type AddressLookup } from '@exeunt/federation-client';
import { eventIdOf, parseServerName, signPdu, type ServerName } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { FederationSender, sendingMigrations, type OutboundPdu } from '@exeunt/sending';
import { ServerDiscovery } from '@exeunt/server-discovery';
import { nativeEd25519, stringifyJson, type JsonObject } from '@exeunt/signing';
import { createTestCertificateAuthority } from '../test/harness/test-certificate.js';
import { BareSender, type BareTransaction } from './fan-out.bare.js';
import { startProfile } from './cpu-profile.js';
import type { PeersCount, PeersPlace, PeersRequest } from './fan-out.peers.js';
import { startOtherSide } from './other-side.js';
import { cpuSecondsOf, postgresForBench } from './postgres-for-bench.js';
import { flagOption, median, numberOption, progress, report, textOption } from './report.js';

/*
 * PDUs delivered a second by the whole sender: taken into its queue, frozen, signed, sent over verified TLS and
 * recorded, durable in PostgreSQL with fsync on. Against as many bare undici requests in the same process and minute, one a
 * delivery: signed as they go out, over connections kept alive as long, and as many at a time. Of `few` there is a second
 * comparison, with the very transactions of fifty that the sender makes of its backlog, which no request had to wait for.
 *
 *   many   one leave to many servers: with connections kept alive from the leave before, and with none
 *   few    many leaves to few servers
 *   dead   a stream of leaves to servers that live, with nine times as many that don't: refused, silent up to the
 *          time-out, unresolvable; while those are first met, and while they are retried. Against the same stream
 *          without them. Then the memory, while they are retried
 *
 * The result's ratio is the lower of `many` and `few`; `dead` has its own.
 *
 *   --peers N           servers that live (1000)
 *   --few N             servers of `few` (10)
 *   --leaves N          leaves of `few` (1000)
 *   --rounds N          measurements of each kind, bare ones between (5)
 *   --dead N            servers that don't live (9000): a tenth silent, a tenth unresolvable, the others refused
 *   --stream-seconds N  each stream of `dead` (10)
 *   --memory-seconds N  how long memory is watched (60)
 *   --only many|few|dead
 *   --unlooked          peers that answer without a look at what came; unless told they parse it and check its signature
 *   --profile FILE      a CPU profile of the sender's last measurement of `many`, `few` or the stream with dead servers
 */

const peerCount = numberOption('peers', 1_000);
const fewCount = numberOption('few', 10);
const leaves = numberOption('leaves', 1_000);
const rounds = numberOption('rounds', 5);
const deadCount = numberOption('dead', 9_000);
const streamSeconds = numberOption('stream-seconds', 10);
const memorySeconds = numberOption('memory-seconds', 60);
const only = textOption('only');
const profile = textOption('profile');
const areChecking = !flagOption('unlooked');

const CONCURRENCY = 100;
/** Messages that the consumer of the bus hands over at once. */
const BATCH = 100;
/** Deliveries under way in a stream, in leaves: the next leave comes when fewer are left. */
const STREAM_AHEAD = 2;
const WARMING_LEAVES = 20;
/** How long the dead have to be first met; by then many are retried, and the others are still to be met. */
const UNTIL_RETRIED_MS = 20_000;
/** Kept-alive connections end after four seconds. */
const UNTIL_COLD_MS = 5_000;

const version = roomVersion('11')!;
const us = serverName('us.bench.test');
const signingKey = { keyId: 'ed25519:bench', seed: randomBytes(32) };

interface Rate {
  readonly perSecond: number;
  readonly elapsedMs: number;
  /** CPU time a delivery. */
  readonly cpuMicros: Readonly<Record<'sender' | 'postgres' | 'peers', number>>;
  readonly shareOfMachine: number;
  /** Made while it was measured. */
  readonly connections: number;
}

const postgres = await postgresForBench();
const authority = await createTestCertificateAuthority();
const peers = startOtherSide<PeersRequest>('fan-out.peers.js');
const { certificate, privateKey } = await authority.issue(['*.peers.test']);
await authority.remove();
const addresses = Array.from({ length: 8 }, (_, at) => `127.0.0.${at + 1}`);
const spki = Buffer.concat([
  Buffer.from('302a300506032b6570032100', 'hex'),
  nativeEd25519.publicKeyOf(signingKey.seed),
]);
const place = (await peers.ask({
  kind: 'setup',
  setup: { addresses, certificate, privateKey, senderKey: spki.toString('base64'), areChecking },
})) as PeersPlace;

/** Names lead to the listeners in turn; as a resolver that has the answer does, without delay. */
const lookup: AddressLookup = async (host) => {
  const number = /^\w+-(\d+)\.peers\.test$/.exec(host)?.[1];
  if (number === undefined) throw Object.assign(new Error(`no address of ${host}`), { code: 'ENOTFOUND' });
  return [{ address: addresses[Number(number) % addresses.length]!, family: 4 }];
};
const live = Array.from({ length: peerCount }, (_, at) =>
  serverName(`live-${at}.peers.test:${place.ports[at % addresses.length]}`),
);
const few = live.slice(0, fewCount);
const dead = Array.from({ length: deadCount }, (_, at) => {
  if (at % 10 === 0) return serverName(`silent-${at * addresses.length}.peers.test:${place.silentPort}`);
  // Port 1 of loopback has no listener.
  return serverName(at % 10 === 1 ? `nowhere.test:${1_000 + at}` : `refused-${at}.peers.test:1`);
});

const database = await openDatabase({ url: postgres.url, migrations: sendingMigrations });
const discovery = new ServerDiscovery({
  fetchWellKnown: () => Promise.reject(new Error('names with a port have no .well-known')),
  lookUpSrv: () => Promise.reject(new Error('names with a port have no SRV records')),
  now: Date.now,
  random: Math.random,
});
const client = new FederationClient({
  serverName: us,
  signingKey,
  now: Date.now,
  options: { timeoutMs: 30_000, verifyTls: true, ca: authority.certificate, allowNetworks: ['127.0.0.0/8'] },
  resolve: (server) => discovery.resolve(server),
  lookup,
});
let delivered = 0;
let failed = 0;
let awaited = { deliveries: Infinity, reached: () => {} };
const sender = new FederationSender({
  database,
  serverName: us,
  client,
  isAlone: true,
  concurrency: CONCURRENCY,
  attemptTimeoutMs: 35_000,
  // Dead servers are retried as often as if they had only just died, however long this runs.
  bounds: { minMs: 5_000, maxMs: 20_000 },
  onOutcome: ({ outcome, pdus }) => {
    if (outcome === 'delivered') delivered += pdus;
    else failed += 1;
    if (delivered >= awaited.deliveries) awaited.reached();
  },
  onProblem: (what, cause) => progress(`problem: ${what}: ${String(cause)}`),
});
const bare = new BareSender({
  origin: us,
  signingKey,
  ca: authority.certificate,
  concurrency: CONCURRENCY,
  lookup,
});
sender.start();

let leavesMade = 0;
try {
  progress(`${peerCount} servers that live; warming up`);
  await sendLeaves(leavesTo(few, 200));
  await warmUp();
  await bare.send(bareTransactions(leavesTo(few, 200)));
  await bare.send(bareTransactions(leavesTo(live, WARMING_LEAVES), 1));
  await peers.ask({ kind: 'count', forget: true });

  const many = only === undefined || only === 'many' ? await compared('many', live, 1) : undefined;
  const cold = only === undefined || only === 'many' ? await compared('cold', live, 1) : undefined;
  const fewOnes = only === undefined || only === 'few' ? await compared('few', few, leaves) : undefined;
  const amongDead = only === undefined || only === 'dead' ? await amongTheDead() : undefined;

  const worst = [many, cold, fewOnes]
    .filter((one) => one !== undefined)
    .toSorted((a, b) => a.ratio - b.ratio)[0];
  report({
    name: 'fan-out',
    unit: 'PDU deliveries/s',
    value: worst?.value ?? amongDead!.value,
    baseline: worst?.baseline ?? amongDead!.baseline,
    ratio: worst?.ratio ?? amongDead!.ratio,
    target: { atLeast: worst === undefined ? 0.9 : 0.6 },
    baselineIs: worst === undefined ? 'the same stream without dead servers' : 'bare undici requests',
    peers: areChecking ? 'check each signature' : 'look at nothing',
    ...(many === undefined ? {} : { many }),
    ...(cold === undefined ? {} : { cold }),
    ...(fewOnes === undefined ? {} : { few: fewOnes }),
    ...(amongDead === undefined ? {} : { dead: amongDead }),
  });
} finally {
  await sender.stop();
  await bare.close();
  await client.close();
  await database.close();
  peers.stop();
  await postgres.stop();
}

/** So many leaves to each of the servers, by the sender and by bare requests in turns. */
async function compared(kind: 'many' | 'cold' | 'few', servers: readonly ServerName[], leafCount: number) {
  const ours: Rate[] = [];
  const theirs: Rate[] = [];
  const joined: Rate[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const messages = leavesTo(servers, leafCount);
    const transactions = bareTransactions(messages);
    // Connections are as the kind wants them: made by the leave before, ended, or made by so many leaves that it is no matter.
    const before = async (send: () => Promise<void>): Promise<void> => {
      if (kind === 'many') await send();
      if (kind === 'cold') await delay(UNTIL_COLD_MS);
    };
    await before(() => bare.send(bareTransactions(leavesTo(servers, 1))));
    theirs.push(await measured(messages, () => bare.send(bareTransactions(messages, 1))));
    if (kind === 'few') joined.push(await measured(messages, () => bare.send(transactions)));
    await before(() => sendLeaves(leavesTo(servers, 1)));
    const stopProfile =
      profile !== undefined && kind !== 'cold' && round === rounds - 1
        ? await startProfile(profile)
        : undefined;
    ours.push(await measured(messages, () => sendLeaves(messages)));
    await stopProfile?.();
  }
  const value = median(ours.map(({ perSecond }) => perSecond));
  const baseline = median(theirs.map(({ perSecond }) => perSecond));
  const [oursIs, theirsIs] = [nearest(ours, value), nearest(theirs, baseline)];
  progress(`${kind}: ${value.toFixed(0)}/s, ${(value / baseline).toFixed(3)} of ${baseline.toFixed(0)}/s`);
  progress(`  sender: ${words(oursIs)}`);
  progress(`  bare:   ${words(theirsIs)}`);
  const inTransactions = joined.length === 0 ? undefined : median(joined.map(({ perSecond }) => perSecond));
  if (inTransactions !== undefined) {
    progress(
      `  ${(value / inTransactions).toFixed(3)} of ${inTransactions.toFixed(0)}/s in the same transactions`,
    );
    progress(`  bare:   ${words(nearest(joined, inTransactions))}`);
  }
  return {
    servers: servers.length,
    leaves: leafCount,
    value,
    baseline,
    ratio: value / baseline,
    all: ours.map(({ perSecond }) => Math.round(perSecond)),
    cpuMicros: oursIs.cpuMicros,
    connections: oursIs.connections,
    bareCpuMicros: theirsIs.cpuMicros,
    ...(inTransactions === undefined
      ? {}
      : { sameTransactions: { baseline: inTransactions, ratio: value / inTransactions } }),
    shareOfMachine: oursIs.shareOfMachine,
  };
}

async function measured(messages: readonly OutboundPdu[], work: () => Promise<void>): Promise<Rate> {
  const deliveries = messages.reduce((sum, { destinations }) => sum + destinations.length, 0);
  await peers.ask({ kind: 'count', forget: true });
  const before = { sender: process.cpuUsage(), postgres: cpuSecondsOf(postgres), at: performance.now() };
  await work();
  const elapsedMs = performance.now() - before.at;
  const { user, system } = process.cpuUsage(before.sender);
  const postgresSeconds = cpuSecondsOf(postgres) - before.postgres;
  const count = (await peers.ask({ kind: 'count', forget: true })) as PeersCount;
  checked(count, deliveries);
  const cpuSeconds = { sender: (user + system) / 1e6, postgres: postgresSeconds, peers: count.cpuSeconds };
  return rateOf(deliveries, elapsedMs, cpuSeconds, count.connections);
}

function checked(count: PeersCount, deliveries: number): void {
  const isRight = count.repeats + count.outOfOrder + count.badSignatures === 0 && count.pdus === deliveries;
  if (areChecking && !isRight) throw new Error(`${deliveries} deliveries: ${JSON.stringify(count)}`);
}

function rateOf(
  deliveries: number,
  elapsedMs: number,
  cpuSeconds: Rate['cpuMicros'],
  connections: number,
): Rate {
  const micros = (seconds: number): number => (seconds * 1e6) / deliveries;
  const { sender, postgres, peers } = cpuSeconds;
  return {
    perSecond: (deliveries / elapsedMs) * 1000,
    elapsedMs,
    cpuMicros: { sender: micros(sender), postgres: micros(postgres), peers: micros(peers) },
    connections,
    shareOfMachine: (sender + postgres + peers) / ((elapsedMs / 1000) * availableParallelism()),
  };
}

/** A stream of leaves to those that live: alone, while the dead are first met, while they are retried, and alone. */
async function amongTheDead() {
  await warmUp();
  const alone = await stream('no dead servers', streamSeconds);
  await warmUp();
  progress(`${deadCount} dead servers are due`);
  await sender.queue.enqueue(leavesTo(dead, 3), Date.now());
  failed = 0;
  const met = await stream('dead servers are first met', streamSeconds);
  const unmet =
    'SELECT count(*)::int AS unmet FROM sender_destinations WHERE failures = 0 AND due_at IS NOT NULL';
  for (const until = performance.now() + UNTIL_RETRIED_MS; performance.now() < until; await delay(500)) {
    const [row] = await database.query<{ unmet: number }>(unmet);
    // What hangs is a tenth, and held for the time-out; the others have been tried. More may still be to come.
    if (row!.unmet <= deadCount / 10) break;
  }
  progress(`${failed} attempts have failed`);
  await warmUp();
  failed = 0;
  const retried = await stream('dead servers are retried', streamSeconds, profile);
  const retries = failed;
  const memory = await watchMemory();
  await database.query(`DELETE FROM sender_destinations WHERE destination <> ALL($1::text[])`, [live]);
  await database.query(`DELETE FROM sender_queue WHERE destination <> ALL($1::text[])`, [live]);
  await warmUp();
  const after = await stream('no dead servers again', streamSeconds);
  const baseline = (alone.perSecond + after.perSecond) / 2;
  const value = Math.min(met.perSecond, retried.perSecond);
  progress(`dead: ${(value / baseline).toFixed(3)} of the rate without them`);
  return {
    servers: deadCount,
    value,
    baseline,
    ratio: value / baseline,
    target: { atLeast: 0.9 },
    withoutThem: [Math.round(alone.perSecond), Math.round(after.perSecond)],
    firstMet: met.perSecond,
    retried: retried.perSecond,
    retriesPerSecond: retries / streamSeconds,
    cpuMicros: retried.cpuMicros,
    cpuMicrosWithoutThem: alone.cpuMicros,
    memory,
  };
}

/** Makes connections that have ended again, and code run often enough to be compiled. */
async function warmUp(): Promise<void> {
  for (let leave = 0; leave < WARMING_LEAVES; leave += 1) await sendLeaves(leavesTo(live, 1));
}

/** Leaves to all that live, the next as soon as few deliveries are left, for so long. */
async function stream(what: string, seconds: number, profileTo?: string): Promise<Rate> {
  await peers.ask({ kind: 'count', forget: false });
  const stopProfile = profileTo === undefined ? undefined : await startProfile(profileTo);
  const start = {
    sender: process.cpuUsage(),
    postgres: cpuSecondsOf(postgres),
    at: performance.now(),
    delivered,
  };
  const begun = delivered;
  let queued = 0;
  while (performance.now() - start.at < seconds * 1_000) {
    await sender.queue.enqueue(leavesTo(live, 1), Date.now());
    sender.nudge();
    queued += live.length;
    await reached(begun + queued - (STREAM_AHEAD - 1) * live.length);
  }
  await reached(begun + queued);
  const elapsedMs = performance.now() - start.at;
  const { user, system } = process.cpuUsage(start.sender);
  const postgresSeconds = cpuSecondsOf(postgres) - start.postgres;
  await stopProfile?.();
  const count = (await peers.ask({ kind: 'count', forget: false })) as PeersCount;
  checked(count, queued);
  const cpuSeconds = { sender: (user + system) / 1e6, postgres: postgresSeconds, peers: count.cpuSeconds };
  const rate = rateOf(queued, elapsedMs, cpuSeconds, count.connections);
  progress(`${what}: ${rate.perSecond.toFixed(0)}/s; ${words(rate)}`);
  return rate;
}

/** Memory of this process, a sample a second after a collection, while a leave a second goes to all that live. */
async function watchMemory() {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const samples: { at: number; heap: number; rss: number; external: number }[] = [];
  const start = performance.now();
  progress(`memory for ${memorySeconds} s`);
  while (performance.now() - start < memorySeconds * 1_000) {
    const next = delay(1_000);
    await sendLeaves(leavesTo(live, 1));
    await next;
    collect();
    const { heapUsed, rss, external } = process.memoryUsage();
    const at = (performance.now() - start) / 60_000;
    samples.push({ at, heap: heapUsed / 2 ** 20, rss: rss / 2 ** 20, external: external / 2 ** 20 });
  }
  // The first third is for what was made for the streams to go.
  const settled = samples.slice(Math.floor(samples.length / 3));
  const memory = {
    heapMiB: median(settled.map(({ heap }) => heap)),
    rssMiB: median(settled.map(({ rss }) => rss)),
    externalMiB: median(settled.map(({ external }) => external)),
    heapMiBPerMinute: slope(settled.map(({ at, heap }) => [at, heap])),
    rssMiBPerMinute: slope(settled.map(({ at, rss }) => [at, rss])),
  };
  progress(
    `memory: heap ${memory.heapMiB.toFixed(1)} MiB (${memory.heapMiBPerMinute.toFixed(2)} a minute), ` +
      `RSS ${memory.rssMiB.toFixed(0)} MiB (${memory.rssMiBPerMinute.toFixed(1)} a minute)`,
  );
  return memory;
}

/** By least squares. */
function slope(points: readonly (readonly [number, number])[]): number {
  const mean = (of: readonly number[]): number => of.reduce((sum, one) => sum + one, 0) / of.length;
  const [x, y] = [mean(points.map(([at]) => at)), mean(points.map(([, value]) => value))];
  const covariance = mean(points.map(([at, value]) => (at - x) * (value - y)));
  return covariance / mean(points.map(([at]) => (at - x) ** 2));
}

/** Takes the leaves in as the consumer of the bus does, and waits until every delivery is recorded. */
async function sendLeaves(messages: readonly OutboundPdu[]): Promise<void> {
  const target = delivered + messages.reduce((sum, { destinations }) => sum + destinations.length, 0);
  for (let at = 0; at < messages.length; at += BATCH) {
    await sender.queue.enqueue(messages.slice(at, at + BATCH), Date.now());
    sender.nudge();
  }
  await reached(target);
}

async function reached(deliveries: number): Promise<void> {
  if (delivered >= deliveries) return;
  await new Promise<void>((resolve) => (awaited = { deliveries, reached: resolve }));
  awaited = { deliveries: Infinity, reached: () => {} };
}

/** Numbered leaves of different users, signed as theirs would be. */
function leavesTo(destinations: readonly ServerName[], howMany: number): OutboundPdu[] {
  return Array.from({ length: howMany }, () => {
    const number = leavesMade++;
    const user = `@user-${number}:leaver.bench.test`;
    const reference = () => `$${randomBytes(32).toString('base64url')}`;
    const event: JsonObject = {
      type: 'm.room.member',
      room_id: '!bench:us.bench.test',
      sender: user,
      state_key: user,
      content: { membership: 'leave', reason: String(number) },
      origin_server_ts: Date.now(),
      depth: 1_000 + number,
      prev_events: [reference()],
      auth_events: [reference(), reference(), reference()],
    };
    const pdu = signPdu(event, version, serverName('leaver.bench.test'), signingKey);
    const eventId = eventIdOf(pdu, version);
    return { id: eventId, roomId: '!bench:us.bench.test', eventId, destinations, pdu: stringifyJson(pdu) };
  });
}

/** Of fifty PDUs each, what the sender makes of the leaves where all are queued before it begins. */
function bareTransactions(messages: readonly OutboundPdu[], most = 50): Map<ServerName, BareTransaction[]> {
  const pdus = messages.map(({ pdu }) => JSON.parse(pdu) as JsonObject);
  const bodies: JsonObject[] = [];
  for (let at = 0; at < pdus.length; at += most) {
    bodies.push({ origin: us, origin_server_ts: Date.now(), pdus: pdus.slice(at, at + most) });
  }
  const transactions = bodies.map((body) => bare.transaction(body));
  return new Map(messages[0]!.destinations.map((destination) => [destination, transactions]));
}

function nearest(rates: readonly Rate[], perSecond: number): Rate {
  const away = (rate: Rate): number => Math.abs(rate.perSecond - perSecond);
  return rates.toSorted((a, b) => away(a) - away(b))[0]!;
}

function words({ cpuMicros: { sender, postgres, peers }, shareOfMachine, connections }: Rate): string {
  return (
    `CPU a delivery: sender ${sender.toFixed(0)} µs, PostgreSQL ${postgres.toFixed(0)} µs, ` +
    `peers ${peers.toFixed(0)} µs: ${(shareOfMachine * 100).toFixed(0)} % of all cores; ${connections} connections made`
  );
}

function serverName(text: string): ServerName {
  const name = parseServerName(text);
  if (name === undefined) throw new Error(`${text} is no server name`);
  return name;
}
