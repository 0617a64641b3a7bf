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
  readonly #knocks = new Counter({
    name: 'exeunt_knocks_total',
    help: 'send_knock requests by outcome; rule names the requirement a no rests on',
    labelNames: ['outcome', 'rule'] as const,
    registers: [this.registry],
  });
  readonly #knockTemplates = new Counter({
    name: 'exeunt_knock_templates_total',
    help: 'make_knock requests by outcome; rule names the requirement a no rests on',
    labelNames: ['outcome', 'rule'] as const,
    registers: [this.registry],
  });
  readonly #leaveAllRooms = new Counter({
    name: 'exeunt_leave_all_rooms_total',
    help: 'Rooms that users who leave everything were taken out of, by outcome; failed ones are tried again',
    labelNames: ['outcome'] as const,
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

  readonly #stateResets = new Counter({
    name: 'exeunt_state_resets_total',
    help: 'Memberships that state resolution gave back to users who had left or were banned',
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

  leaveAllRoom(outcome: 'left' | 'refused' | 'failed'): void {
    this.#leaveAllRooms.inc({ outcome });
  }

  knock(refusedBy: string | undefined): void {
    this.#knocks.inc({ outcome: refusedBy === undefined ? 'accepted' : 'refused', rule: refusedBy ?? '' });
  }

  knockTemplate(refusedBy: string | undefined): void {
    this.#knockTemplates.inc({
      outcome: refusedBy === undefined ? 'given' : 'refused',
      rule: refusedBy ?? '',
    });
  }

  stateReset(): void {
    this.#stateResets.inc();
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
