import { randomUUID } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import type { Database } from '@exeunt/database';
import type { FederationResult, RemoteError } from '@exeunt/federation-client';
import { Alarm, systemClock, type Clock } from '@exeunt/message-bus';
import type { ServerName } from '@exeunt/pdu';
import type { CanonicalJson } from '@exeunt/signing';
import {
  inSpan,
  noTracing,
  parseTraceparent,
  SpanStatusCode,
  type Span,
  type Tracing,
} from '@exeunt/tracing';
import {
  DestinationQueue,
  type Delivery,
  type FailedAttempt,
  type FrozenTransaction,
} from './destination-queue.js';
import {
  DestinationReports,
  type DestinationDetails,
  type DestinationFilter,
  type DestinationStatus,
  type PduError,
} from './destination-reports.js';
import {
  DEFAULT_BACKOFF,
  failureOf,
  nextState,
  refusalReason,
  type BackoffBounds,
  type Failure,
} from './destination-state.js';
import { JoinedWrites } from './joined-writes.js';
import {
  DOUBTFUL,
  fullAllowance,
  grown,
  LANES,
  mayBegin,
  rewarded,
  untilWorthALook,
  used,
  type Allowance,
  type DoubtfulLane,
  type Lane,
  type Limits,
} from './lanes.js';
import { pduErrorsOf, toRecordedText, transactionBody } from './transaction.js';

/** What the sender needs of the federation client. */
export interface TransactionSender {
  sendTransaction(
    server: ServerName,
    txnId: string,
    body: CanonicalJson,
    call: { readonly signal: AbortSignal; readonly timeoutMs: number },
  ): Promise<FederationResult>;
}

/** One attempt that has ended, for logs and metrics. */
export interface AttemptOutcome {
  readonly destination: ServerName;
  readonly txnId: string;
  readonly pdus: number;
  readonly durationMs: number;
  /** From the oldest PDU's being accepted until now. */
  readonly oldestWaitedMs: number;
  /** Of a delivery: how each PDU fared, in order. */
  readonly waits: readonly PduWait[];
  readonly outcome: 'delivered' | Failure['kind'];
  /** Of a failure. */
  readonly error?: string;
  /** Of a delivery: what it could not take, for good. */
  readonly pduErrors: readonly PduError[];
  /** By event ID, the trace ID of the request that each PDU came by, of those that were traced. */
  readonly traceIds: ReadonlyMap<string, string>;
}

/** How long a PDU waited for one destination. */
export interface PduWait {
  /** From its being accepted to the destination's 200. At least 0, whatever the clocks say. */
  readonly waitedMs: number;
  /** Whether the destination failed, or was parked, at any time meanwhile. */
  readonly wasHindered: boolean;
}

export interface FederationSenderOptions {
  /** With the `sendingMigrations`. */
  readonly database: Database;
  /** Us: the `origin` of every transaction. */
  readonly serverName: ServerName;
  readonly client: TransactionSender;
  /**
   * True where no other process sends from this database: what was under way when the last one died is then repeated
   * at once. Otherwise that waits until the claims of the dead process have run out, half a minute after the longest
   * attempt. Default false.
   */
  readonly isAlone?: boolean;
  readonly bounds?: Partial<BackoffBounds>;
  /**
   * Destinations served at the same time of those that answered the last time; of those that fail and of those that
   * nothing was ever delivered to half as many each, besides. Default 100.
   */
  readonly concurrency?: number;
  /** When an attempt is given up. Default 60,000: later than the client's own limit. */
  readonly attemptTimeoutMs?: number;
  /** How often it looks for what another process has queued or woken. Default 1,000. */
  readonly pollMs?: number;
  /** A destination is woken at most so often. Default 5,000. */
  readonly wakeEveryMs?: number;
  /** How often old rows are deleted. Default 60,000. */
  readonly sweepEveryMs?: number;
  readonly clock?: Clock;
  /** At least 0, less than 1; jitters the backoff. */
  readonly random?: () => number;
  /** Never the same twice, not even after the database was lost: a peer takes it for a repeat. Default: a UUID. */
  readonly newTxnId?: () => string;
  /** Called within the trace of the oldest PDU. */
  readonly onOutcome?: (outcome: AttemptOutcome) => void;
  /** Where the span of each attempt goes; nowhere by default. */
  readonly tracing?: Tracing;
  /** Told of everything else that went wrong and is tried again. */
  readonly onProblem?: (what: string, cause: unknown) => void;
}

