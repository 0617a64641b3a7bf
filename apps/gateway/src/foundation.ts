import type { Logger } from 'pino';
import type { Configuration, KafkaLocation } from '@exeunt/configuration';
import { openDatabase, type Database } from '@exeunt/database';
import { eventStoreMigrations } from '@exeunt/event-store';
import {
  FederationClient,
  wellKnownFetch,
  type RefusedAddress,
  type RequestOutcome,
} from '@exeunt/federation-client';
import { OwnKeys, ServerKeys1700000000001 } from '@exeunt/key-ring';
import { Leaving1700000000004 } from '@exeunt/leaving';
import {
  EmbeddedBus1700000000002,
  EmbeddedMessageBus,
  KafkaMessageBus,
  type MessageBus,
} from '@exeunt/message-bus';
import { sendingMigrations } from '@exeunt/sending';
import { ServerDiscovery, systemSrvLookup } from '@exeunt/server-discovery';
import { signingKeyText } from './data-directory.js';
import { GatewayMetrics } from './operations/metrics.js';
import type { Readiness } from './operations/operations.controller.js';
import { ReceivedTransactions1700000000005 } from './receive-transaction/received-transactions.js';

/** What every role stands on: the database, the bus, our keys, and the way to other servers. */
export interface Foundation {
  readonly database: Database;
  readonly bus: MessageBus;
  readonly ownKeys: OwnKeys;
  readonly discovery: ServerDiscovery;
  readonly client: FederationClient;
  readonly metrics: GatewayMetrics;
  readonly readiness: Readiness;
  /** Hears of everything that went wrong and is tried again. */
  readonly onProblem: (what: string, cause: unknown) => void;
  close(): Promise<void>;
}

/** Opens the database, with the schema of all roles whichever comes first, and the bus. */
export async function openFoundation(configuration: Configuration, log: Logger): Promise<Foundation> {
  const { serverName, role, outgoing } = configuration;
  const ownKeys = OwnKeys.parse(serverName, await signingKeyText(configuration.signingKeyFile));
  const database = await openDatabase({
    ...(role.database.kind === 'postgres'
      ? { url: role.database.url }
      : { dataDir: role.database.directory }),
    migrations: [
      ...eventStoreMigrations,
      ServerKeys1700000000001,
      EmbeddedBus1700000000002,
      ...sendingMigrations,
      Leaving1700000000004,
      ReceivedTransactions1700000000005,
    ],
    onIdleError: (error) => log.warn({ err: error }, 'a database connection broke while idle'),
  });
  const onProblem = (what: string, cause: unknown): void => log.warn({ err: cause }, what);
  let bus: MessageBus;
  try {
    bus =
      role.kafka === undefined
        ? new EmbeddedMessageBus(database, { onProblem })
        : await openKafka(role.kafka, `exeunt-${role.kind}`, onProblem);
  } catch (cause) {
    await database.close();
    throw cause;
  }
  const metrics = new GatewayMetrics();
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
  return {
    database,
    bus,
    ownKeys,
    discovery,
    client,
    metrics,
    readiness: { database: () => database.check(), bus: () => bus.check() },
    onProblem,
    async close() {
      await bus.close();
      await client.close();
      await database.close();
    },
  };
}

function openKafka(
  { brokers, ssl, sasl }: KafkaLocation,
  clientId: string,
  onProblem: Foundation['onProblem'],
): Promise<MessageBus> {
  return KafkaMessageBus.open({
    brokers,
    clientId,
    onProblem,
    ...(ssl ? { ssl } : {}),
    ...(sasl === undefined ? {} : { sasl: saslOptions(sasl) }),
  });
}

/** One by one, for the mechanism is the tag of a union in kafkajs. */
function saslOptions({ mechanism, username, password }: NonNullable<KafkaLocation['sasl']>) {
  switch (mechanism) {
    case 'plain':
      return { mechanism, username, password };
    case 'scram-sha-256':
      return { mechanism, username, password };
    case 'scram-sha-512':
      return { mechanism, username, password };
    default:
      return mechanism satisfies never;
  }
}
