import { setImmediate } from 'node:timers/promises';
import type { Database } from '@exeunt/database';
import type { FederationResult, RemoteError } from '@exeunt/federation-client';
import { ManualClock } from '@exeunt/message-bus';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import {
  FederationSender,
  type AttemptOutcome,
  type FederationSenderOptions,
  type OutboundPdu,
  type TransactionSender,
} from '@exeunt/sending';
import { parseJson, type CanonicalJson, type JsonObject } from '@exeunt/signing';
import { until as untilTrue } from '../harness/settle.js';

export function server(name: string): ServerName {
  const parsed = parseServerName(name);
  if (parsed === undefined) throw new Error(`not a server name: ${name}`);
  return parsed;
}

export const us = server('us.test');

/** An outbound PDU whose event ID and body tell its number. */
export function pdu(number: number, destinations: readonly string[], room = '!a:us.test'): OutboundPdu {
  const eventId = `$${number}:us.test`;
  return {
    id: `${room}/${number}/0`,
    roomId: room,
    eventId,
    destinations: destinations.map(server),
    pdu: `{"event_id":"${eventId}","room_id":"${room}","depth":9007199254740993,"n":${number}}`,
  };
}

export const answers = {
  ok: { ok: true, status: 200, body: { pdus: {} } } satisfies FederationResult,
  http: (status: number, more: Partial<RemoteError> = {}): RemoteError => ({
    ok: false,
    kind: 'http',
    status,
    error: `HTTP status ${status}`,
    retry: 'later',
    ...more,
  }),
  down: {
    ok: false,
    kind: 'unreachable',
    error: 'connect ECONNREFUSED',
    retry: 'later',
  } satisfies RemoteError,
};

/** A transaction as a peer got it. */
export interface Got {
  readonly destination: ServerName;
  readonly txnId: string;
  /** The body's bytes. */
  readonly text: string;
  /** The numbers of its PDUs. */
  readonly numbers: readonly number[];
}

/** The other servers: each answers as told, 200 unless told otherwise. */
export class Peers implements TransactionSender {
  readonly got: Got[] = [];
  /** The highest number of transactions that one destination had in flight at a time. */
  mostInFlight = 0;
  readonly #inFlight = new Map<string, number>();
  readonly #scripts = new Map<string, (got: Got) => FederationResult | Promise<FederationResult>>();

  /** What the server answers from now on. */
  answer(
    name: string,
    script: FederationResult | ((got: Got) => FederationResult | Promise<FederationResult>),
  ): void {
    this.#scripts.set(name, typeof script === 'function' ? script : () => script);
  }

  async sendTransaction(
    destination: ServerName,
    txnId: string,
    text: CanonicalJson,
  ): Promise<FederationResult> {
    const { pdus } = parseJson(text) as { readonly pdus: readonly JsonObject[] };
    const got = { destination, txnId, text, numbers: pdus.map((one) => one.n as number) };
    this.got.push(got);
    const inFlight = (this.#inFlight.get(destination) ?? 0) + 1;
    this.#inFlight.set(destination, inFlight);
    this.mostInFlight = Math.max(this.mostInFlight, inFlight);
    try {
      return await (this.#scripts.get(destination)?.(got) ?? answers.ok);
    } finally {
      this.#inFlight.set(destination, inFlight - 1);
    }
  }

  to(name: string): readonly Got[] {
    return this.got.filter((got) => got.destination === name);
  }
}

/**
 * Waits for real work to be done, without moving the clock. `meanwhile` has the senders look
 * again and again: one that was just looking when the clock moved would look next when it moves again.
 */
export async function until(
  condition: () => boolean | Promise<boolean>,
  meanwhile: () => void = () => {},
): Promise<void> {
  await untilTrue('the condition comes true', condition, undefined, () => {
    meanwhile();
    return setImmediate();
  });
}

/** Gives whoever must not act ample opportunity to do so: the loop has gone round often after it. */
export async function lapse(database: Pick<Database, 'query'>, meanwhile: () => void): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) {
    meanwhile();
    await setImmediate();
    await database.query('SELECT 1');
  }
}

