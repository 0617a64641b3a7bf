import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import kafkajs, { type Admin } from 'kafkajs';
import { OwnKeys } from '@exeunt/key-ring';
import { OUTBOUND_PDUS_TOPIC } from '@exeunt/message-bus';
import { parseServerName } from '@exeunt/pdu';
import { SENDER_GROUP } from '@exeunt/sending';
import type { JsonObject } from '@exeunt/signing';
import { readComposeFile } from '../harness/compose-file.js';
import { importOf, pdusOf } from '../harness/imported-room.js';
import { findKafka, startKafka, type KafkaServer } from '../harness/kafka-server.js';
import { buildProgram } from '../harness/leave-process.js';
import { federationUri, signTemplate } from '../harness/leaving-user.js';
import { findPostgres, startPostgres, type PostgresServer } from '../harness/postgres-server.js';
import {
  respond,
  startRemoteServer,
  type PeerResponse,
  type ReceivedRequest,
  type RemoteServer,
} from '../harness/remote-server.js';
import { freePorts } from '../../scripts/services/service-process.mjs';
import { RoleProcess } from '../harness/role-process.js';
import { RoomBuilder } from '../harness/room-builder.js';
import { settle } from '../harness/settle.js';

/*
 * Two gateways and two federation-senders, processes of their own on a real PostgreSQL and a real Kafka, with the
 * environment that docker-compose.yml gives them. EXEUNT_CLUSTER_ROOMS and EXEUNT_CLUSTER_LEAVES are the load of each
 * test; 2,000 leaves in 200 rooms unless they are set.
 */
const rooms = Number(process.env['EXEUNT_CLUSTER_ROOMS'] ?? 200);
const leaves = Number(process.env['EXEUNT_CLUSTER_LEAVES'] ?? 2000);
/** Leaves under way at once. */
const concurrency = 16;
/** From one leave to the next of each of them, while something happens. */
const PAUSE_MS = 250;
/** The same where that takes a minute. */
const SLOW_PAUSE_MS = 2_000;
const version = '11';
/** Its servers are killed, so they have to be its own: processes, or containers. */
const canRun = [findPostgres(), findKafka()].every(
  (found) => found !== undefined && found.kind !== 'configured',
);

const { Kafka, logLevel, AssignerProtocol } = kafkajs;

type Leave = ReturnType<typeof signTemplate>;

interface Room {
  readonly roomId: string;
  readonly path: string;
  /** Of its log before anybody leaves. */
  readonly before: number;
  readonly leaves: readonly Leave[];
}

