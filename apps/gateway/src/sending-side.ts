import type { Logger } from 'pino';
import type { Configuration } from '@exeunt/configuration';
import type { Database } from '@exeunt/database';
import { FederationSender, OutboundPdusConsumer, SENDER_GROUP } from '@exeunt/sending';
import type { Foundation } from './foundation.js';

/** The sender with the consumer that fills its queue. */
export interface SendingSide {
  readonly sender: FederationSender;
  /** What the bus was told is queued is durable, what is under way is recorded; nothing is dropped. */
  stop(): Promise<void>;
}

/** Starts to take from the bus and to send. */
export async function startSending(
  { serverName, role, outgoing, backoff }: Configuration,
  { database, bus, client, metrics, onProblem }: Foundation,
  log: Logger,
): Promise<SendingSide> {
  metrics.countPendingPdus(() => pendingPdus(database));
  const sender = new FederationSender({
    database,
    serverName,
    client,
    isAlone: role.kind === 'standalone',
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
    onUnreadable: (message, reason) => {
      metrics.deadLetter(SENDER_GROUP);
      log.error({ topic: message.topic, offset: message.offset, reason }, 'unreadable');
    },
  });
  sender.start();
  await consumer.start();
  return {
    sender,
    async stop() {
      await consumer.stop();
      await sender.stop();
    },
  };
}

async function pendingPdus(database: Database): Promise<number> {
  const [row] = await database.query<{ pending: string }>('SELECT count(*) AS pending FROM sender_queue');
  return Number(row?.pending ?? 0);
}
