import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import type { RefusedAddress, RequestOutcome } from '@exeunt/federation-client';

/** What Prometheus reads of a process, whatever its role. Every no is counted under its rule. */
export class GatewayMetrics {
  readonly registry = new Registry();
  readonly #leaves = new Counter({
    name: 'exeunt_leaves_total',
    help: 'send_leave requests by outcome; rule names the requirement a no rests on',
    labelNames: ['outcome', 'rule'] as const,
    registers: [this.registry],
  });
  readonly #templates = new Counter({
    name: 'exeunt_leave_templates_total',
    help: 'make_leave requests by outcome; rule names the requirement a no rests on',
    labelNames: ['outcome', 'rule'] as const,
    registers: [this.registry],
  });
  readonly #outgoing = new Histogram({
    name: 'exeunt_outgoing_request_seconds',
    help: 'Requests to other servers by endpoint and outcome',
    labelNames: ['endpoint', 'outcome'] as const,
    buckets: [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30],
    registers: [this.registry],
  });

  readonly #deadLetters = new Counter({
    name: 'exeunt_dead_letters_total',
    help: 'Messages that a consumer could not take, or not all of; each is in exeunt.dead-letter.v1 with the reason',
    labelNames: ['consumer'] as const,
    registers: [this.registry],
  });
  readonly #ingested = new Counter({
    name: 'exeunt_ingested_total',
    help: 'Messages of exeunt.ingest.v1 as they came, by ce_type and outcome: taken, in-part, waiting or dead-letter',
    labelNames: ['type', 'outcome'] as const,
    registers: [this.registry],
  });
  readonly #refusedAddresses = new Counter({
    name: 'exeunt_refused_addresses_total',
    help: 'Addresses of other servers that were not dialled, for they are not public',
    labelNames: ['purpose'] as const,
    registers: [this.registry],
  });

  constructor() {
    collectDefaultMetrics({ register: this.registry, prefix: 'exeunt_' });
  }

  /** Where a sender runs; read whenever the metrics are. */
  countPendingPdus(pendingPdus: () => Promise<number>): void {
    this.#gauge('exeunt_pending_pdus', 'PDUs that some server has yet to acknowledge', pendingPdus);
  }

  /** Where messages are ingested; read whenever the metrics are. */
  countIngestWaiting(waiting: () => Promise<number>): void {
    this.#gauge(
      'exeunt_ingest_waiting',
      'Messages of exeunt.ingest.v1 that wait for keys of servers',
      waiting,
    );
  }

  leave(refusedBy: string | undefined): void {
    this.#leaves.inc({ outcome: refusedBy === undefined ? 'accepted' : 'refused', rule: refusedBy ?? '' });
  }

  leaveTemplate(refusedBy: string | undefined): void {
    this.#templates.inc({ outcome: refusedBy === undefined ? 'given' : 'refused', rule: refusedBy ?? '' });
  }

  deadLetter(consumer: string): void {
    this.#deadLetters.inc({ consumer });
  }

  /** `type`: undefined for one that is not known. */
  ingested(type: string | undefined, outcome: 'taken' | 'in-part' | 'waiting' | 'dead-letter'): void {
    this.#ingested.inc({ type: type ?? 'unknown', outcome });
  }

  refusedAddress({ purpose }: RefusedAddress): void {
    this.#refusedAddresses.inc({ purpose });
  }

  #gauge(name: string, help: string, read: () => Promise<number>): void {
    this.registry.registerMetric(
      new Gauge({
        name,
        help,
        registers: [],
        async collect() {
          this.set(await read());
        },
      }),
    );
  }

  outgoing(outcome: RequestOutcome): void {
    this.#outgoing.observe(
      { endpoint: outcome.endpoint, outcome: outcome.outcome },
      outcome.durationMs / 1000,
    );
  }
}
