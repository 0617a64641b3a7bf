import { randomBytes } from 'node:crypto';
import { connect, createServer, type Socket } from 'node:net';
import Table from 'cli-table3';
import { openDatabase, type Database } from '@exeunt/database';
import { FederationClient } from '@exeunt/federation-client';
import { InMemoryMessageBus, ManualClock, OUTBOUND_PDUS_TOPIC } from '@exeunt/message-bus';
import { OutboundPdusConsumer, sendingMigrations, type DestinationStatus } from '@exeunt/sending';
import { isJsonObject, type JsonObject } from '@exeunt/signing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pdu, senderOn, until, us, type SenderUnderTest } from '../contract/sending.harness.js';
import { freePort } from '../harness/leave-server.js';
import {
  respond,
  selfSignedCertificate,
  startRemoteServer,
  type PeerHandler,
  type RemoteServer,
} from '../harness/remote-server.js';

/*
 * Ten peers, each with a fault of its own, and one sender over real HTTPS: 60 PDUs for all of them, so two transactions
 * each, 50 PDUs and 10. The clock is set from one retry to the next, so that days pass. At the end everyone has
 * everything, in order; and a table says what that took.
 */

const COUNT = 60;
const numbers = Array.from({ length: COUNT }, (_, n) => n + 1);
const transactions = [numbers.slice(0, 50), numbers.slice(50)];
const day = 86_400_000;

/** Before a peer there is a door: open, closed (connections are refused), or with somebody who speaks no TLS. */
interface Door {
  readonly port: number;
  set(mode: 'open' | 'closed' | 'no-tls'): Promise<void>;
}

async function doorTo(host: string, target: () => number): Promise<Door> {
  const port = await freePort(host);
  const sockets = new Set<Socket>();
  let mode: 'open' | 'closed' | 'no-tls' = 'closed';
  const server = createServer((socket) => {
    sockets.add(socket.on('close', () => sockets.delete(socket)).on('error', () => {}));
    if (mode === 'no-tls') {
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
      return;
    }
    const inside = connect(target(), host).on('error', () => socket.destroy());
    socket.pipe(inside).pipe(socket);
  });
  return {
    port,
    async set(next) {
      mode = next;
      for (const socket of sockets) socket.destroy();
      if (next === 'closed' && server.listening) await new Promise((resolve) => server.close(resolve));
      if (next !== 'closed' && !server.listening) {
        await new Promise<void>((resolve) => server.listen(port, host, resolve));
      }
    },
  };
}

interface Script {
  readonly what: string;
  /** What it answers to its n-th request, from 0; a good 200 unless told. */
  readonly answer?: (n: number) => PeerHandler | undefined;
  /** Has a door, which is closed or wrong at first. */
  readonly door?: 'closed' | 'no-tls';
  /** Which of the two transactions each request that reached it was. */
  readonly requests: readonly (0 | 1)[];
  /** What came of the attempts, those that did not reach it included. Of a list, in order. */
  readonly outcomes: readonly string[] | ((outcomes: readonly string[]) => void);
  /** PDUs it answered an error for. */
  readonly notTaken?: readonly number[];
}

const good: PeerHandler = (_, response) => respond(response, 200, { pdus: {} });
const says = (status: number, body: JsonObject = {}): PeerHandler => {
  return (_, response) => respond(response, status, body);
};
const upTo = (count: number, handler: PeerHandler) => (n: number) => (n < count ? handler : undefined);

/** Until this is called, the slow one does not answer its first request. */
let hurry: () => void;
const patience = new Promise<void>((resolve) => (hurry = resolve));