describe.skipIf(!canRun)('two gateways and two federation-senders', () => {
  let directory: string;
  let postgres: PostgresServer;
  let kafka: KafkaServer;
  let admin: Admin;
  let leaver: RemoteServer;
  let observers: readonly RemoteServer[];
  /** What observers wait for before they answer. */
  let answers: Promise<void> = Promise.resolve();
  let own: OwnKeys;
  let gateways: readonly RoleProcess[];
  let federationUrls: readonly string[];
  let senders: readonly RoleProcess[];
  /** Runs now and then. */
  let third: RoleProcess;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'exeunt-cluster-'));
    [postgres, kafka] = await Promise.all([startPostgres(), startKafka(), buildProgram()]);
    leaver = await startRemoteServer({ host: '127.0.0.2' });
    observers = await Promise.all(['127.0.0.3', '127.0.0.4'].map((host) => startRemoteServer({ host })));
    for (const observer of observers) {
      observer.on('PUT', '/_matrix/federation/v1/send/', async (_, response) => {
        await answers;
        respond(response, 200, {});
      });
    }
    admin = new Kafka({ brokers: kafka.brokers, logLevel: logLevel.NOTHING }).admin();
    await admin.connect();
    const ports = await freePorts(7);
    const name = `127.0.0.1:${ports[0]}`;
    const secrets = join(directory, 'secrets');
    await mkdir(secrets);
    const address = new URL(postgres.url);
    await writeFile(join(secrets, 'database_password'), address.password);
    execFileSync('sh', ['deploy/make-secrets.sh', secrets], { stdio: ['ignore', 'ignore', 'inherit'] });
    own = OwnKeys.parse(parseServerName(name)!, await readFile(join(secrets, 'signing_key'), 'utf8'));
    const { services } = readComposeFile('docker-compose.yml', { EXEUNT_SERVER_NAME: name });
    /** As the container has it, with this machine's addresses and folders in place of the container's. */
    const environmentOf = (service: string) =>
      Object.fromEntries(
        Object.entries(services[service]!.environment!).map(([variable, value]) => [
          variable,
          value
            .replace('postgres:5432', address.host)
            .replace('kafka:9092', kafka.brokers.join(','))
            .replace('/run/secrets', secrets)
            .replace('0.0.0.0', '127.0.0.1'),
        ]),
      );
    // Peers on loopback, with certificates that nobody has signed, and no patience.
    const ofTheTest = {
      EXEUNT_FEDERATION_VERIFY_TLS: 'false',
      EXEUNT_FEDERATION_ALLOW_NETWORKS: '127.0.0.0/8',
      EXEUNT_FEDERATION_TIMEOUT_MS: '3000',
      EXEUNT_SENDER_BACKOFF_MIN_MS: '50',
    };
    const token = (await readFile(join(secrets, 'platform_token'), 'utf8')).trim();
    const role = (kind: 'gateway' | 'federation-sender', at: number, more: Record<string, string>) =>
      new RoleProcess({
        role: kind,
        logFile: join(directory, `${kind}-${at}.log`),
        port: ports[kind === 'gateway' ? 2 + at : 4 + at]!,
        token,
        environment: { ...environmentOf(kind), ...ofTheTest, ...more },
      });
    gateways = [0, 1].map((at) => role('gateway', at, { EXEUNT_FEDERATION_PORT: String(ports[at]) }));
    federationUrls = [0, 1].map((at) => `http://127.0.0.1:${ports[at]}`);
    [senders, third] = [
      [0, 1].map((at) => role('federation-sender', at, {})),
      role('federation-sender', 2, {}),
    ];
    // All at once, on an empty database: one migrates, and the others wait for it.
    await Promise.all([...gateways, ...senders].map((one) => one.start()));
  }, 180_000);

  afterAll(async () => {
    await Promise.all([...(gateways ?? []), ...(senders ?? []), third].map((one) => one?.kill()));
    await admin?.disconnect();
    await Promise.all([leaver, ...(observers ?? [])].map((one) => one?.close()));
    await Promise.all([postgres?.stop(), kafka?.stop()]);
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  }, 60_000);

  const submit = ({ roomId, eventId, event }: Leave, at: number): Promise<PeerResponse> =>
    leaver.request({
      method: 'PUT',
      uri: federationUri('v2/send_leave', roomId, eventId),
      destination: own.serverName,
      baseUrl: federationUrls[at]!,
      body: event,
    });

  /** Rooms with the observers joined, and invited users of the leaver's with their templates signed. */
  async function prepare(round: string): Promise<readonly Room[]> {
    const alice = `@alice:${own.serverName}`;
    const servers = [leaver, ...observers].map(({ name, key }) => ({ name, key }));
    return await inTurn(Array.from({ length: rooms }), 8, async (_, at) => {
      const builder = new RoomBuilder({
        version,
        servers: [{ name: own.serverName, key: own.signingKey }, ...servers],
        creator: alice,
      });
      for (const observer of observers) builder.member(`@olga:${observer.name}`, 'join');
      const count = Math.floor(leaves / rooms) + (at < leaves % rooms ? 1 : 0);
      const users = Array.from({ length: count }, (_, user) => `@u${round}x${at}x${user}:${leaver.name}`);
      for (const user of users) builder.member(user, 'invite', alice);
      await gateways[at % 2]!.ok('POST', '/v1/rooms/import', importOf(builder, [leaver, ...observers]));
      const signed = await Promise.all(
        users.map(async (user) => {
          const made = await leaver.request({
            method: 'GET',
            uri: federationUri('v1/make_leave', builder.roomId, user),
            destination: own.serverName,
            baseUrl: federationUrls[(at + 1) % 2]!,
          });
          expect(made.status, made.body.toString()).toBe(200);
          return signTemplate(leaver, version, (made.json as JsonObject)['event'] as JsonObject);
        }),
      );
      const path = `/v1/rooms/${encodeURIComponent(builder.roomId)}`;
      const { position } = await gateways[0]!.ok('GET', path);
      return { roomId: builder.roomId, path, before: Number(position), leaves: signed };
    });
  }

  /**
   * Sends all leaves to the gateways at random, 5 % twice and 5 % to both at once; each until it is answered with 200,
   * as a homeserver does. `during` runs when a third is answered, and leaves go on in small numbers for as long as it
   * does. Gives how often a request had no such answer.
   */
  async function storm(
    all: readonly Room[],
    during: () => Promise<void> = async () => {},
    pauseMs = PAUSE_MS,
  ): Promise<number> {
    const queue = shuffled(all.flatMap((room) => room.leaves));
    let answered = 0;
    let again = 0;
    let happening: Promise<void> | undefined;
    let isHappening = false;
    await inTurn(queue, concurrency, async (leave) => {
      const luck = Math.random();
      const first = Math.random() < 0.5 ? 0 : 1;
      const deadline = performance.now() + 120_000;
      const send = async (begin: number): Promise<void> => {
        for (let at = begin; ; at = 1 - at) {
          const status = await Promise.race([
            submit(leave, at).then(
              (answer) => answer.status,
              () => 0,
            ),
            delay(15_000, 0),
          ]);
          if (status === 200) return;
          // What passes: nobody there, or a gateway without its database.
          expect([0, 500, 503]).toContain(status);
          if (performance.now() > deadline) throw new Error(`${leave.eventId} is not taken: ${status}`);
          again += 1;
          await delay(100);
        }
      };
      await (luck < 0.05 ? Promise.all([send(0), send(1)]) : send(first));
      if (luck > 0.95) await send(Math.random() < 0.5 ? 0 : 1);
      answered += 1;
      if (answered >= queue.length / 3 && happening === undefined) {
        isHappening = true;
        happening = during().finally(() => (isHappening = false));
        // Looked at when all leaves are answered.
        happening.catch(() => {});
      }
      if (isHappening) await Promise.race([happening?.catch(() => {}), delay(pauseMs)]);
    });
    await happening;
    return again;
  }

  /** Every leave in the log once, without a gap, as both gateways show it; the same order with every observer. */
  async function expectWhole(all: readonly Room[]): Promise<void> {
    const orders = new Map<string, readonly string[]>();
    for (const room of all) {
      const shown = await Promise.all(
        gateways.map((one) => one.ok('GET', `${room.path}/events?from=${room.before + 1}&limit=10000`)),
      );
      expect(shown[1]!['events']).toEqual(shown[0]!['events']);
      const logged = shown[0]!['events'] as readonly JsonObject[];
      expect(logged.map(({ position }) => position)).toEqual(logged.map((_, at) => room.before + 1 + at));
      const ids = logged.map(({ event_id: id }) => String(id));
      expect([...ids].sort()).toEqual(room.leaves.map(({ eventId }) => eventId).sort());
      orders.set(
        room.roomId,
        logged.map(({ pdu }) => signatureOf(pdu as JsonObject)),
      );
    }
    const deadline = performance.now() + 120_000;
    for (const observer of observers) {
      for (;;) {
        const got = received(observer, orders);
        if ([...orders].every(([roomId, order]) => got.get(roomId)?.length === order.length)) break;
        if (performance.now() > deadline) break;
        await delay(100);
      }
      const got = received(observer, orders);
      for (const [roomId, order] of orders) expect(got.get(roomId)).toEqual(order);
      expectFrozen(observer);
    }
  }

  it('takes leaves at both: each once in the log, and with every server in the order of the room', async () => {
    const all = await prepare('calm');
    const begun = performance.now();
    const again = await storm(all);
    const seconds = (performance.now() - begun) / 1000;
    await expectWhole(all);
    note(`${leaves} leaves in ${rooms} rooms in ${seconds.toFixed(1)} s, ${again} asked again`);
    expect(again).toBe(0);
  }, 300_000);

  describe('loses nothing that was answered with 200 when kill -9 takes', () => {
    const outage = async (what: string, during: () => Promise<void>): Promise<void> => {
      const all = await prepare(what.replaceAll(/\W/g, ''));
      const again = await storm(all, during);
      await expectWhole(all);
      note(`${what}: ${leaves} leaves, ${again} asked again`);
    };

    it('a gateway', () =>
      outage('a gateway', async () => {
        await gateways[0]!.kill();
        await delay(500);
        await gateways[0]!.start();
      }));

    it("the relay's owner", () =>
      outage('the owner', async () => {
        const owner = await relayOwner();
        await gateways[owner]!.kill();
        const begun = performance.now();
        while ((await relayOwner()) === owner) await delay(50);
        note(`another relays after ${Math.round(performance.now() - begun)} ms`);
        await gateways[owner]!.start();
      }));

    it('a sender', () =>
      outage('a sender', async () => {
        await senders[1]!.kill();
        await delay(500);
        await senders[1]!.start();
      }));

    it('Kafka', () =>
      outage('Kafka', async () => {
        await kafka.kill9();
        await expectReadiness(false);
        await kafka.start();
        await expectReadiness(true);
      }));

    it('PostgreSQL', () =>
      outage('PostgreSQL', async () => {
        await postgres.kill9();
        await expectReadiness(false);
        await postgres.start();
        await expectReadiness(true);
      }));
  });

  describe('sends no transaction twice with different content, and keeps the order, when', () => {
    it('a third sender joins in the storm, and leaves it again', async () => {
      const all = await prepare('rebalance');
      const again = await storm(
        all,
        async () => {
          const owners = [await partitionOwners(2)];
          await third.start();
          owners.push(await partitionOwners(3));
          expect(await third.terminate()).toBe(0);
          owners.push(await partitionOwners(2));
          const moves = owners[0]!.map((_, at) => new Set(owners.map((of) => of[at])).size > 1);
          note(`a third sender: ${moves.filter(Boolean).length} of ${moves.length} partitions have moved`);
        },
        SLOW_PAUSE_MS,
      );
      await expectWhole(all);
      expect(again).toBe(0);
    });

    it('a sender that was frozen in a transaction goes on after others have taken its work', async () => {
      const all = await prepare('frozen');
      const observer = observers[0]!;
      let sent: readonly ReceivedRequest[] = [];
      const again = await storm(
        all,
        async () => {
          await third.start();
          await partitionOwners(3);
          // Alone, so that what is under way is its own.
          expect(await Promise.all(senders.map((one) => one.terminate()))).toEqual([0, 0]);
          await partitionOwners(1);
          const before = observer.requests.length;
          const letGo = holdAnswers();
          const underWay = await settle('it sends', () =>
            observer.requests.slice(before).find((request) => pdusOf(request).length > 0),
          );
          third.freeze();
          letGo();
          const frozenAt = performance.now();
          const sinceFrozen = () => `${((performance.now() - frozenAt) / 1000).toFixed(0)} s`;
          await Promise.all(senders.map((one) => one.start()));
          await partitionOwners(2);
          const taken = sinceFrozen();
          sent = await settle(
            'its transaction is taken over',
            () => {
              const same = observer.requests.filter(({ url }) => url === underWay.url);
              return same.length > 1 ? same : undefined;
            },
            90_000,
          );
          note(
            `a frozen sender: its partitions are others' after ${taken}, its transaction after ${sinceFrozen()}`,
          );
          third.thaw();
          await partitionOwners(3);
        },
        SLOW_PAUSE_MS,
      );
      await expectWhole(all);
      expect(new Set(sent.map(({ body }) => body.toString())).size).toBe(1);
      expect(await third.terminate()).toBe(0);
      expect(again).toBe(0);
    });
  });

  it('ends with 0 on SIGTERM in the middle of a storm, and nothing is lost', async () => {
    const all = await prepare('end');
    const codes: unknown[] = [];
    const again = await storm(all, async () => {
      for (const one of [gateways[0]!, senders[0]!]) {
        codes.push(await one.terminate());
        await one.start();
      }
    });
    await expectWhole(all);
    codes.push(...(await Promise.all([...gateways, ...senders].map((one) => one.terminate()))));
    expect(codes).toEqual([0, 0, 0, 0, 0, 0]);
    note(`SIGTERM: ${leaves} leaves, ${again} asked again`);
  });

  /** Waits until so many senders share all partitions; gives the group's member that each is with. */
  async function partitionOwners(members: number): Promise<readonly string[]> {
    const { partitions } = (await admin.fetchTopicMetadata({ topics: [OUTBOUND_PDUS_TOPIC] })).topics[0]!;
    return await settle(
      `${members} senders share the partitions`,
      async () => {
        const group = (await admin.describeGroups([SENDER_GROUP])).groups[0]!;
        if (group.state !== 'Stable' || group.members.length !== members) return undefined;
        const owners = new Map(
          group.members.flatMap(({ memberId, memberAssignment }) => {
            const { assignment = {} } = AssignerProtocol.MemberAssignment.decode(memberAssignment) ?? {};
            return (assignment[OUTBOUND_PDUS_TOPIC] ?? []).map((partition) => [partition, memberId] as const);
          }),
        );
        expect(owners.size).toBe(partitions.length);
        expect(new Set(owners.values()).size).toBe(members);
        return partitions.map((_, at) => owners.get(at)!);
      },
      90_000,
    );
  }

  /** From now on no observer answers, until the function that it gives is called. */
  function holdAnswers(): () => void {
    let letGo = () => {};
    answers = new Promise((resolve) => (letGo = resolve));
    return letGo;
  }

  /** Every process says whether it is ready, within the time that an orchestrator gives. */
  async function expectReadiness(ready: boolean): Promise<void> {
    const deadline = performance.now() + 60_000;
    for (const one of [...gateways, ...senders]) {
      while ((await one.isReady()) !== ready) {
        if (performance.now() > deadline) throw new Error(`${one.url} does not become ${ready}`);
        await delay(50);
      }
    }
  }

  /** Which gateway began to relay last. */
  async function relayOwner(): Promise<number> {
    const since = await Promise.all(
      gateways.map(async (_, at) => {
        const log = await readFile(join(directory, `gateway-${at}.log`), 'utf8');
        const line = log.split('\n').findLast((one) => one.includes('relays from here on'));
        return line === undefined ? 0 : Date.parse((JSON.parse(line) as { readonly time: string }).time);
      }),
    );
    return since[1]! > since[0]! ? 1 : 0;
  }
});

