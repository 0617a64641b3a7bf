import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import type { RefusedAddress, RequestOutcome } from '@exeunt/federation-client';
import type { AnsweredRequest } from '../listeners.js';

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

  readonly #refusedAddresses = new Counter({
    name: 'exeunt_refused_addresses_total',
    help: 'Addresses of other servers that were not dialled, for they are not public',
    labelNames: ['purpose'] as const,
    registers: [this.registry],
  });

  readonly #incoming = new Histogram({
    name: 'exeunt_incoming_request_seconds',
    help: 'Requests to this process by endpoint (method and route) and status, from the head to the answer',
    labelNames: ['endpoint', 'status'] as const,
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30],
    registers: [this.registry],
  });
  readonly #relayLag = new Histogram({
    name: 'exeunt_relay_lag_seconds',
    help: 'From the decision on a PDU until the bus has it, where this process relays',
    buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800],
    registers: [this.registry],
  });

  constructor() {
    collectDefaultMetrics({ register: this.registry, prefix: 'exeunt_' });
  }

  /** Where a sender runs; read whenever the metrics are. */
  countPendingPdus(pendingPdus: () => Promise<number>): void {
    this.registry.registerMetric(
      new Gauge({
        name: 'exeunt_pending_pdus',
        help: 'PDUs that some server has yet to acknowledge',
        registers: [],
        async collect() {
          this.set(await pendingPdus());
        },
      }),
    );
  }

  leave(refusedBy: string | undefined): void {
    this.#leaves.inc({ outcome: refusedBy === undefined ? 'accepted' : 'refused', rule: refusedBy ?? '' });
  }

  leaveTemplate(refusedBy: string | undefined): void {
    this.#templates.inc({ outcome: refusedBy === undefined ? 'given' : 'refused', rule: refusedBy ?? '' });
  }

  incoming({ endpoint, status, durationMs }: AnsweredRequest): void {
    this.#incoming.observe({ endpoint, status }, durationMs / 1000);
  }

  /** Gateways' clocks may differ a little: what came before it was decided has waited for nothing. */
  relayed(waitedMs: number): void {
    this.#relayLag.observe(Math.max(0, waitedMs) / 1000);
  }

  refusedAddress({ purpose }: RefusedAddress): void {
    this.#refusedAddresses.inc({ purpose });
  }

  outgoing(outcome: RequestOutcome): void {
    this.#outgoing.observe(
      { endpoint: outcome.endpoint, outcome: outcome.outcome },
      outcome.durationMs / 1000,
    );
  }
}