/** A sender on a database, with a clock that stands still. */
export interface SenderUnderTest {
  readonly sender: FederationSender;
  readonly clock: ManualClock;
  readonly outcomes: AttemptOutcome[];
  readonly problems: unknown[];
  /** Queues PDUs as the consumer does. */
  queue(...pdus: OutboundPdu[]): Promise<void>;
  /** Waits until nothing waits for the destination, and its outcomes were told. */
  drained(name: string): Promise<void>;
}

export function senderOn(
  database: Database,
  client: TransactionSender,
  options: Partial<FederationSenderOptions> = {},
  clock = new ManualClock(),
): SenderUnderTest {
  const outcomes: AttemptOutcome[] = [];
  const problems: unknown[] = [];
  /** Attempts of each destination that were begun and not told of yet. */
  const underWay = new Map<string, number>();
  const count = (destination: string, by: number) =>
    underWay.set(destination, (underWay.get(destination) ?? 0) + by);
  const sender = new FederationSender({
    database,
    client: {
      sendTransaction(server, ...rest) {
        count(server, 1);
        return client.sendTransaction(server, ...rest);
      },
    },
    clock,
    serverName: us,
    isAlone: true,
    random: () => 0,
    onOutcome: (outcome) => {
      count(outcome.destination, -1);
      outcomes.push(outcome);
    },
    onProblem: (_, cause) => problems.push(cause),
    ...options,
  });
  return {
    sender,
    clock,
    outcomes,
    problems,
    async queue(...pdus) {
      await sender.queue.enqueue(pdus, clock.now());
      sender.nudge();
    },
    drained: (name) =>
      until(
        async () => {
          const status = await sender.status(name);
          // An outcome is told when it is durable, a moment later.
          const isTold = (underWay.get(name) ?? 0) === 0;
          return status?.pending === 0 && status.in_flight === 0 && isTold;
        },
        () => sender.nudge(),
      ),
  };
}

/** Empties the sender's tables. */
export async function emptied(database: Database): Promise<Database> {
  await database.query(
    `TRUNCATE sender_messages, sender_pdus, sender_queue, sender_destinations, sender_pdu_errors`,
  );
  return database;
}

/** A database that is there for one process until that is killed. */
export function mortal(database: Database): { readonly database: Database; kill(): void } {
  let isDead = false;
  const unlessDead = async <T>(work: () => Promise<T>): Promise<T> => {
    if (isDead) throw new Error('the process has died');
    return await work();
  };
  return {
    kill: () => (isDead = true),
    database: {
      ...database,
      query: (statement, values) => unlessDead(() => database.query(statement, values)),
      transaction: (work, options) => unlessDead(() => database.transaction(work, options)),
    },
  };
}

/**
 * A database that is lost at its n-th step, a statement or a commit: just before it is carried out or, with `after`,
 * when it has been and the answer is still under way. Every later step fails too. `steps` counts.
 */
export function dyingDatabase(
  database: Database,
  at: number,
  when: 'before' | 'after',
): { readonly database: Database; steps: number } {
  const life = { database, steps: 0 };
  const step = async <T>(work: () => Promise<T>): Promise<T> => {
    life.steps += 1;
    if (life.steps > at || (life.steps === at && when === 'before')) throw new Error('the process has died');
    const result = await work();
    if (life.steps >= at) throw new Error('the process has died');
    return result;
  };
  life.database = {
    ...database,
    query: (statement, values) => step(() => database.query(statement, values)),
    async transaction(work, options) {
      let result: Awaited<ReturnType<typeof work>> | undefined;
      await database.transaction(async (session) => {
        result = await work({
          query: (statement, values) => step(() => session.query(statement, values)),
        });
        // The commit is a step of its own: lost before it, all of this is undone.
        life.steps += 1;
        if (life.steps === at && when === 'before') throw new Error('the process has died');
      }, options);
      if (life.steps >= at) throw new Error('the process has died');
      return result as Awaited<ReturnType<typeof work>>;
    },
  };
  return life;
}
