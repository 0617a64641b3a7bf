import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import type { Configuration } from '@exeunt/configuration';
import { openDatabase, type Database } from '@exeunt/database';
import { eventStoreMigrations, TypeormEventStore } from '@exeunt/event-store';
import {
  FederationClient,
  wellKnownFetch,
  type RefusedAddress,
  type RequestOutcome,
} from '@exeunt/federation-client';
import { DatabaseServerKeyStore, KeyRing, OwnKeys, ServerKeys1700000000001 } from '@exeunt/key-ring';
import { HandshakeRunner, Leaving1700000000004, LeavingFactsRelay, LeavingStore } from '@exeunt/leaving';
import { EmbeddedBus1700000000002, EmbeddedMessageBus, type MessageBus } from '@exeunt/message-bus';
import { OutboxRelay } from '@exeunt/outbox-relay';
import { RoomStore } from '@exeunt/room-store';
import { FederationSender, OutboundPdusConsumer, Sending1700000000003 } from '@exeunt/sending';
import { ServerDiscovery, systemSrvLookup } from '@exeunt/server-discovery';
import { selectEd25519 } from '@exeunt/signing';
import { signingKeyText } from './data-directory.js';
import type { FederationSide } from './federation-side.js';
import { LocalMemberships } from './leave-room/local-memberships.js';
import { GatewayMetrics } from './operations/metrics.js';
import {
  ReceivedTransactions,
  ReceivedTransactions1700000000005,
} from './receive-transaction/received-transactions.js';

/** Everything behind the listeners, made and started in the order in which one needs the other. */
export interface Platform {
  readonly side: FederationSide;
  readonly database: Database;
  readonly bus: MessageBus;
  readonly sender: FederationSender;
  readonly discovery: ServerDiscovery;
  readonly store: TypeormEventStore;
  /** Ends in the reverse order: what was accepted is relayed and queued as far as it goes, nothing is dropped. */
  close(): Promise<void>;
}

/** Opens the database, and starts the relay and the embedded sender. */
export async function startPlatform(configuration: Configuration, log: Logger): Promise<Platform> {
  const { serverName, database: location, outgoing, backoff, handshakeDeadlineMs } = configuration;
  const ownKeys = OwnKeys.parse(serverName, await signingKeyText(configuration.signingKeyFile));
  const database = await openDatabase({
    ...(location.kind === 'postgres' ? { url: location.url } : { dataDir: location.directory }),
    migrations: [
      ...eventStoreMigrations,
      ServerKeys1700000000001,
      EmbeddedBus1700000000002,
      Sending1700000000003,
      Leaving1700000000004,
      ReceivedTransactions1700000000005,
    ],
    onIdleError: (error) => log.warn({ err: error }, 'a database connection broke while idle'),
  });
  const onProblem = (what: string, cause: unknown): void => log.warn({ err: cause }, what);
  const bus = new EmbeddedMessageBus(database, { onProblem });
  const metrics: GatewayMetrics = new GatewayMetrics(() => pendingPdus(database));
  const trust = {
    verifyTls: outgoing.verifyTls,
    allowNetworks: outgoing.allowNetworks,
    ...(outgoing.extraRoots === undefined ? {} : { ca: outgoing.extraRoots }),
  };
  const onRefusedAddress = (refused: RefusedAddress): void => {
    metrics.refusedAddress(refused);
    log.warn(refused, 'an address was refused');
  };
  const discovery = new ServerDiscovery({
    fetchWellKnown: wellKnownFetch({ options: trust, onRefusedAddress }),
    lookUpSrv: systemSrvLookup(),
    now: Date.now,
    random: Math.random,
    onLookup: (lookup) => log.debug(lookup, 'server looked up'),
  });
  const client = new FederationClient({
    serverName,
    signingKey: ownKeys.signingKey,
    now: Date.now,
    options: { timeoutMs: outgoing.timeoutMs, ...trust },
    resolve: (server) => discovery.resolve(server),
    onRefusedAddress,
    onOutcome: (outcome: RequestOutcome) => {
      metrics.outgoing(outcome);
      log.debug(outcome, 'outgoing request');
    },
  });
  const keyRing = new KeyRing({
    fetchKeys: (server) => client.serverKeys(server),
    store: new DatabaseServerKeyStore(database),
    own: ownKeys,
    now: Date.now,
    random: Math.random,
  });
  const sender = new FederationSender({
    database,
    serverName,
    client,
    isAlone: true,
    bounds: backoff,
    attemptTimeoutMs: outgoing.timeoutMs + 5000,
    onOutcome: ({ pduErrors, ...outcome }) => {
      if (outcome.outcome === 'delivered') log.info(outcome, 'transaction delivered');
      else log.warn(outcome, 'transaction not delivered');
      for (const error of pduErrors)
        log.warn({ destination: outcome.destination, ...error }, 'PDU not taken');
    },
    onProblem,
  });
  const consumer = new OutboundPdusConsumer({
    bus,
    queue: sender.queue,
    onQueued: () => sender.nudge(),
    onUnreadable: (message, reason) =>
      log.error({ topic: message.topic, offset: message.offset, reason }, 'unreadable'),
  });
  const store = new TypeormEventStore(database);
  const relay = new OutboxRelay({ outbox: store, bus, onProblem });
  const randomId = (): string => randomBytes(18).toString('base64url');
  const leavingStore = new LeavingStore(database);
  const leavingRelay = new LeavingFactsRelay({ store: leavingStore, bus, onProblem });
  const handshakes = new HandshakeRunner({
    store: leavingStore,
    client,
    ourName: serverName,
    signingKey: ownKeys.signingKey,
    bounds: backoff,
    templateTimeoutMs: Math.min(handshakeDeadlineMs, outgoing.timeoutMs),
    // Several candidates get their turn within the deadline.
    hedgeAfterMs: Math.min(2_000, handshakeDeadlineMs / 5),
    isAlone: true,
    randomId,
    onProblem,
  });
  const localMemberships = new LocalMemberships(database, serverName);
  await localMemberships.prepare();
  sender.start();
  await consumer.start();
  relay.start();
  leavingRelay.start();
  handshakes.start();

  const side: FederationSide = {
    ourName: serverName,
    signingKey: ownKeys.signingKey,
    ownKeys,
    keyRing,
    keys: (server, keyId) => keyRing.keyForRequest(server, keyId),
    ed25519: selectEd25519(),
    client,
    rooms: new RoomStore(store),
    leaving: { store: leavingStore, runner: handshakes, deadlineMs: handshakeDeadlineMs },
    localMemberships,
    receivedTransactions: new ReceivedTransactions(database),
    metrics,
    now: Date.now,
    randomId,
    heardFrom: (server) => sender.wake(server),
  };
  return {
    side,
    database,
    bus,
    sender,
    discovery,
    store,
    async close() {
      await handshakes.stop();
      await leavingRelay.stop();
      await relay.stop();
      await consumer.stop();
      await sender.stop();
      await bus.close();
      await client.close();
      await database.close();
    },
  };
}

async function pendingPdus(database: Database): Promise<number> {
  const [row] = await database.query<{ pending: string }>('SELECT count(*) AS pending FROM sender_queue');
  return Number(row?.pending ?? 0);
}
