import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import type { RefusedAddress, RequestOutcome } from '@exeunt/federation-client';
import type { AttemptOutcome, DestinationReports } from '@exeunt/sending';
import type { AnsweredRequest } from '../listeners.js';
import { inProportion } from './in-proportion.js';

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
  readonly #history = new Counter({
    name: 'exeunt_history_answers_total',
    help: 'Questions of other servers about the past of rooms, by endpoint and outcome; rule as for leaves',
    labelNames: ['endpoint', 'outcome', 'rule'] as const,
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

  readonly #stateResets = new Counter({
    name: 'exeunt_state_resets_total',
    help: 'Memberships that state resolution gave back to users who had left or were banned',
    registers: [this.registry],
  });
  readonly #delivery = new Histogram({
    name: 'exeunt_delivery_seconds',
    help: 'From the acceptance of a PDU to the 200 of one of its destinations; class failing: the destination failed, or was parked, meanwhile. Clocks of several machines are taken to agree',
    labelNames: ['class'] as const,
    // From ten milliseconds to a week: what comes after half a minute has been waiting for a retry.
    buckets: [
      0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 21_600, 86_400, 259_200,
      604_800,
    ],
    registers: [this.registry],
  });
  readonly #transactions = new Counter({
    name: 'exeunt_transactions_total',
    help: 'Attempts to send a transaction by outcome: delivered, or why it will be repeated',
    labelNames: ['outcome'] as const,
    registers: [this.registry],
  });
  readonly #deliveredPdus = new Counter({
    name: 'exeunt_delivered_pdus_total',
    help: 'PDUs in delivered transactions, once a destination: taken, or refused for good by its error in the answer',
    labelNames: ['result'] as const,
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

  /**
   * Where a sender runs: what waits, read from the database when the metrics are, but for little of the time. While the
   * database does not answer these two are left out, and the others are still told.
   */
  readQueue(reports: Pick<DestinationReports, 'countPending' | 'countByState'>): void {
    const shared =
      'every sender on one database reports the same, so take the max and not the sum; with millions of PDUs some seconds old';
    this.#count(
      'exeunt_pending_pdus',
      `PDUs that some server has yet to acknowledge, once a server; ${shared}`,
      () => reports.countPending(),
    );
    const countByState = inProportion(
      () => reports.countByState(),
      () => performance.now(),
    );
    this.registry.registerMetric(
      new Gauge({
        name: 'exeunt_destinations',
        help: `Servers that anything was ever sent to, by state; ${shared}`,
        labelNames: ['state'] as const,
        registers: [],
        async collect() {
          this.reset();
          const counts = await countByState().catch(() => ({}));
          for (const [state, count] of Object.entries(counts)) this.set({ state }, count);
        },
      }),
    );
  }

  /** Where messages are ingested: as {@link readQueue}. */
  readIngestWaiting(count: () => Promise<number>): void {
    this.#count(
      'exeunt_ingest_waiting',
      'Messages of exeunt.ingest.v1 that wait for keys of servers; every gateway on one database reports the same',
      count,
    );
  }

  attempt({
    outcome,
    pdus,
    pduErrors,
    waits,
  }: Pick<AttemptOutcome, 'outcome' | 'pdus' | 'pduErrors' | 'waits'>): void {
    this.#transactions.inc({ outcome });
    for (const { waitedMs, wasHindered } of waits) {
      this.#delivery.observe({ class: wasHindered ? 'failing' : 'healthy' }, waitedMs / 1000);
    }
    if (outcome !== 'delivered') return;
    // A peer may name a PDU in its answer but once, so there are no more errors than PDUs.
    this.#deliveredPdus.inc({ result: 'taken' }, pdus - pduErrors.length);
    this.#deliveredPdus.inc({ result: 'refused' }, pduErrors.length);
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

  deadLetter(consumer: string): void {
    this.#deadLetters.inc({ consumer });
  }

  /** `type`: undefined for one that is not known. */
  ingested(type: string | undefined, outcome: 'taken' | 'in-part' | 'waiting' | 'dead-letter'): void {
    this.#ingested.inc({ type: type ?? 'unknown', outcome });
  }

  /** `refusedBy` is the rule a no rests on. */
  historyAnswer(endpoint: string, outcome: 'given' | 'refused' | 'busy', refusedBy = ''): void {
    this.#history.inc({ endpoint, outcome, rule: refusedBy });
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

  /** A number that the database has, left out while it can't be had. */
  #count(name: string, help: string, read: () => Promise<number>): void {
    const count = inProportion(read, () => performance.now());
    this.registry.registerMetric(
      new Gauge({
        name,
        help,
        registers: [],
        async collect() {
          this.remove();
          const counted = await count().catch(() => undefined);
          if (counted !== undefined) this.set(counted);
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
