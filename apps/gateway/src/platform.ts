import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import type { Configuration } from '@exeunt/configuration';
import { OneAtATime, type Database } from '@exeunt/database';
import { TypeormEventStore, type OutboxEntry } from '@exeunt/event-store';
import { DatabaseServerKeyStore, KeyRing } from '@exeunt/key-ring';
import {
  HandshakeRunner,
  LeaveAllRunner,
  LeaveAllStore,
  LeavingFactsRelay,
  LeavingStore,
  type RoomLeft,
} from '@exeunt/leaving';
import type { MessageBus } from '@exeunt/message-bus';
import { OutboxRelay } from '@exeunt/outbox-relay';
import type { RoomId } from '@exeunt/pdu';
import { membershipsThatReturn, type DomainEvent } from '@exeunt/room';
import { RoomStore } from '@exeunt/room-store';
import { DestinationQueue, DestinationWakes, type FederationSender } from '@exeunt/sending';
import type { ServerDiscovery } from '@exeunt/server-discovery';
import { selectEd25519 } from '@exeunt/signing';
import { traceIdIn, type Tracing } from '@exeunt/tracing';
import type { FederationSide } from './federation-side.js';
import { openFoundation, type Foundation } from './foundation.js';
import { ingestingSide } from './ingest/ingesting-side.js';
import { LeaveRoom, LeaveRoomHandler } from './leave-room/leave-room.command.js';
import { LocalMemberships } from './leave-room/local-memberships.js';
import { roomsOf } from './leave-room/memberships.query.js';
import type { GatewayMetrics } from './operations/metrics.js';
import type { Readiness } from './operations/operations.controller.js';
import { ReceivedTransactions } from './receive-transaction/received-transactions.js';
import { InvitesUnderWay } from './rooms/invites-under-way.js';
import { startSending } from './sending-side.js';

/** Everything behind the listeners, made and started in the order in which one needs the other. */
export interface Platform {
  readonly side: FederationSide;
  readonly database: Database;
  readonly bus: MessageBus;
  /** Absent in a gateway: federation-sender is a process of its own there. */
  readonly sender: FederationSender | undefined;
  readonly discovery: ServerDiscovery;
  readonly store: TypeormEventStore;
  readonly readiness: Readiness;
  readonly tracing: Tracing;
  /** Ends in the reverse order: what was accepted is relayed and queued as far as it goes, nothing is dropped. */
  close(): Promise<void>;
}

/**
 * Of the processes on a database the one that holds this advisory lock relays, and takes users out of all of their rooms;
 * any fixed number does.
 */
const RELAY_LOCK = 4_977_302_615_188n;

/** A state reset is within the rules, and yet shows people in a room who have left it: somebody should look. */
function watchForReturns(
  roomId: RoomId,
  domainEvents: readonly DomainEvent[],
  metrics: GatewayMetrics,
  log: Logger,
): void {
  for (const domainEvent of domainEvents) {
    if (domainEvent.type !== 'PduAccepted') continue;
    for (const { stateKey: user, membership, eventId } of membershipsThatReturn(domainEvent)) {
      metrics.stateReset();
      const by = { room_id: roomId, event_id: domainEvent.eventId, user, membership, holds_now: eventId };
      log.warn(by, 'state resolution gave a membership back to a user who was out');
    }
  }
}

/** As one of the many rooms of a user who leaves everything. */
async function leaveWithoutWaiting(side: FederationSide, wish: LeaveRoom): Promise<RoomLeft> {
  const left = await new LeaveRoomHandler(side).execute(wish);
  return typeof left === 'string' ? { leaveId: left } : { refused: { rule: left.rule, detail: left.detail } };
}

/**
 * Opens database and bus, and starts the relays, what is ingested and, where there is no process of its own for it, the
 * sender.
 */
export async function startPlatform(configuration: Configuration, log: Logger): Promise<Platform> {
  const foundation = await openFoundation(configuration, log);
  try {
    return await startOn(foundation, configuration, log);
  } catch (cause) {
    await foundation.close();
    throw cause;
  }
}

