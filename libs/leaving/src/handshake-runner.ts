import { randomUUID } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import {
  lacksEndpoint,
  type CallOptions,
  type FederationResult,
  type RemoteError,
} from '@exeunt/federation-client';
import { Alarm, systemClock, type Clock } from '@exeunt/message-bus';
import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import type { JsonObject, SigningKey } from '@exeunt/signing';
import { inSpan, noTracing, parseTraceparent } from '@exeunt/tracing';
import { abandonSigned, finishRound, nextStep, noteOutcome, type HandshakeOutcome } from './decide.js';
import type { LeavingKey } from './domain-events.js';
import type { Leave, SignedLeave } from './leaving.js';
import type { LeavingStore } from './leaving-store.js';
import type { RetryBounds } from './retry-schedule.js';
import { buildLeave, readTemplate, type TemplatePlace } from './template-checks.js';

/** What the runner needs of the federation client. */
export interface LeaveClient {
  makeLeave(server: ServerName, roomId: RoomId, userId: UserId, call: CallOptions): Promise<FederationResult>;
  sendLeaveV2(
    server: ServerName,
    roomId: RoomId,
    eventId: EventId,
    leave: JsonObject,
    call: CallOptions,
  ): Promise<FederationResult>;
  sendLeaveV1(
    server: ServerName,
    roomId: RoomId,
    eventId: EventId,
    leave: JsonObject,
    call: CallOptions,
  ): Promise<FederationResult>;
}

export interface HandshakeRunnerOptions {
  readonly store: Pick<
    LeavingStore,
    'load' | 'execute' | 'claim' | 'release' | 'forgetClaims' | 'nextDue' | 'onAppend'
  >;
  readonly client: LeaveClient;
  readonly ourName: ServerName;
  readonly signingKey: SigningKey;
  readonly bounds: RetryBounds;
  /** When a request for a template gives up; the client's own limit unless told. */
  readonly templateTimeoutMs?: number;
  /** How long one candidate is waited for before the next is asked as well. Default 2,000. */
  readonly hedgeAfterMs?: number;
  /** Handshakes at the same time. Default 20. */
  readonly concurrency?: number;
  /** True where no other process works on this database: what the last one left is taken up at once. */
  readonly isAlone?: boolean;
  /** How often it looks for what another process has begun. Default 1,000. */
  readonly pollMs?: number;
  readonly clock?: Clock;
  /** At least 0, less than 1; jitters the backoff. */
  readonly random?: () => number;
  /** A fresh opaque part for the event IDs of versions 1 and 2. */
  readonly randomId: () => string;
  readonly onProblem?: (what: string, cause: unknown) => void;
}

/** Longer than a round of ten candidates that all hang. */
const claimMs = 10 * 60_000;
/** The pause after the database failed. */
const troubleMs = 1_000;
/** A due stream that another process is just taking must not make us spin. */
const shortestWaitMs = 20;

/**
 * Carries leaves to their rooms, however long it takes: claims what is due, does what `nextStep` says, and makes each
 * outcome durable before the next step. One worker a stream; the leave is durable before it is sent. Whoever takes
 * over after a crash goes on from the facts; what was under way and not recorded is done again, which harms nothing:
 * templates change nothing, and the same leave is the same leave. (LV-11 to LV-17)
 */
export class HandshakeRunner {
  readonly #options: HandshakeRunnerOptions;
  readonly #clock: Clock;
  readonly #news = new Alarm();
  /** What this process claimed and, for want of the database, could not give back. */
  readonly #lost: { readonly key: LeavingKey; readonly claim: string }[] = [];
  readonly #active = new Set<Promise<void>>();
  readonly #followers = new Map<string, Set<() => void>>();
  #running: Promise<void> | undefined;
  #stopping = new AbortController();