const scripts = {
  good: { what: 'answers', requests: [0, 1], outcomes: ['delivered', 'delivered'] },
  down: {
    what: 'is down for three days',
    door: 'closed',
    requests: [0, 1],
    outcomes(outcomes) {
      expect(new Set(outcomes.slice(0, -2))).toEqual(new Set(['unreachable']));
      expect(outcomes.slice(-2)).toEqual(['delivered', 'delivered']);
      // Seconds, then hours, then days.
      expect(outcomes.length).toBeLessThan(40);
    },
  },
  failing: {
    what: '500, then 200',
    answer: upTo(1, says(500, { errcode: 'M_UNKNOWN', error: 'oh' })),
    requests: [0, 0, 1],
    outcomes: ['server-error', 'delivered', 'delivered'],
  },
  limiting: {
    what: '429 with Retry-After',
    answer: upTo(1, (_, response) => {
      response.writeHead(429, { 'content-type': 'application/json', 'retry-after': '120' });
      response.end('{"errcode":"M_LIMIT_EXCEEDED"}');
    }),
    requests: [0, 0, 1],
    outcomes: ['rate-limited', 'delivered', 'delivered'],
  },
  slow: {
    what: 'is slow',
    answer: upTo(1, async (request, response) => {
      await patience;
      return good(request, response);
    }),
    requests: [0, 1],
    outcomes: ['delivered', 'delivered'],
  },
  cutting: {
    what: 'hangs up in mid-body',
    answer: upTo(2, (_, response) => {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' });
      response.write('{"pdus":{', () => response.destroy());
    }),
    requests: [0, 0, 0, 1],
    outcomes: ['unreachable', 'unreachable', 'delivered', 'delivered'],
  },
  garbage: {
    what: '200 with garbage',
    answer: upTo(2, (_, response) => {
      response.writeHead(200, { 'content-type': 'text/html' });
      response.end('<html>It works!</html>');
    }),
    requests: [0, 0, 0, 1],
    outcomes: ['unexpected', 'unexpected', 'delivered', 'delivered'],
  },
  choosy: {
    what: '200 with errors a PDU',
    answer: (n) =>
      n === 0
        ? says(200, {
            pdus: { '$7:us.test': { error: 'no' }, '$8:us.test': { error: 'no' }, '$9:us.test': {} },
          })
        : undefined,
    requests: [0, 1],
    outcomes: ['delivered', 'delivered'],
    notTaken: [7, 8],
  },
  plain: {
    what: 'refuses TLS',
    door: 'no-tls',
    requests: [0, 1],
    outcomes: ['unreachable', 'unreachable', 'delivered', 'delivered'],
  },
  denying: {
    what: '403, 401, 404, 400, 413',
    answer: (n) => {
      const status = [403, 401, 404, 400, 413][n];
      return status === undefined ? undefined : says(status, { errcode: 'M_FORBIDDEN', error: 'no' });
    },
    requests: [0, 0, 0, 0, 0, 0, 1],
    outcomes: [...Array<string>(5).fill('refused'), 'delivered', 'delivered'],
  },
} satisfies Record<string, Script>;

type Name = keyof typeof scripts;
const names = Object.keys(scripts) as Name[];
const scriptOf = (name: Name): Script => scripts[name];

let database: Database;
let client: FederationClient;
let under: SenderUnderTest;
const peers = {} as Record<Name, RemoteServer>;
const doors: Partial<Record<Name, Door>> = {};
/** Those that had everything while the slow one had yet to answer. */
let notHeldUp: readonly string[];
/** How long the one that was down stayed so, by the clock. */
let downMs = 0;
let wasParked = false;

async function startPeer(name: Name, host: string): Promise<void> {
  const script = scriptOf(name);
  if (script.door !== undefined) {
    doors[name] = await doorTo(host, () => peers[name].port);
    await doors[name].set(script.door);
  }
  const peer = await startRemoteServer({
    host,
    ...(doors[name] === undefined ? {} : { name: `${host}:${doors[name].port}` }),
  });
  peers[name] = peer;
  let requests = 0;
  peer.on('PUT', '/_matrix/federation/v1/send/', (request, response) =>
    (script.answer?.(requests++) ?? good)(request, response),
  );
}

const statuses = (): Promise<DestinationStatus[]> => under.sender.list({ limit: 100 });
const statusOf = (name: Name) => under.sender.status(peers[name].name);
const outcomesOf = (name: Name) =>
  under.outcomes.filter(({ destination }) => destination === peers[name].name);

/** Whoever can go on without the clock has done so; who holds a request open is passed over. */
async function atRest(except: readonly string[] = []): Promise<void> {
  const rests = ({ destination, state, pending, retry_at }: DestinationStatus): boolean =>
    except.includes(destination) ||
    (state !== 'sending' && (pending === 0 || (retry_at ?? 0) > under.clock.now()));
  await until(
    async () => (await statuses()).every(rests),
    () => under.sender.nudge(),
  );
}

async function untilEveryoneHasEverything(start: number): Promise<void> {
  for (;;) {
    await atRest();
    const waiting = (await statuses()).filter(({ pending }) => pending > 0);
    if (waiting.length === 0) return;
    if (outcomesOf('plain').length === 2) await doors.plain?.set('open');
    if ((await statusOf('down'))?.state === 'parked') {
      wasParked = true;
      downMs = under.clock.now() - start;
      await doors.down?.set('open');
    }
    under.clock.advance(Math.min(...waiting.map(({ retry_at }) => retry_at ?? 0)) - under.clock.now());
  }
}

