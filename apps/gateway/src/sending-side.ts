import type { Logger } from 'pino';
import type { Configuration } from '@exeunt/configuration';
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
  { database, bus, client, metrics, tracing, onProblem }: Foundation,
  log: Logger,
): Promise<SendingSide> {
  const sender = new FederationSender({
    database,
    serverName,
    client,
    isAlone: role.kind === 'standalone',
    bounds: backoff,
    attemptTimeoutMs: outgoing.timeoutMs + 5000,
    onOutcome: (attempt) => {
      metrics.attempt(attempt);
      const { pduErrors, traceIds, waits: _, ...outcome } = attempt;
      // A transaction has at most 50 PDUs, and so that many traces.
      const line = { ...outcome, trace_ids: [...new Set(traceIds.values())] };
      if (outcome.outcome === 'delivered') log.info(line, 'transaction delivered');
      else log.warn(line, 'transaction not delivered');
      for (const error of pduErrors) {
        const { destination } = outcome;
        log.warn({ destination, ...error, trace_id: traceIds.get(error.eventId) }, 'PDU not taken');
      }
    },
    tracing,
    onProblem,
  });
  metrics.readQueue(sender.reports);
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
