import type { Logger } from 'pino';
import type { Configuration } from '@exeunt/configuration';
import type { FederationSide } from '../federation-side.js';
import type { Foundation } from '../foundation.js';
import { IngestConsumer } from './ingest-consumer.js';
import { WaitingMessages } from './waiting-messages.js';
import { WaitingRetries } from './waiting-retries.js';

/** What takes in `exeunt.ingest.v1`; neither is started. */
export interface IngestingSide {
  readonly consumer: IngestConsumer;
  /** Does its work for all gateways on the database. */
  readonly retries: WaitingRetries;
}

export function ingestingSide(
  { backoff }: Configuration,
  { bus, database, onProblem }: Foundation,
  side: FederationSide,
  log: Logger,
): IngestingSide {
  const waiting = new WaitingMessages(database);
  side.metrics.readIngestWaiting(() => waiting.count());
  const consumer = new IngestConsumer({
    side,
    bus,
    waiting,
    bounds: backoff,
    onDeadLetter: ({ topic, partition, offset }, reason) =>
      log.error({ topic, partition, offset, reason }, 'not ingested'),
    onProblem,
  });
  return { consumer, retries: new WaitingRetries({ consumer, onProblem }) };
}