beforeAll(async () => {
  const clock = new ManualClock();
  database = await openDatabase({ dataDir: 'memory://', migrations: sendingMigrations });
  client = new FederationClient({
    serverName: us,
    signingKey: { keyId: 'ed25519:us', seed: randomBytes(32) },
    now: () => clock.now(),
    options: {
      timeoutMs: 30_000,
      verifyTls: true,
      ca: (await selfSignedCertificate()).certificate,
      allowNetworks: ['127.0.0.0/8'],
    },
  });
  await Promise.all(names.map((name, index) => startPeer(name, `127.0.0.${index + 2}`)));
  under = senderOn(database, client, {}, clock);

  const bus = new InMemoryMessageBus({ clock, partitions: 1 });
  const consumer = new OutboundPdusConsumer({
    bus,
    queue: under.sender.queue,
    clock,
    onQueued: () => under.sender.nudge(),
  });
  await bus.publish(
    numbers.map((n) => {
      const {
        id,
        roomId,
        eventId,
        destinations,
        pdu: text,
      } = pdu(
        n,
        names.map((name) => peers[name].name),
      );
      return {
        topic: OUTBOUND_PDUS_TOPIC,
        key: '0',
        headers: { ce_id: id, ce_time: new Date(clock.now()).toISOString() },
        value: `{"room_id":"${roomId}","event_id":"${eventId}","destinations":${JSON.stringify(destinations)},"pdu":${text}}`,
      };
    }),
  );
  await consumer.start();
  await until(
    async () => (await statuses()).every(({ pending }) => pending === COUNT) && (await statuses()).length > 0,
  );
  const start = clock.now();
  under.sender.start();
  await atRest([peers.slow.name]);
  expect((await statusOf('slow'))?.in_flight).toBe(50);
  notHeldUp = (await statuses()).filter(({ pending }) => pending === 0).map(({ destination }) => destination);
  hurry();
  await untilEveryoneHasEverything(start);
  await consumer.stop();
  await under.sender.stop();
  await bus.close();
});

afterAll(async () => {
  printTable();
  await client?.close();
  await Promise.all(Object.values(doors).map((door) => door.set('closed')));
  await Promise.all(Object.values(peers).map((peer) => peer.close()));
  await database?.close();
});

interface Arrived {
  readonly txnId: string;
  readonly body: string;
  readonly numbers: readonly number[];
}

function arrivedAt(name: Name): readonly Arrived[] {
  return peers[name].requests.map(({ url, body, json }) => ({
    txnId: url.slice('/_matrix/federation/v1/send/'.length),
    body: body.toString(),
    numbers: isJsonObject(json) ? (json['pdus'] as readonly JsonObject[]).map((one) => Number(one['n'])) : [],
  }));
}

describe('a peer that', () => {
  it.each(names.map((name) => [scriptOf(name).what, name] as const))(
    '%s has everything, once a transaction and in order',
    async (_, name) => {
      const script = scriptOf(name);
      const arrived = arrivedAt(name);
      expect(arrived.map((one) => one.numbers)).toEqual(script.requests.map((index) => transactions[index]));
      const outcomes = outcomesOf(name).map(({ outcome }) => outcome);
      if (typeof script.outcomes === 'function') script.outcomes(outcomes);
      else expect(outcomes).toEqual(script.outcomes);
      const notTaken = outcomesOf(name).flatMap(({ pduErrors }) => pduErrors.map(({ eventId }) => eventId));
      expect(notTaken).toEqual((script.notTaken ?? []).map((n) => `$${n}:us.test`));
      expect(await statusOf(name)).toMatchObject({ state: 'idle', pending: 0, failures: 0 });
    },
  );

  it('is slow holds up nobody', () => {
    expect(notHeldUp.toSorted()).toEqual([peers.good.name, peers.choosy.name].toSorted());
  });

  it('was down was so for three days and was parked, then had its backlog in one go', () => {
    expect(wasParked).toBe(true);
    expect(downMs).toBeGreaterThanOrEqual(3 * day);
  });

  it('asked to be left alone was, and the others that failed were tried ever less often', () => {
    const attempts = outcomesOf('limiting');
    // The second attempt's PDUs had waited two minutes by then.
    expect(attempts[1]?.oldestWaitedMs).toBe(120_000);
    const waited = outcomesOf('denying').map(({ oldestWaitedMs }) => oldestWaitedMs);
    expect(waited.slice(0, 6)).toEqual([0, 5_000, 15_000, 35_000, 75_000, 155_000]);
  });
});

it('no transaction ID has two contents, or two destinations', () => {
  const contents = new Map<string, string>();
  for (const name of names) {
    for (const { txnId, body } of arrivedAt(name)) {
      expect(contents.get(txnId) ?? `${name} ${body}`).toBe(`${name} ${body}`);
      contents.set(txnId, `${name} ${body}`);
    }
  }
  expect(contents.size).toBe(2 * names.length);
});

/** What it took. */
function printTable(): void {
  const table = new Table({
    head: ['peer', 'attempts', 'repeats', 'transactions', 'PDUs', 'not taken', 'failures'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'left'],
    style: { head: [], border: [], compact: true },
  });
  for (const name of names) {
    const outcomes = outcomesOf(name);
    const delivered = outcomes.filter(({ outcome }) => outcome === 'delivered');
    const failures = outcomes.map(({ outcome }) => outcome).filter((outcome) => outcome !== 'delivered');
    const kinds = [...new Set(failures)].map(
      (kind) => `${failures.filter((one) => one === kind).length} ${kind}`,
    );
    table.push([
      scriptOf(name).what,
      outcomes.length,
      outcomes.length - delivered.length,
      delivered.length,
      delivered.reduce((sum, { pdus }) => sum + pdus, 0),
      delivered.reduce((sum, { pduErrors }) => sum + pduErrors.length, 0),
      kinds.join(', '),
    ]);
  }
  process.stdout.write(`${table.toString()}\n`);
}