/** What the observer got of each room, each event where it came first. */
function received(
  observer: RemoteServer,
  orders: ReadonlyMap<string, readonly string[]>,
): Map<string, readonly string[]> {
  const got = new Map<string, Set<string>>();
  for (const pdu of observer.requests.flatMap(pdusOf)) {
    const roomId = String(pdu['room_id']);
    if (!orders.has(roomId)) continue;
    const events = got.get(roomId) ?? new Set();
    got.set(roomId, events.add(signatureOf(pdu)));
  }
  return new Map([...got].map(([roomId, events]) => [roomId, [...events]]));
}

/** A transaction that came twice was the same both times. (TX-03, TX-04) */
function expectFrozen(observer: RemoteServer): void {
  const bodies = new Map<string, string>();
  for (const request of observer.requests) {
    if (pdusOf(request).length === 0) continue;
    const body = request.body.toString();
    expect(bodies.get(request.url) ?? body).toBe(body);
    bodies.set(request.url, body);
  }
}

const signatureOf = (pdu: JsonObject): string => JSON.stringify(pdu['signatures']);

const note = (text: string): void => void process.stdout.write(`  ${text}\n`);

function shuffled<T>(list: readonly T[]): T[] {
  return list
    .map((one) => ({ one, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ one }) => one);
}

/** Runs `work` on all, so many at once; results in order. */
async function inTurn<T, R>(
  list: readonly T[],
  atOnce: number,
  work: (one: T, at: number) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let at = next++; at < list.length; at = next++) results[at] = await work(list[at]!, at);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return results;
}