async function startOn(foundation: Foundation, configuration: Configuration, log: Logger): Promise<Platform> {
  const { serverName, role, outgoing, backoff, handshakeDeadlineMs } = configuration;
  const { database, bus, ownKeys, discovery, client, metrics, readiness, tracing, onProblem } = foundation;
  const keyRing = new KeyRing({
    fetchKeys: (server) => client.serverKeys(server),
    store: new DatabaseServerKeyStore(database),
    own: ownKeys,
    now: Date.now,
    random: Math.random,
  });
  const store = new TypeormEventStore(database);
  // What another gateway has put in is found by looking, and nothing else tells of it.
  const relayPollMs = role.kind === 'gateway' ? 100 : 1_000;
  const relay = new OutboxRelay({
    outbox: store,
    bus,
    tracing,
    onProblem,
    onRelayed: (entries) => {
      const now = Date.now();
      for (const { domainEvent } of entries) metrics.relayed(now - domainEvent.decidedAt);
      logRelayed(log, entries);
    },
    maxBatch: 250,
    paceMs: 20,
    pollMs: relayPollMs,
  });
  const randomId = (): string => randomBytes(18).toString('base64url');
  const leavingStore = new LeavingStore(database);
  const leavingRelay = new LeavingFactsRelay({ store: leavingStore, bus, pollMs: relayPollMs, onProblem });
  const leaveAllStore = new LeaveAllStore(database);
  const leaveAll = new LeaveAllRunner({
    store: leaveAllStore,
    roomsOf: (userId) => roomsOf(side, userId),
    leave: (userId, roomId, reason) =>
      leaveWithoutWaiting(side, new LeaveRoom(userId, roomId, reason, [], false)),
    bounds: backoff,
    onOutcome: (kind) => metrics.leaveAllRoom(kind),
    onProblem,
  });
  const handshakes = new HandshakeRunner({
    store: leavingStore,
    client,
    ourName: serverName,
    signingKey: ownKeys.signingKey,
    bounds: backoff,
    templateTimeoutMs: Math.min(handshakeDeadlineMs, outgoing.timeoutMs),
    // Several candidates get their turn within the deadline.
    hedgeAfterMs: Math.min(2_000, handshakeDeadlineMs / 5),
    isAlone: role.kind === 'standalone',
    randomId,
    onProblem,
  });
  const localMemberships = new LocalMemberships(database, serverName);
  await localMemberships.prepare();
  const sending = role.kind === 'standalone' ? await startSending(configuration, foundation, log) : undefined;
  const sender = sending?.sender;
  const wakes =
    sender ?? new DestinationWakes({ queue: new DestinationQueue(database), now: Date.now, onProblem });
  const side: FederationSide = {
    ourName: serverName,
    signingKey: ownKeys.signingKey,
    ownKeys,
    keyRing,
    keys: (server, keyId) => keyRing.keyForRequest(server, keyId),
    ed25519: selectEd25519(),
    client,
    // PGlite has this process alone; on PostgreSQL there may be other gateways.
    rooms: new RoomStore(store, {
      isOnlyWriter: database.kind === 'pglite',
      onAppended: (roomId, domainEvents) => watchForReturns(roomId, domainEvents, metrics, log),
      tracing,
    }),
    leaving: { store: leavingStore, runner: handshakes, deadlineMs: handshakeDeadlineMs },
    leaveAll: { store: leaveAllStore, runner: leaveAll },
    localMemberships,
    receivedTransactions: new ReceivedTransactions(database),
    invitesUnderWay: new InvitesUnderWay(database, Date.now),
    metrics,
    log,
    now: Date.now,
    randomId,
    heardFrom: (server) => wakes.wake(server),
  };
  const ingesting = ingestingSide(configuration, foundation, side, log);
  // Of several processes it is worth knowing which one it is.
  const level = database.kind === 'pglite' ? 'debug' : 'info';
  const relaying = new OneAtATime({
    database,
    lock: RELAY_LOCK,
    work: [relay, leavingRelay, ingesting.retries, leaveAll],
    onChange: (holds) => log[level](holds ? 'relays from here on' : 'relays no more'),
    onProblem,
  });
  ingesting.consumer.start();
  relaying.start();
  handshakes.start();
  return {
    side,
    database,
    bus,
    sender,
    discovery,
    store,
    readiness,
    tracing,
    async close() {
      await ingesting.consumer.stop();
      await handshakes.stop();
      await relaying.stop();
      if (wakes instanceof DestinationWakes) await wakes.stop();
      await sending?.stop();
      await foundation.close();
    },
  };
}

function logRelayed(log: Logger, entries: readonly OutboxEntry[]): void {
  if (!log.isLevelEnabled('debug')) return;
  for (const { roomId, domainEvent, destinations, traceparent } of entries) {
    log.debug(
      {
        event_id: domainEvent.eventId,
        room_id: roomId,
        destinations: destinations.length,
        trace_id: traceIdIn(traceparent),
      },
      'relayed',
    );
  }
}