  constructor(options: HandshakeRunnerOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Starts to work; does nothing while it does. */
  start(): void {
    if (this.#running !== undefined) return;
    this.#stopping = new AbortController();
    const unsubscribe = this.#options.store.onAppend(() => this.#news.ring());
    this.#running = this.#run().finally(unsubscribe);
  }

  /** Ends the requests under way, without taking that for an answer, and gives back what it had claimed. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#news.ring();
    await this.#running;
    await Promise.all(this.#active);
    for (const followers of this.#followers.values()) for (const follower of followers) follower();
    this.#running = undefined;
  }

  /**
   * Follows a leave from before it begins: `ended` resolves when the round that is next has ended, whatever came of
   * it, or after `ms`.
   */
  follow(leaveId: string, ms: number): { readonly ended: Promise<void>; readonly giveUp: () => void } {
    let giveUp = (): void => {};
    const ended = new Promise<void>((resolve) => {
      const followers = this.#followers.get(leaveId) ?? new Set();
      this.#followers.set(leaveId, followers);
      const callOff = this.#clock.after(ms, () => giveUp());
      giveUp = () => {
        callOff();
        followers.delete(giveUp);
        if (followers.size === 0) this.#followers.delete(leaveId);
        resolve();
      };
      followers.add(giveUp);
    });
    return { ended, giveUp: () => giveUp() };
  }

  get #isStopping(): boolean {
    return this.#stopping.signal.aborted;
  }

  async #run(): Promise<void> {
    const { store, pollMs = 1_000, concurrency = 20 } = this.#options;
    let claimsForgotten = this.#options.isAlone !== true;
    while (!this.#isStopping) {
      try {
        if (!claimsForgotten) await store.forgetClaims();
        claimsForgotten = true;
        for (let lost = this.#lost[0]; lost !== undefined; lost = this.#lost[0]) {
          await store.release(lost.key, lost.claim);
          this.#lost.shift();
        }
        await setImmediate();
        const free = concurrency - this.#active.size;
        if (free > 0) await this.#begin(free);
        let waitMs = pollMs;
        if (this.#active.size < concurrency) {
          const due = await store.nextDue();
          const untilDue = due === undefined ? pollMs : due - this.#clock.now();
          waitMs = Math.min(pollMs, untilDue > 0 ? untilDue : shortestWaitMs);
        }
        if (!this.#isStopping) await this.#news.wait(this.#clock, waitMs);
      } catch (cause) {
        this.#options.onProblem?.('look for leaves that are due', cause);
        await this.#pause(troubleMs);
      }
    }
  }

  /** Ends early when the runner does. */
  async #pause(ms: number): Promise<void> {
    const { signal } = this.#stopping;
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const callOff = this.#clock.after(ms, resolve);
      signal.addEventListener('abort', () => (callOff(), resolve()), { once: true });
    });
  }

  async #begin(limit: number): Promise<void> {
    const { store } = this.#options;
    const now = this.#clock.now();
    const claim = randomUUID();
    for (const key of await store.claim({ now, limit, claim, claimUntil: now + claimMs })) {
      const work: Promise<void> = this.#work(key)
        .catch((cause: unknown) => {
          this.#options.onProblem?.(`the leave of ${key.userId} from ${key.roomId}`, cause);
          // A database that fails, or a bug: not again at once.
          return this.#pause(troubleMs);
        })
        .then(() => store.release(key, claim))
        .catch((cause: unknown) => {
          this.#lost.push({ key, claim });
          this.#options.onProblem?.('give a leave back', cause);
        })
        .finally(() => {
          this.#active.delete(work);
          this.#news.ring();
        });
      this.#active.add(work);
    }
  }

  /** Step by step, each decided on what is durable, to the end of the round. */
  async #work(key: LeavingKey): Promise<void> {
    const { store, bounds, random = Math.random } = this.#options;
    let leaveId: string | undefined;
    try {
      while (!this.#isStopping) {
        const { leave } = (await store.load(key)).state;
        leaveId = leave?.leaveId;
        const next = nextStep(leave, this.#clock.now());
        if (leave === undefined || next.step === 'nothing') return;
        switch (next.step) {
          case 'ask':
            await inTraceOf(leave, () => this.#ask(key, leave, next.servers));
            break;
          case 'send':
            await inTraceOf(leave, () => this.#send(key, leave, leave.signed!, next.servers[0]!));
            break;
          case 'abandon-signed':
            await store.execute(key, (state) => abandonSigned(state, leave.leaveId, this.#clock.now()));
            break;
          case 'finish-round': {
            const facts = { now: this.#clock.now(), random: random(), bounds };
            await store.execute(key, (state) => finishRound(state, leave.leaveId, facts));
            return;
          }
          default:
            next satisfies never;
        }
      }
    } finally {
      if (leaveId !== undefined) for (const follower of this.#followers.get(leaveId) ?? []) follower();
    }
  }

  /**
   * Asks for a template: the first candidate, the next as soon as one fails or is slow, and so on. The first template
   * that may be signed is signed, and the other requests are called off. (LV-03, LV-04)
   */
  async #ask(key: LeavingKey, leave: Leave, servers: readonly ServerName[]): Promise<void> {
    const { client, hedgeAfterMs = 2_000, templateTimeoutMs } = this.#options;
    const callOff = new AbortController();
    const signal = AbortSignal.any([callOff.signal, this.#stopping.signal]);
    const answers: { readonly server: ServerName; readonly result: FederationResult }[] = [];
    const something = new Alarm();
    const waiting = [...servers];
    let underWay = 0;
    const askNext = (): void => {
      const server = waiting.shift();
      if (server === undefined) return;
      underWay++;
      const call = { signal, ...(templateTimeoutMs === undefined ? {} : { timeoutMs: templateTimeoutMs }) };
      void this.#guarded(() => client.makeLeave(server, key.roomId, key.userId, call)).then((result) => {
        underWay--;
        answers.push({ server, result });
        something.ring();
      });
    };
    try {
      askNext();
      while (underWay > 0 || answers.length > 0) {
        const answer = answers.shift();
        if (answer === undefined) {
          await something.wait(this.#clock, hedgeAfterMs);
          // Nobody has answered in time: one more is asked, and whoever is first wins.
          if (answers.length === 0) askNext();
          continue;
        }
        if (this.#isStopping) return;
        const { server, result } = answer;
        const outcome = this.#judgeTemplate(key, leave, server, result);
        await this.#note(key, leave, outcome);
        if (outcome.kind === 'signed') return;
        askNext();
      }
    } finally {
      callOff.abort();
    }
  }

  #judgeTemplate(
    key: LeavingKey,
    leave: Leave,
    server: ServerName,
    result: FederationResult,
  ): HandshakeOutcome {
    if (!result.ok) return outcomeOf(result, server, 'make_leave');
    const template = readTemplate(result.body, { ...key, roomVersions: leave.roomVersions });
    if ('rule' in template) return { kind: 'template-refused', server, fault: template };
    const pdu = this.#build(key, leave, template);
    return 'rule' in pdu ? { kind: 'template-refused', server, fault: pdu } : { kind: 'signed', server, pdu };
  }

  #build(key: LeavingKey, leave: Leave, place: TemplatePlace): ReturnType<typeof buildLeave> {
    const { ourName, signingKey, randomId } = this.#options;
    return buildLeave(place, {
      ...key,
      reason: leave.reason,
      ourName,
      signingKey,
      now: this.#clock.now(),
      opaqueId: randomId(),
    });
  }

  /** Sends the signed leave to one server: v2, or v1 where it has no v2. (LV-11 to LV-13) */
  async #send(key: LeavingKey, leave: Leave, signed: SignedLeave, server: ServerName): Promise<void> {
    const { client } = this.#options;
    const { eventId, pdu } = signed;
    const call = { signal: this.#stopping.signal };
    let result = await this.#guarded(() => client.sendLeaveV2(server, key.roomId, eventId, pdu, call));
    if (!result.ok && lacksEndpoint(result) && !this.#isStopping) {
      result = await this.#guarded(() => client.sendLeaveV1(server, key.roomId, eventId, pdu, call));
    }
    if (result.ok) return this.#note(key, leave, { kind: 'accepted', server, eventId });
    // Called off by our own end: whether it was taken is asked again after the start.
    if (this.#isStopping) return;
    // With neither endpoint it can't have been taken.
    await this.#note(
      key,
      leave,
      lacksEndpoint(result)
        ? { kind: 'refused', server, step: 'send_leave', detail: textOf(result) }
        : outcomeOf(result, server, 'send_leave'),
    );
  }

  async #note(key: LeavingKey, leave: Leave, outcome: HandshakeOutcome): Promise<void> {
    const now = this.#clock.now();
    await this.#options.store.execute(key, (state) => noteOutcome(state, leave.leaveId, outcome, now));
  }

  /** A bug of ours must not take the leave out of the queue. */
  async #guarded(request: () => Promise<FederationResult>): Promise<FederationResult> {
    try {
      return await request();
    } catch (cause) {
      if (!this.#isStopping) this.#options.onProblem?.('make a request of a handshake', cause);
      return { ok: false, kind: 'unreachable', error: `could not ask: ${String(cause)}`, retry: 'later' };
    }
  }
}

/** The requests of a handshake belong to the one that wished it, also after a restart. */
function inTraceOf<T>({ traceparent }: Leave, work: () => T): T {
  const parent = parseTraceparent(traceparent);
  return parent === undefined ? work() : inSpan(noTracing.begin('leave', { parent }), work);
}

function outcomeOf(
  error: RemoteError,
  server: ServerName,
  step: 'make_leave' | 'send_leave',
): HandshakeOutcome {
  return { kind: error.retry === 'no' ? 'refused' : 'failed', server, step, detail: textOf(error) };
}

function textOf({ kind, status, errcode, error }: RemoteError): string {
  const what = kind === 'http' ? [status, errcode].filter((part) => part !== undefined).join(' ') : kind;
  return `${what}: ${error}`.toWellFormed();
}