const CLAIM_MARGIN_MS = 30_000;
/** Outcomes recorded in one statement. */
const MOST_RECORDED = 100;
/** The pause after the database failed. */
const TROUBLE_MS = 1_000;
/** A due destination that another process is just taking must not make us spin. */
const SHORTEST_WAIT_MS = 20;
/** Woken destinations remembered at once. */
const MAX_WOKEN = 10_000;

/**
 * Sends what waits to whom it waits for: a bounded pool of workers, one transaction in flight a destination, frozen
 * until its 200. Nothing about a destination is kept in memory while it waits. (TX-01 to TX-07)
 *
 * Survives a kill at every step: the transaction is durable before it first goes out, and its rows go in the same
 * statement that records its 200. A 200 that was not recorded is got again by the repeat, which the peer recognises.
 */
export class FederationSender {
  readonly queue: DestinationQueue;
  readonly reports: DestinationReports;
  readonly #options: FederationSenderOptions;
  readonly #bounds: BackoffBounds;
  readonly #clock: Clock;
  readonly #news = new Alarm();
  readonly #end = new Alarm();
  readonly #active = new Set<Promise<void>>();
  readonly #activeIn: Record<Lane, number> = { proven: 0, untried: 0, failing: 0 };
  readonly #allowed: Record<DoubtfulLane, Allowance>;
  /** Whether the last look has, as far as it knows, left proven destinations that are due. */
  #isCrowded = false;
  readonly #deliveries: JoinedWrites<Delivery>;
  readonly #failures: JoinedWrites<FailedAttempt & { readonly recorded: () => void }>;
  /** What this process claimed and, for want of the database, could neither use nor give back. */
  readonly #lost: { readonly claim: string; readonly destination: string | undefined }[] = [];
  readonly #wakes = new Set<string>();
  readonly #wokenAt = new Map<string, number>();
  #running: Promise<void> | undefined;
  #stopping = false;
  #endPauses: () => void = () => {};
  #stopped: Promise<void> = Promise.resolve();
  #callOffSweep: () => void = () => {};
  #sweeping: Promise<void> = Promise.resolve();

  constructor(options: FederationSenderOptions) {
    this.#options = options;
    this.#bounds = { ...DEFAULT_BACKOFF, ...options.bounds };
    this.#clock = options.clock ?? systemClock;
    this.queue = new DestinationQueue(options.database);
    this.reports = new DestinationReports(options.database);
    const now = this.#clock.now();
    this.#allowed = { untried: fullAllowance(now), failing: fullAllowance(now) };
    this.#deliveries = new JoinedWrites(
      (deliveries) => this.queue.delivered(deliveries, this.#clock.now()),
      MOST_RECORDED,
    );
    this.#failures = new JoinedWrites(async (attempts) => {
      const recorded = await this.queue.failed(attempts);
      for (const attempt of attempts) {
        if (recorded.has(attempt.transaction.destination)) attempt.recorded();
      }
    }, MOST_RECORDED);
  }

  /** Starts to send; does nothing while it does. */
  start(): void {
    if (this.#running !== undefined) return;
    this.#stopping = false;
    this.#stopped = new Promise((resolve) => (this.#endPauses = resolve));
    this.#running = this.#run();
    this.#sweepLater();
  }

  /** Begins nothing new and waits for the attempts under way and their records. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#endPauses();
    this.#callOffSweep();
    this.#news.ring();
    this.#end.ring();
    await Promise.all([this.#running, this.#sweeping]);
    await Promise.all(this.#active);
    this.#running = undefined;
  }

  /** Looks for due destinations now: something was queued. */
  nudge(): void {
    this.#news.ring();
  }

  /**
   * The destination made an authenticated request to us: its backoff ends. Costs nothing where that was said of it
   * within the last seconds, so it can be called for every request. (TX-05)
   */
  wake(destination: string): void {
    const now = this.#clock.now();
    const last = this.#wokenAt.get(destination);
    if (last !== undefined && now - last < (this.#options.wakeEveryMs ?? 5_000)) return;
    if (this.#wokenAt.size >= MAX_WOKEN) this.#wokenAt.clear();
    if (this.#wakes.size >= MAX_WOKEN) return;
    this.#wokenAt.set(destination, now);
    this.#wakes.add(destination);
    this.#news.ring();
  }

  /** An operator wants the destination tried now. `false` where there has never been anything for it. */
  async retry(destination: string): Promise<boolean> {
    await this.queue.contact([destination], this.#clock.now());
    this.#news.ring();
    return (await this.reports.status(destination)) !== undefined;
  }

  /**
   * An operator wants nothing sent to the destination until they say otherwise, or it makes contact. What is under way
   * goes on, here or in another process. `false` where there has never been anything for it.
   */
  async park(destination: string): Promise<boolean> {
    await this.queue.park(destination, this.#clock.now());
    return (await this.reports.status(destination)) !== undefined;
  }

  /** An operator ends its parking. One that is not parked stays as it is, in its backoff too. `false` as with `park`. */
  async unpark(destination: string): Promise<boolean> {
    await this.queue.unpark(destination, this.#clock.now());
    this.#news.ring();
    return (await this.reports.status(destination)) !== undefined;
  }

  /** Undefined for a server we have never had anything for. */
  async status(destination: string): Promise<DestinationStatus | undefined> {
    return await this.reports.status(destination);
  }

  /** Undefined for a server we have never had anything for. */
  async details(destination: string): Promise<DestinationDetails | undefined> {
    return await this.reports.details(destination);
  }

  /** In order of server name by code point, after `after`; at most `limit`. */
  async list(
    options: { readonly after?: string; readonly limit: number } & DestinationFilter,
  ): Promise<DestinationStatus[]> {
    return await this.reports.list(options);
  }

  async #run(): Promise<void> {
    const pollMs = this.#options.pollMs ?? 1_000;
    let claimsForgotten = this.#options.isAlone !== true;
    while (!this.#stopping) {
      try {
        if (!claimsForgotten) await this.queue.forgetClaims(this.#clock.now());
        claimsForgotten = true;
        await this.#giveBackLost();
        await this.#passOnWakes();
        // PGlite answers without the event loop turning: under load requests to us would wait for all of ours.
        await setImmediate();
        const waitMs = await this.#untilDue(await this.#begin(), pollMs);
        if (!this.#stopping) await this.#news.wait(this.#clock, waitMs);
      } catch (cause) {
        this.#options.onProblem?.('look for due destinations', cause);
        if (!this.#stopping) await this.#end.wait(this.#clock, TROUBLE_MS);
      }
    }
  }

  async #giveBackLost(): Promise<void> {
    for (let lost = this.#lost[0]; lost !== undefined; lost = this.#lost[0]) {
      await this.queue.release(lost.claim, lost.destination, this.#clock.now());
      this.#lost.shift();
    }
  }

  async #passOnWakes(): Promise<void> {
    if (this.#wakes.size === 0) return;
    const destinations = [...this.#wakes];
    this.#wakes.clear();
    try {
      await this.queue.contact(destinations, this.#clock.now());
    } catch (cause) {
      for (const destination of destinations) this.#wakes.add(destination);
      throw cause;
    }
  }

  /** Puts free workers to due destinations; gives what more may be begun and of which lanes there is more. */
  async #begin(): Promise<{ readonly left: Limits; readonly isMoreDue: (lane: Lane) => boolean }> {
    const limits = this.#mayBegin();
    if (LANES.every((lane) => limits[lane] === 0) || this.#stopping)
      return { left: limits, isMoreDue: () => true };
    const now = this.#clock.now();
    const claim = randomUUID();
    const { transactions, looked } = await this.queue
      .claim({
        limits,
        now,
        claimUntil: now + this.#attemptTimeoutMs + CLAIM_MARGIN_MS,
        claim,
        newTxnId: this.#options.newTxnId ?? randomUUID,
        onProblem: (what, cause) => this.#options.onProblem?.(what, cause),
      })
      .catch((cause: unknown) => {
        this.#lost.push({ claim, destination: undefined });
        throw cause;
      });
    this.#allowed.untried = used(this.#allowed.untried, looked.untried);
    this.#allowed.failing = used(this.#allowed.failing, looked.failing);
    for (const transaction of transactions) {
      const { destination, lane } = transaction;
      const work: Promise<void> = this.#attempt(transaction)
        .catch((cause: unknown) => {
          this.#lost.push({ claim, destination });
          this.#options.onProblem?.(`record the outcome for ${destination}`, cause);
        })
        .finally(() => {
          this.#active.delete(work);
          this.#activeIn[lane] -= 1;
          this.#news.ring();
        });
      this.#active.add(work);
      this.#activeIn[lane] += 1;
    }
    const isMoreDue = (lane: Lane) => looked[lane] >= limits[lane];
    this.#isCrowded = isMoreDue('proven');
    const left = this.#mayBegin();
    // Some of those that were looked at had nothing waiting: there may be more that are due.
    if (LANES.some((lane) => looked[lane] > 0 && isMoreDue(lane) && left[lane] > 0)) {
      this.#news.ring();
    }
    return { left, isMoreDue };
  }

  #mayBegin(): Limits {
    const now = this.#clock.now();
    this.#allowed.untried = grown(this.#allowed.untried, now, this.#isCrowded);
    this.#allowed.failing = grown(this.#allowed.failing, now, this.#isCrowded);
    const { concurrency = 100 } = this.#options;
    return mayBegin({ concurrency, active: this.#activeIn, allowed: this.#allowed });
  }

  /** `left`: what more may be begun now. `isMoreDue`: the lanes of which the last look has left some. */
  async #untilDue(
    { left, isMoreDue }: { readonly left: Limits; readonly isMoreDue: (lane: Lane) => boolean },
    pollMs: number,
  ): Promise<number> {
    const now = this.#clock.now();
    const waits = DOUBTFUL.filter((lane) => isMoreDue(lane) && left[lane] === 0)
      .map((lane) => untilWorthALook(this.#allowed[lane], this.#isCrowded))
      .filter((growsMs) => growsMs > 0);
    // While attempts are under way it looks at each that ends; asking each time as well when is next would cost more.
    if (this.#active.size === 0) {
      const due = await this.queue.nextDue();
      for (const lane of LANES) {
        const dueMs = (due[lane] ?? Infinity) - now;
        if (left[lane] > 0) waits.push(dueMs > 0 ? dueMs : SHORTEST_WAIT_MS);
      }
    }
    return Math.min(pollMs, ...waits);
  }

  /** An attempt is part of the trace of its oldest PDU, for mostly it is the only one, and linked to the others'. */
  #attempt(transaction: FrozenTransaction): Promise<void> {
    const { destination, txnId, pdus } = transaction;
    const traces = pdus.flatMap(({ eventId, traceparent }) => {
      const context = parseTraceparent(traceparent);
      return context === undefined ? [] : [{ eventId, context }];
    });
    const [parent, ...links] = traces.map(({ context }) => context);
    const span = (this.#options.tracing ?? noTracing).begin('send transaction', {
      parent,
      links,
      attributes: {
        'matrix.destination': destination,
        'matrix.txn_id': txnId,
        'matrix.event_ids': pdus.map(({ eventId }) => eventId),
      },
    });
    const traceIds = new Map(traces.map(({ eventId, context }) => [eventId, context.traceId]));
    return inSpan(span, () => this.#attemptIn(span, transaction, traceIds)).finally(() => span.end());
  }

  async #attemptIn(
    span: Span,
    transaction: FrozenTransaction,
    traceIds: ReadonlyMap<string, string>,
  ): Promise<void> {
    const startedAt = this.#clock.now();
    const answer = await this.#send(transaction);
    const now = this.#clock.now();
    const about = {
      destination: transaction.destination,
      txnId: transaction.txnId,
      pdus: transaction.pdus.length,
      durationMs: now - startedAt,
      oldestWaitedMs: Math.max(0, now - (transaction.pdus[0]?.acceptedAt ?? now)),
      traceIds,
    };
    if (answer.ok && answer.status === 200) {
      const pduErrors = pduErrorsOf(transaction.pdus, answer.body);
      await this.#record(() => this.#deliveries.add({ transaction, errors: pduErrors }));
      if (transaction.lane !== 'proven')
        this.#allowed[transaction.lane] = rewarded(this.#allowed[transaction.lane]);
      this.#options.onOutcome?.({
        ...about,
        outcome: 'delivered',
        pduErrors,
        waits: waitsOf(transaction, now),
      });
      return;
    }
    const remoteError: RemoteError = answer.ok
      ? { ok: false, kind: 'http', status: answer.status, error: 'a status other than 200', retry: 'later' }
      : answer;
    const failure = failureOf(remoteError);
    span.setStatus({ code: SpanStatusCode.ERROR });
    span.setAttribute('error.type', failure.kind);
    const error = errorText(remoteError);
    await this.#record(() => this.#recordFailure(transaction, failure, error));
    this.#options.onOutcome?.({ ...about, outcome: failure.kind, error, pduErrors: [], waits: [] });
  }

  async #send(transaction: FrozenTransaction): Promise<FederationResult> {
    const { client, serverName } = this.#options;
    const timeoutMs = this.#attemptTimeoutMs;
    const abort = new AbortController();
    let callOff = () => {};
    const givenUp = new Promise<RemoteError>((resolve) => {
      callOff = this.#clock.after(timeoutMs, () => {
        abort.abort();
        resolve({ ok: false, kind: 'timeout', error: `no answer within ${timeoutMs} ms`, retry: 'later' });
      });
    });
    const send = async (): Promise<FederationResult> => {
      const body = transactionBody(serverName, transaction);
      const call = { signal: abort.signal, timeoutMs };
      return await client.sendTransaction(transaction.destination, transaction.txnId, body, call);
    };
    try {
      return await Promise.race([send(), givenUp]);
    } catch (cause) {
      // A bug of ours; it must not take the destination out of the queue.
      this.#options.onProblem?.(`send to ${transaction.destination}`, cause);
      return { ok: false, kind: 'unreachable', error: `could not send: ${String(cause)}`, retry: 'later' };
    } finally {
      callOff();
    }
  }

  async #recordFailure(transaction: FrozenTransaction, failure: Failure, error: string): Promise<void> {
    const facts = {
      now: this.#clock.now(),
      random: (this.#options.random ?? Math.random)(),
      bounds: this.#bounds,
    };
    // If how it stood has changed, it has made contact since, or was parked by hand; or else the claim is lost.
    for (const parkedAt of [undefined, facts.now]) {
      for (const before of new Set([transaction.before, undefined])) {
        const state = nextState(
          { kind: 'sending', before, ...(parkedAt === undefined ? {} : { parkedAt }) },
          { kind: 'failed', failure },
          facts,
        );
        if (state.kind !== 'backing-off' && state.kind !== 'parked')
          throw new Error(`${state.kind} after a failure`);
        let isRecorded = false;
        await this.#failures.add({ transaction, before, state, error, recorded: () => (isRecorded = true) });
        if (isRecorded) return;
      }
    }
  }

  /** A few times, for the database may be away for a moment; then the claim is given back and the repeat finds out. */
  async #record(step: () => Promise<unknown>): Promise<void> {
    const tries = 5;
    for (let attempt = 1; ; attempt += 1) {
      try {
        await step();
        return;
      } catch (cause) {
        if (attempt === tries || this.#stopping) throw cause;
        this.#options.onProblem?.('record an outcome', cause);
        let callOff = () => {};
        const pause = new Promise<void>((resolve) => {
          callOff = this.#clock.after(TROUBLE_MS * attempt, resolve);
        });
        await Promise.race([pause, this.#stopped]);
        callOff();
      }
    }
  }

  #sweepLater(): void {
    this.#callOffSweep = this.#clock.after(this.#options.sweepEveryMs ?? 60_000, () => {
      this.#sweeping = this.queue
        .sweep(this.#clock.now(), () => this.#stopping)
        .catch((cause: unknown) => this.#options.onProblem?.('delete old rows', cause))
        .then(() => {
          if (!this.#stopping) this.#sweepLater();
        });
    });
  }

  get #attemptTimeoutMs(): number {
    return this.#options.attemptTimeoutMs ?? 60_000;
  }
}

function waitsOf({ pdus, before, recoveredAt }: FrozenTransaction, now: number): PduWait[] {
  return pdus.map(({ acceptedAt }) => ({
    waitedMs: Math.max(0, now - acceptedAt),
    wasHindered: before !== undefined || (recoveredAt !== undefined && acceptedAt <= recoveredAt),
  }));
}

function errorText({ kind, status, errcode, error }: RemoteError): string {
  const what = kind === 'http' ? [status, errcode].filter((part) => part !== undefined).join(' ') : kind;
  const reason = status === undefined ? undefined : refusalReason(status);
  return `${toRecordedText(`${what}: ${error}`)}${reason === undefined ? '' : ` (${reason})`}`;
}
