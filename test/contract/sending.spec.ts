import type { Database } from '@exeunt/database';
import type { FederationResult } from '@exeunt/federation-client';
import {
  DEAD_LETTER_TOPIC,
  EmbeddedBus1700000000002,
  EmbeddedMessageBus,
  ManualClock,
  OUTBOUND_PDUS_TOPIC,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import {
  DestinationQueue,
  DestinationReports,
  nextState,
  OutboundPdusConsumer,
  sendingMigrations,
  type BackingOff,
  type DestinationState,
  type FrozenTransaction,
  type Happening,
  type Parked,
} from '@exeunt/sending';
import { currentTraceparent, noTracing, type SpanOptions, type Tracing } from '@exeunt/tracing';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { pgliteKind, postgresKind, type DatabaseKind } from './message-bus.database.js';
import {
  answers,
  dyingDatabase,
  emptied,
  lapse as lapseOf,
  mortal,
  pdu,
  Peers,
  senderOn,
  until as untilTrue,
  us,
  type SenderUnderTest,
} from './sending.harness.js';

const migrations = [EmbeddedBus1700000000002, ...sendingMigrations];
const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, n) => from + n);
const received = (offset: number, value: string, ceId = `m${offset}`): ReceivedMessage => ({
  topic: OUTBOUND_PDUS_TOPIC,
  key: '0',
  partition: 0,
  offset: `${offset}`,
  headers: { ce_id: ceId },
  value,
});
const valueOf = (n: number, destinations: string[]) =>
  JSON.stringify({
    room_id: '!a:us.test',
    event_id: `$${n}:us.test`,
    destinations,
    pdu: { n },
  });

function sendingContract(name: string, open: () => Promise<Database>): void {
  describe(`the federation sender on ${name}`, () => {
    let database: Database;
    let peers: Peers;
    const started: SenderUnderTest[] = [];

    const nudgeAll = () => started.forEach(({ sender }) => sender.nudge());
    const until = (condition: () => boolean | Promise<boolean>) => untilTrue(condition, nudgeAll);
    const lapse = () => lapseOf(database, nudgeAll);
    const given = (...[options, clock]: [Parameters<typeof senderOn>[2]?, ManualClock?]) => {
      const under = senderOn(database, peers, options, clock);
      started.push(under);
      under.sender.start();
      return under;
    };

    beforeAll(async () => {
      database = await open();
    });
    afterAll(() => database.close());
    beforeEach(async () => {
      await emptied(database);
      peers = new Peers();
    });
    afterEach(async () => {
      // What hangs is given up by its time-out.
      await Promise.all(
        started.splice(0).map(async ({ sender, clock }) => {
          const stopping = sender.stop();
          let stopped = false;
          void stopping.then(() => (stopped = true));
          await until(() => {
            clock.advance(10_000);
            return stopped;
          });
        }),
      );
    });

    describe('a peer that answers', () => {
      it('gets what is queued, with origin and time, and the queue is empty then', async () => {
        const { sender, queue, drained, clock } = given();
        await queue(pdu(1, ['x.test']));
        await drained('x.test');
        expect(peers.got).toHaveLength(1);
        expect(JSON.parse(peers.got[0]?.text ?? '')).toMatchObject({
          origin: us,
          origin_server_ts: clock.now(),
        });
        // Canonical JSON, whatever the form it was queued in.
        expect(peers.got[0]?.text).toContain(
          '"pdus":[{"depth":9007199254740993,"event_id":"$1:us.test","n":1,"room_id":"!a:us.test"}]',
        );
        expect(await sender.status('x.test')).toEqual({
          destination: 'x.test',
          state: 'idle',
          pending: 0,
          in_flight: 0,
          failures: 0,
          failing_since: null,
          retry_at: null,
          parked_by: null,
          parked_at: null,
          last_success_at: clock.now(),
          last_error: null,
        });
      });

      it('gets 120 PDUs as 50, 50 and 20, in order, one transaction at a time', async () => {
        const { queue, drained } = given();
        await queue(...numbers(1, 120).map((n) => pdu(n, ['x.test'], n % 2 ? '!a:us.test' : '!b:us.test')));
        await drained('x.test');
        expect(peers.got.map((got) => got.numbers)).toEqual([
          numbers(1, 50),
          numbers(51, 100),
          numbers(101, 120),
        ]);
        expect(new Set(peers.got.map((got) => got.txnId)).size).toBe(3);
        expect(peers.mostInFlight).toBe(1);
      });

      it('has what it could not take recorded, and is not sent it again', async () => {
        const { sender, queue, drained, outcomes } = given();
        peers.answer('x.test', {
          ok: true,
          status: 200,
          body: {
            pdus: {
              '$1:us.test': {},
              '$2:us.test': { error: `not \0 allowed ${'x'.repeat(1_000)}` },
              '$never-sent:us.test': { error: 'ignored' },
            },
          },
        });
        await queue(pdu(1, ['x.test']), pdu(2, ['x.test']));
        await drained('x.test');
        await queue(pdu(3, ['x.test']));
        await drained('x.test');
        expect(peers.got.map((got) => got.numbers)).toEqual([[1, 2], [3]]);
        const [error, ...others] = await sender.reports.pduErrors('x.test', 10);
        expect(others).toEqual([]);
        expect(error).toMatchObject({ roomId: '!a:us.test', eventId: '$2:us.test' });
        expect(error?.error).toMatch(/^not \ufffd allowed x{400,}$/);
        expect((await sender.status('x.test'))?.last_error).toContain('$2:us.test: not');
        expect((await sender.status('x.test'))?.failures).toBe(0);
        expect(outcomes[0]?.pduErrors).toHaveLength(1);
      });

      it.each([
        ['null', { pdus: null }],
        ['nothing', {}],
        ['results that are no objects', { pdus: { '$1:us.test': 'x' } }],
      ])('ends the transaction with a 200, even one with %s', async (_, body) => {
        const { queue, drained } = given();
        peers.answer('x.test', { ok: true, status: 200, body } as FederationResult);
        await queue(pdu(1, ['x.test']));
        await drained('x.test');
        expect(peers.got).toHaveLength(1);
      });
    });

    describe('a peer that is down', () => {
      it('gets its whole backlog in order when it is back, the frozen transaction unchanged', async () => {
        const { sender, queue, drained, clock, outcomes } = given();
        peers.answer('x.test', answers.down);
        await queue(pdu(1, ['x.test']), pdu(2, ['x.test']));
        await until(() => outcomes.length === 1);
        await queue(...numbers(3, 80).map((n) => pdu(n, ['x.test'])));
        expect(await sender.status('x.test')).toMatchObject({
          state: 'backing-off',
          pending: 80,
          in_flight: 0,
          failures: 1,
          retry_at: clock.now() + 5_000,
          last_error: 'unreachable: connect ECONNREFUSED',
          last_success_at: null,
        });
        clock.advance(4_999);
        await lapse();
        expect(peers.got).toHaveLength(1);
        clock.advance(1);
        await until(() => outcomes.length === 2);
        peers.answer('x.test', answers.ok);
        clock.advance(10_000);
        await drained('x.test');
        expect(peers.got.map((got) => got.numbers)).toEqual([
          [1, 2],
          [1, 2],
          [1, 2],
          numbers(3, 52),
          numbers(53, 80),
        ]);
        expect(new Set(peers.got.slice(0, 3).map((got) => `${got.txnId} ${got.text}`)).size).toBe(1);
        expect(new Set(peers.got.map((got) => got.txnId)).size).toBe(3);
        expect(await sender.status('x.test')).toMatchObject({ state: 'idle', failures: 0, retry_at: null });
      });

      it.each([
        [500, 5_000, {}],
        [400, 5_000, { errcode: 'M_BAD_JSON', retry: 'no' as const }],
        [429, 90_000, { errcode: 'M_LIMIT_EXCEEDED', retryAfterMs: 90_000 }],
      ])('and answers %i gets the same transaction after %i ms', async (status, waitMs, more) => {
        const { sender, queue, drained, clock, outcomes } = given();
        peers.answer('x.test', answers.http(status, more));
        await queue(pdu(1, ['x.test']));
        await until(() => outcomes.length === 1);
        expect((await sender.status('x.test'))?.retry_at).toBe(clock.now() + waitMs);
        expect((await sender.status('x.test'))?.last_error).toContain(`${status}`);
        peers.answer('x.test', answers.ok);
        clock.advance(waitMs);
        await drained('x.test');
        expect(new Set(peers.got.map((got) => `${got.txnId} ${got.text}`)).size).toBe(1);
        expect(peers.got).toHaveLength(2);
      });

      it('and never answers is given up after the time-out, and gets the same transaction', async () => {
        const { queue, drained, clock, outcomes } = given({ attemptTimeoutMs: 60_000 });
        peers.answer('x.test', () => new Promise(() => {}));
        await queue(pdu(1, ['x.test']));
        await until(() => peers.got.length === 1);
        clock.advance(60_000);
        await until(() => outcomes.length === 1);
        expect(outcomes[0]?.outcome).toBe('unreachable');
        peers.answer('x.test', answers.ok);
        clock.advance(5_000);
        await drained('x.test');
        expect(new Set(peers.got.map((got) => `${got.txnId} ${got.text}`)).size).toBe(1);
      });

      it('is tried at once when it makes contact, but not at each of many contacts', async () => {
        const { sender, queue, drained, clock, outcomes } = given();
        peers.answer('x.test', answers.down);
        await queue(pdu(1, ['x.test']));
        await until(() => outcomes.length === 1);
        sender.wake('x.test');
        await until(() => outcomes.length === 2);
        expect((await sender.status('x.test'))?.failures).toBe(1);
        for (let contact = 0; contact < 10; contact += 1) sender.wake('x.test');
        sender.wake('stranger.test');
        await lapse();
        expect(peers.got).toHaveLength(2);
        peers.answer('x.test', answers.ok);
        clock.advance(4_999);
        await lapse();
        expect(peers.got).toHaveLength(2);
        clock.advance(1);
        sender.wake('x.test');
        await drained('x.test');
        expect(peers.got).toHaveLength(3);
      });

      it('is tried at once when an operator asks for it', async () => {
        const { sender, queue, drained, outcomes } = given();
        peers.answer('x.test', answers.down);
        await queue(pdu(1, ['x.test']));
        await until(() => outcomes.length === 1);
        peers.answer('x.test', answers.ok);
        expect(await sender.retry('x.test')).toBe(true);
        await drained('x.test');
        expect(await sender.retry('stranger.test')).toBe(false);
      });

      it('starts its backoff anew where the contact came while an attempt hung', async () => {
        const { sender, queue, clock, outcomes } = given({ attemptTimeoutMs: 60_000 });
        peers.answer('x.test', answers.down);
        await queue(pdu(1, ['x.test']));
        await until(() => outcomes.length === 1);
        peers.answer('x.test', () => new Promise(() => {}));
        clock.advance(5_000);
        await until(() => peers.got.length === 2);
        sender.wake('x.test');
        await until(async () => (await sender.status('x.test'))?.failures === 0);
        clock.advance(60_000);
        await until(() => outcomes.length === 2);
        expect(await sender.status('x.test')).toMatchObject({
          failures: 1,
          retry_at: clock.now() + 5_000,
        });
      });

      it('is parked after days, gets a probe a day, and everything when it is back', async () => {
        const { sender, queue, drained, clock, outcomes } = given();
        peers.answer('x.test', answers.down);
        await queue(...numbers(1, 60).map((n) => pdu(n, ['x.test'])));
        await until(() => outcomes.length === 1);
        for (;;) {
          const status = await sender.status('x.test');
          if (status?.state === 'parked') break;
          const attempts: number = outcomes.length;
          clock.advance((status?.retry_at ?? 0) - clock.now());
          await until(() => outcomes.length > attempts);
        }
        expect((await sender.status('x.test'))?.retry_at).toBe(clock.now() + 86_400_000);
        expect(outcomes.length).toBeLessThan(40);
        peers.answer('x.test', answers.ok);
        clock.advance(86_400_000);
        await drained('x.test');
        expect(peers.got.slice(-2).map((got) => got.numbers)).toEqual([numbers(1, 50), numbers(51, 60)]);
      });
    });

    describe('a destination that an operator parks', () => {
      it('gets nothing, whatever is queued and however long, and everything in order afterwards', async () => {
        const { sender, queue, drained, clock, outcomes } = given();
        peers.answer('x.test', answers.down);
        await queue(...numbers(1, 60).map((n) => pdu(n, ['x.test'])));
        await until(() => outcomes.length === 1);
        expect(await sender.park('x.test')).toBe(true);
        const parkedAt = clock.now();
        peers.answer('x.test', answers.ok);
        await queue(pdu(61, ['x.test']));
        for (let day = 0; day < 10; day += 1) {
          clock.advance(86_400_000);
          await lapse();
        }
        expect(peers.got).toHaveLength(1);
        expect(await sender.status('x.test')).toMatchObject({
          state: 'parked',
          parked_by: 'operator',
          parked_at: parkedAt,
          pending: 61,
          in_flight: 0,
          failures: 1,
          retry_at: null,
        });
        expect(await sender.unpark('x.test')).toBe(true);
        await drained('x.test');
        expect(peers.got.map((got) => got.numbers)).toEqual([
          numbers(1, 50),
          numbers(1, 50),
          numbers(51, 61),
        ]);
        expect(peers.got[1]).toEqual(peers.got[0]);
        expect(await sender.status('x.test')).toMatchObject({ state: 'idle', parked_by: null, failures: 0 });
      });

      it('stays parked over a restart, and when its rows are swept', async () => {
        const first = senderOn(database, peers);
        await first.queue(pdu(1, ['x.test']));
        await first.sender.park('x.test');
        const second = given({}, first.clock);
        await second.queue(pdu(2, ['x.test']));
        await second.sender.queue.sweep(first.clock.now() + 86_400_000, () => false);
        await lapse();
        expect(peers.got).toEqual([]);
        await second.sender.unpark('x.test');
        await second.drained('x.test');
        expect(peers.got.map((got) => got.numbers)).toEqual([[1, 2]]);
      });

      it.each([
        ['contact', (under: SenderUnderTest) => under.sender.wake('x.test')],
        ['a retry', (under: SenderUnderTest) => under.sender.retry('x.test')],
      ])('is sent to again after %s', async (_, act) => {
        const under = senderOn(database, peers);
        started.push(under);
        await under.queue(pdu(1, ['x.test']));
        await under.sender.park('x.test');
        under.sender.start();
        await lapse();
        expect(peers.got).toEqual([]);
        await act(under);
        await under.drained('x.test');
        expect((await under.sender.status('x.test'))?.parked_by).toBeNull();
      });

      it('is unknown where there has never been anything for it', async () => {
        const { sender } = given();
        expect(await sender.park('stranger.test')).toBe(false);
        expect(await sender.unpark('stranger.test')).toBe(false);
        expect(await sender.status('stranger.test')).toBeUndefined();
      });

      it('is not unparked out of a backoff', async () => {
        const { sender, queue, outcomes } = given();
        peers.answer('x.test', answers.down);
        await queue(pdu(1, ['x.test']));
        await until(() => outcomes.length === 1);
        const before = await sender.status('x.test');
        await sender.unpark('x.test');
        await lapse();
        expect(await sender.status('x.test')).toEqual(before);
        expect(peers.got).toHaveLength(1);
      });

      describe('while another process sends to it', () => {
        /** One that has a transaction in flight, whose answer the test gives; and another on the same database. */
        const inFlight = async () => {
          let answer: (result: FederationResult) => void = () => {};
          peers.answer('x.test', () => new Promise<FederationResult>((resolve) => (answer = resolve)));
          const clock = new ManualClock();
          const sends = given({ isAlone: false }, clock);
          await sends.queue(...numbers(1, 60).map((n) => pdu(n, ['x.test'])));
          await until(() => peers.got.length === 1);
          const other = given({ isAlone: false }, clock);
          await other.sender.park('x.test');
          expect(await other.sender.status('x.test')).toMatchObject({
            state: 'sending',
            in_flight: 50,
            parked_by: 'operator',
          });
          return { clock, sends, other, answer: (result: FederationResult) => answer(result) };
        };

        it('has its answer recorded, and is parked then', async () => {
          const { other, sends, answer } = await inFlight();
          answer(answers.ok);
          await until(() => sends.outcomes.length === 1);
          await lapse();
          expect(peers.got).toHaveLength(1);
          expect(await other.sender.status('x.test')).toMatchObject({
            state: 'parked',
            pending: 10,
            in_flight: 0,
            failures: 0,
          });
        });

        it('has its failure counted, and is parked then', async () => {
          const { other, sends, answer, clock } = await inFlight();
          answer(answers.http(500));
          await until(() => sends.outcomes.length === 1);
          clock.advance(86_400_000);
          await lapse();
          expect(peers.got).toHaveLength(1);
          expect(sends.problems).toEqual([]);
          expect(await other.sender.status('x.test')).toMatchObject({
            state: 'parked',
            parked_by: 'operator',
            pending: 60,
            failures: 1,
            retry_at: null,
            last_error: '500: HTTP status 500',
          });
        });

        it('is not sent to twice at a time where it is unparked meanwhile', async () => {
          const { other, answer } = await inFlight();
          await other.sender.unpark('x.test');
          await lapse();
          expect(peers.got).toHaveLength(1);
          peers.answer('x.test', answers.ok);
          answer(answers.ok);
          await other.drained('x.test');
          expect(peers.got.map((got) => got.numbers)).toEqual([numbers(1, 50), numbers(51, 60)]);
          expect(peers.mostInFlight).toBe(1);
        });

        it('stays parked when that process dies, and gets the same transaction when it is unparked', async () => {
          const dead = senderOn(database, peers, { isAlone: false });
          peers.answer('x.test', () => new Promise(() => {}));
          dead.sender.start();
          await dead.queue(pdu(1, ['x.test']));
          await until(() => peers.got.length === 1);
          peers.answer('x.test', answers.ok);
          const clock = new ManualClock(dead.clock.now());
          const other = given({ isAlone: false }, clock);
          await other.sender.park('x.test');
          clock.advance(86_400_000);
          await until(async () => (await other.sender.status('x.test'))?.state === 'parked');
          expect(peers.got).toHaveLength(1);
          await other.sender.unpark('x.test');
          await other.drained('x.test');
          expect(peers.got[1]).toEqual(peers.got[0]);
        });
      });
    });

    describe('whatever happens to a destination', () => {
      /** A destination as its row has it. */
      const stateOf = async (): Promise<DestinationState> => {
        const [row] = await database.query<Record<string, string | null>>(
          `SELECT state, claim, failures::text, failing_since::text, retry_at::text, parked_at::text, due_at::text
             FROM sender_destinations WHERE destination = 'x.test'`,
        );
        const failing =
          row?.failures === '0'
            ? undefined
            : { failures: Number(row?.failures), failingSince: Number(row?.failing_since) };
        const parkedAt = row?.parked_at === null ? undefined : Number(row?.parked_at);
        if (row?.claim !== null) {
          return { kind: 'sending', before: failing, ...(parkedAt === undefined ? {} : { parkedAt }) };
        }
        if (parkedAt !== undefined) {
          expect(row.due_at).toBeNull();
          return { kind: 'parked', by: 'operator', parkedAt, before: failing };
        }
        if (failing === undefined) return { kind: 'idle' };
        expect(row.due_at).toBe(row.retry_at);
        const waits = { retryAt: Number(row.retry_at), ...failing };
        return row.state === 'parked'
          ? { kind: 'parked', by: 'failures', ...waits }
          : { kind: 'backing-off', ...waits };
      };

      it('its row says what the state machine says', async () => {
        const bounds = { minMs: 1_000, maxMs: 2_000, parkAfterMs: 5_000, probeMs: 3_000 };
        const happenings = ['attempt', 'delivered', 'failed', 'contact', 'park', 'unpark'] as const;
        await fc.assert(
          fc.asyncProperty(
            fc.array(fc.constantFrom(...happenings), { minLength: 1, maxLength: 20 }),
            async (given) => {
              await emptied(database);
              const queue = new DestinationQueue(database);
              let now = 1_000_000;
              await queue.enqueue(
                numbers(1, 30).map((n) => pdu(n, ['x.test'])),
                now,
              );
              let state: DestinationState = { kind: 'idle' };
              let transaction: FrozenTransaction | undefined;
              for (const kind of given) {
                // Each time something is queued too, which must change nothing.
                await queue.enqueue([pdu(now, ['x.test'])], now);
                now = Math.max(now + 1, 'retryAt' in state && kind === 'attempt' ? state.retryAt : 0);
                const failure = { kind: 'server-error' } as const;
                const happening: Happening = kind === 'failed' ? { kind, failure } : { kind };
                const facts = { now, random: 0, bounds };
                switch (kind) {
                  case 'attempt': {
                    if (state.kind === 'sending') continue;
                    const claimed = await queue.claim({
                      limits: { proven: 1, untried: 1, failing: 1 },
                      now,
                      claimUntil: now + 1_000_000,
                      claim: `${now}`,
                      newTxnId: () => `${now}`,
                      onProblem: (_, cause) => expect.unreachable(String(cause)),
                    });
                    transaction = claimed.transactions[0] ?? transaction;
                    break;
                  }
                  case 'delivered':
                    if (state.kind !== 'sending') continue;
                    await queue.delivered([{ transaction: transaction!, errors: [] }], now);
                    break;
                  case 'failed': {
                    if (state.kind !== 'sending') continue;
                    const { before } = state;
                    const after = nextState(state, happening, facts) as BackingOff | Parked;
                    const attempt = { transaction: transaction!, before, state: after, error: 'down' };
                    expect([...(await queue.failed([attempt]))]).toEqual(['x.test']);
                    break;
                  }
                  case 'contact':
                    await queue.contact(['x.test'], now);
                    break;
                  default:
                    await queue[kind]('x.test', now);
                }
                state = nextState(state, happening, facts);
                expect(await stateOf()).toEqual(state);
              }
            },
          ),
          { numRuns: 40 },
        );
      });
    });

    describe('several peers', () => {
      it('are independent: each has its own transactions and backoff', async () => {
        const { sender, queue, drained, outcomes } = given();
        peers.answer('x.test', answers.http(502));
        await queue(pdu(1, ['x.test', 'y.test']), pdu(2, ['y.test']), pdu(3, ['x.test', 'y.test']));
        await drained('y.test');
        await until(() => outcomes.some((outcome) => outcome.destination === 'x.test'));
        expect(peers.to('y.test').flatMap((got) => got.numbers)).toEqual([1, 2, 3]);
        expect(peers.to('x.test').map((got) => got.numbers)).toEqual([[1, 3]]);
        expect(await sender.status('x.test')).toMatchObject({ pending: 2, failures: 1 });
        expect(await sender.status('y.test')).toMatchObject({ pending: 0, failures: 0 });
        expect(peers.to('x.test')[0]?.txnId).not.toBe(peers.to('y.test')[0]?.txnId);
      });

      it('that hang do not delay one that lives, even if they are many more than the workers', async () => {
        const dead = numbers(1, 20).map((n) => `dead${n}.test`);
        const { sender, queue, drained, clock, outcomes } = given({
          concurrency: 4,
          attemptTimeoutMs: 60_000,
        });
        for (const name of dead) peers.answer(name, answers.down);
        await queue(pdu(1, dead));
        await until(() => outcomes.length === 20);
        // All of them are due again, and now they hang.
        for (const name of dead) peers.answer(name, () => new Promise(() => {}));
        clock.advance(5_000);
        await until(() => peers.got.length === 22);
        await lapse();
        expect(peers.got).toHaveLength(22);
        await queue(pdu(2, ['live.test']));
        await drained('live.test');
        expect((await sender.list({ limit: 100 })).filter((status) => status.in_flight > 0)).toHaveLength(2);
      });

      it('that answer come before those that nobody has heard of, many of which hang', async () => {
        const strange = numbers(1, 20).map((n) => `strange${n}.test`);
        const { queue, drained, clock } = given({ concurrency: 4, attemptTimeoutMs: 60_000 });
        await queue(pdu(1, ['live.test']));
        await drained('live.test');
        for (const name of strange) peers.answer(name, () => new Promise(() => {}));
        await queue(pdu(2, strange));
        await until(() => peers.got.length === 3);
        for (const n of numbers(3, 9)) {
          await queue(pdu(n, ['live.test']));
          await drained('live.test');
        }
        expect(peers.to('live.test').flatMap((got) => got.numbers)).toEqual([1, ...numbers(3, 9)]);
        expect(peers.got.filter((got) => got.destination.startsWith('strange'))).toHaveLength(2);
        // Those that hung fail now, and the next two take their place.
        clock.advance(60_000);
        await until(() => peers.got.filter((got) => got.destination.startsWith('strange')).length === 4);
      });

      it('that hang, strange or failing, leave even a single worker to those that answer', async () => {
        const { queue, drained, clock, outcomes } = given({ concurrency: 1, attemptTimeoutMs: 60_000 });
        peers.answer('failing.test', answers.down);
        await queue(pdu(1, ['live.test', 'failing.test']));
        await drained('live.test');
        await until(() => outcomes.length === 2);
        for (const name of ['failing.test', 'strange.test']) peers.answer(name, () => new Promise(() => {}));
        clock.advance(5_000);
        await queue(pdu(2, ['strange.test']));
        await until(() => peers.got.length === 4);
        await queue(pdu(3, ['live.test']));
        await drained('live.test');
        expect(peers.to('live.test').flatMap((got) => got.numbers)).toEqual([1, 3]);
      });

      it('that fail at once, however many, are tried only so often', async () => {
        const dead = numbers(1, 300).map((n) => `dead${n}.test`);
        const { queue, clock, outcomes } = given();
        for (const name of dead) peers.answer(name, answers.down);
        await queue(pdu(1, dead));
        await until(() => outcomes.length === 100);
        await lapse();
        expect(outcomes).toHaveLength(100);
        clock.advance(1_000);
        await until(() => outcomes.length === 150);
        await lapse();
        expect(outcomes).toHaveLength(150);
      });

      it('that are all there are not held up by being strangers', async () => {
        const names = numbers(1, 300).map((n) => `new${n}.test`);
        const { queue, drained } = given();
        await queue(pdu(1, names));
        for (const name of names) await drained(name);
        expect(peers.got).toHaveLength(300);
      });

      it('have their answers recorded together, each with what it could not take', async () => {
        const names = numbers(1, 12).map((n) => `s${n}.test`);
        const { sender, queue, drained, outcomes, clock } = given();
        const waiting: (() => void)[] = [];
        for (const [at, name] of names.entries()) {
          const answer: FederationResult =
            at % 3 === 0
              ? answers.down
              : {
                  ok: true,
                  status: 200,
                  body: { pdus: at % 3 === 1 ? { '$1:us.test': { error: `no, says ${name}` } } : {} },
                };
          peers.answer(name, () => new Promise((resolve) => waiting.push(() => resolve(answer))));
        }
        await queue(pdu(1, names), pdu(2, names));
        await until(() => waiting.length === 12);
        // One that gets more while it is sent to is due again at once, the others rest.
        peers.answer('s3.test', answers.ok);
        await queue(pdu(3, ['s3.test']));
        for (const release of waiting) release();
        await until(() => outcomes.length === 13);
        for (const [at, name] of names.entries()) {
          const status = await sender.status(name);
          const errors = await sender.reports.pduErrors(name, 10);
          if (at % 3 === 0) {
            expect(status).toMatchObject({
              state: 'backing-off',
              pending: 2,
              failures: 1,
              retry_at: clock.now() + 5_000,
              last_error: 'unreachable: connect ECONNREFUSED',
            });
          } else {
            expect(status).toMatchObject({ state: 'idle', pending: 0, in_flight: 0, failures: 0 });
          }
          expect(errors.map(({ eventId, error }) => [eventId, error])).toEqual(
            at % 3 === 1 ? [['$1:us.test', `no, says ${name}`]] : [],
          );
        }
        expect(peers.to('s3.test').map((got) => got.numbers)).toEqual([[1, 2], [3]]);
        await drained('s3.test');
        const [row] = await database.query<{ due: number }>(
          'SELECT count(*)::int AS due FROM sender_destinations WHERE due_at IS NOT NULL',
        );
        expect(row?.due).toBe(4);
      });

      it('are all served by few workers', async () => {
        const names = numbers(1, 50).map((n) => `s${n}.test`);
        const { queue, drained } = given({ concurrency: 3 });
        await queue(pdu(1, names), pdu(2, names));
        for (const name of names) await drained(name);
        expect(peers.got).toHaveLength(50);
        expect(peers.got.every((got) => got.numbers.join() === '1,2')).toBe(true);
      });

      it('are listed in pages, in order of their names', async () => {
        const { sender, queue, drained } = given();
        const names = ['B.test', 'a.test', 'b.test', '[::1]:8448', 'c.test'];
        await queue(pdu(1, names));
        for (const name of names) await drained(name);
        const page = async (after?: string) =>
          (await sender.list({ limit: 2, ...(after === undefined ? {} : { after }) })).map(
            (status) => status.destination as string,
          );
        expect(await page()).toEqual(['B.test', '[::1]:8448']);
        expect(await page('[::1]:8448')).toEqual(['a.test', 'b.test']);
        expect(await page('b.test')).toEqual(['c.test']);
        expect(await sender.status('stranger.test')).toBeUndefined();
      });

      it('are listed by state, and those alone that something waits for', async () => {
        const { sender, queue, drained, outcomes } = given();
        peers.answer('down.test', answers.down);
        peers.answer('parked.test', answers.down);
        await queue(pdu(1, ['a.test', 'down.test', 'parked.test']));
        await drained('a.test');
        await until(() => outcomes.length === 3);
        await sender.park('parked.test');
        await sender.park('a.test');
        const names = async (filter: Parameters<typeof sender.list>[0]) =>
          (await sender.list(filter)).map((status) => `${status.destination} ${status.pending}`);
        expect(await names({ limit: 9, state: 'parked' })).toEqual(['a.test 0', 'parked.test 1']);
        expect(await names({ limit: 1, state: 'parked' })).toEqual(['a.test 0']);
        expect(await names({ limit: 9, state: 'backing-off' })).toEqual(['down.test 1']);
        expect(await names({ limit: 9, state: 'parked', pendingOnly: true })).toEqual(['parked.test 1']);
        expect(await names({ limit: 9, pendingOnly: true, after: 'down.test' })).toEqual(['parked.test 1']);
        expect(await sender.reports.countByState()).toEqual({
          idle: 0,
          sending: 0,
          'backing-off': 1,
          parked: 2,
        });
        expect(await sender.reports.countPending()).toBe(2);
      });

      it('are shown with the transaction that is frozen, and what they could not take', async () => {
        const { sender, queue, drained, outcomes, clock } = given();
        peers.answer('x.test', {
          ok: true,
          status: 200,
          body: { pdus: { '$1:us.test': { error: 'no thanks' } } },
        });
        await queue(pdu(1, ['x.test']));
        await drained('x.test');
        peers.answer('x.test', answers.http(403, { errcode: 'M_FORBIDDEN' }));
        await queue({ ...pdu(2, ['x.test']), acceptedAt: clock.now() - 5_000 }, pdu(3, ['x.test']));
        await until(() => outcomes.length === 2);
        await queue(pdu(4, ['x.test']));
        expect(await sender.details('x.test')).toMatchObject({
          pending: 3,
          failing_since: clock.now(),
          last_error: expect.stringMatching(
            /^403 M_FORBIDDEN: HTTP status 403 \(it does not federate with us/,
          ),
          oldest_accepted_at: clock.now() - 5_000,
          transaction: {
            txn_id: peers.got[1]?.txnId,
            frozen_at: clock.now(),
            pdus: [
              { room_id: '!a:us.test', event_id: '$2:us.test' },
              { room_id: '!a:us.test', event_id: '$3:us.test' },
            ],
          },
          pdu_errors: [
            {
              room_id: '!a:us.test',
              event_id: '$1:us.test',
              error: 'no thanks',
              answered_at: clock.now(),
            },
          ],
        });
        expect(await sender.details('stranger.test')).toBeUndefined();
      });
    });

    describe('how long a PDU waited', () => {
      it('is told a PDU, from its acceptance on, and whether the destination was to blame', async () => {
        const { sender, queue, drained, outcomes, clock } = given();
        const acceptedAt = clock.now() - 300;
        await queue({ ...pdu(1, ['x.test']), acceptedAt });
        await drained('x.test');
        expect(outcomes[0]?.waits).toEqual([{ waitedMs: 300, wasHindered: false }]);

        peers.answer('x.test', answers.down);
        await queue(...numbers(2, 61).map((n) => pdu(n, ['x.test'])));
        await until(() => outcomes.length === 2);
        expect(outcomes[1]?.waits).toEqual([]);
        peers.answer('x.test', answers.ok);
        clock.advance(5_000);
        await drained('x.test');
        // All sixty had to wait, though it does not fail any more when the last ten go out.
        expect(outcomes.slice(2).flatMap(({ waits }) => waits)).toEqual(
          numbers(2, 61).map(() => ({ waitedMs: 5_000, wasHindered: true })),
        );

        clock.advance(1);
        await queue(pdu(62, ['x.test']));
        await drained('x.test');
        expect(outcomes.at(-1)?.waits).toEqual([{ waitedMs: 0, wasHindered: false }]);

        await sender.park('x.test');
        await queue(pdu(63, ['x.test']));
        clock.advance(7_000);
        await sender.unpark('x.test');
        await drained('x.test');
        expect(outcomes.at(-1)?.waits).toEqual([{ waitedMs: 7_000, wasHindered: true }]);
      });

      it.each([
        ['lies ahead of our clock', 60_000],
        ['is from another time', -86_400_000 * 365],
      ])('counts from now where the time of acceptance %s', async (_, offMs) => {
        const { queue, drained, outcomes, clock } = given();
        await queue({ ...pdu(1, ['x.test']), acceptedAt: clock.now() + offMs });
        await drained('x.test');
        expect(outcomes[0]).toMatchObject({
          oldestWaitedMs: 0,
          waits: [{ waitedMs: 0, wasHindered: false }],
        });
      });
    });

    describe('a restart', () => {
      it('repeats the transaction that was in flight: same ID, same bytes', async () => {
        const life = mortal(database);
        const first = senderOn(life.database, peers);
        peers.answer('x.test', () => new Promise(() => {}));
        first.sender.start();
        await first.queue(pdu(1, ['x.test']));
        await until(() => peers.got.length === 1);
        await first.queue(pdu(2, ['x.test']));
        life.kill();

        peers.answer('x.test', answers.ok);
        first.clock.advance(1_000);
        const second = given({}, first.clock);
        await second.drained('x.test');
        expect(peers.got.map((got) => got.numbers)).toEqual([[1], [1], [2]]);
        expect(peers.got[1]).toEqual(peers.got[0]);
        expect(peers.got[2]?.txnId).not.toBe(peers.got[0]?.txnId);
      });

      it('beside other processes waits until the claim of the dead one has run out', async () => {
        const life = mortal(database);
        const first = senderOn(life.database, peers, { attemptTimeoutMs: 60_000 });
        peers.answer('x.test', () => new Promise(() => {}));
        first.sender.start();
        await first.queue(pdu(1, ['x.test']));
        await until(() => peers.got.length === 1);
        life.kill();
        peers.answer('x.test', answers.ok);

        const clock = new ManualClock(first.clock.now());
        const second = given({ isAlone: false, attemptTimeoutMs: 60_000 }, clock);
        clock.advance(89_000);
        await lapse();
        expect(peers.got).toHaveLength(1);
        clock.advance(2_000);
        await second.drained('x.test');
        expect(peers.got[1]).toEqual(peers.got[0]);
      });

      it('leaves a backoff as it was, and begins with the others', async () => {
        const first = senderOn(database, peers);
        first.sender.start();
        peers.answer('x.test', answers.down);
        await first.queue(pdu(1, ['x.test']));
        await until(() => first.outcomes.length === 1);
        await first.sender.stop();
        await first.queue(pdu(2, ['x.test', 'y.test']));
        peers.answer('x.test', answers.ok);

        const second = given({}, first.clock);
        await second.drained('y.test');
        await lapse();
        expect(peers.to('x.test')).toHaveLength(1);
        second.clock.advance(5_000);
        await second.drained('x.test');
        expect(peers.to('x.test').map((got) => got.numbers)).toEqual([[1], [1], [2]]);
      });

      it.each(['before', 'after'] as const)(
        'killed %s any step loses nothing, and gives no ID to two contents',
        async (when) => {
          const names = ['x.test', 'y.test'];
          const messages = numbers(1, 60).map((n) => received(n - 1, valueOf(n, names)));
          const place = [OUTBOUND_PDUS_TOPIC, 0, 'exeunt-federation-sender'];
          /** As a bus does: a batch from where it got to, then the offset of the next. */
          const consume = async (
            on: Database,
            queue: DestinationQueue,
            clock: ManualClock,
          ): Promise<void> => {
            const bus = { consume: () => Promise.reject(new Error('unused')), publish: async () => {} };
            const consumer = new OutboundPdusConsumer({ bus, queue, clock });
            for (;;) {
              const [cursor] = await database.query<{ offset: string }>(
                'SELECT "offset" FROM bus_cursors WHERE (topic, partition, consumer_group) = ($1, $2, $3)',
                place,
              );
              const offset = Number(cursor?.offset ?? 0);
              if (offset === messages.length) return;
              await consumer.handle(messages.slice(offset, offset + 30));
              await on.query(
                `INSERT INTO bus_cursors (topic, partition, consumer_group, "offset") VALUES ($1, $2, $3, $4)
               ON CONFLICT (topic, partition, consumer_group) DO UPDATE SET "offset" = excluded."offset"`,
                [...place, offset + 30],
              );
            }
          };
          const pendingOf = async (name: string) =>
            (await new DestinationReports(database).status(name))?.pending;
          const isDone = async () => (await pendingOf('x.test')) === 0 && (await pendingOf('y.test')) === 0;

          const kill = async (at: number): Promise<number> => {
            await emptied(database);
            await database.query('TRUNCATE bus_cursors');
            peers = new Peers();
            // Down once, so that the step that records a failure is among those that die.
            let failed = false;
            peers.answer('x.test', () => {
              if (failed) return answers.ok;
              failed = true;
              return answers.down;
            });
            const clock = new ManualClock();
            const life = dyingDatabase(database, at, when);
            const first = senderOn(life.database, peers, {}, clock);
            first.sender.start();
            let consumed = false;
            const consuming = consume(life.database, first.sender.queue, clock).then(
              () => (consumed = true),
              () => {},
            );
            // It has died, or else it is done.
            await until(async () => {
              clock.advance(2_500);
              return life.steps >= at || (consumed && (await isDone()));
            });
            await lapse();
            await consuming;
            const stopping = first.sender.stop();
            const second = given({}, clock);
            await consume(database, second.sender.queue, clock);
            await until(async () => {
              clock.advance(2_500);
              return await isDone();
            });
            await stopping;
            await second.sender.stop();

            for (const name of names) {
              const bodies = new Map<string, string>();
              for (const got of peers.to(name)) {
                expect(bodies.get(got.txnId) ?? got.text).toBe(got.text);
                bodies.set(got.txnId, got.text);
              }
              const arrived = [...new Map(peers.to(name).map((got) => [got.txnId, got.numbers])).values()];
              expect(arrived.flat()).toEqual(numbers(1, 60));
            }
            return life.steps;
          };
          let at = 1;
          while ((await kill(at)) >= at) at += 1;
          // Two batches taken in, two transactions to each of two servers, one of them twice.
          expect(at).toBeGreaterThan(40);
        },
        180_000,
      );
    });

    describe('when the database is away for a while', () => {
      it('goes on when it is back', async () => {
        let away = false;
        const flaky: Database = {
          ...database,
          query: (...args) => (away ? Promise.reject(new Error('away')) : database.query(...args)),
          transaction: (...args) =>
            away ? Promise.reject(new Error('away')) : database.transaction(...args),
        };
        const under = senderOn(flaky, peers);
        started.push(under);
        under.sender.start();
        let release = () => {};
        peers.answer(
          'x.test',
          () => new Promise<FederationResult>((resolve) => (release = () => resolve(answers.ok))),
        );
        await under.queue(pdu(1, ['x.test']));
        await until(() => peers.got.length === 1);
        away = true;
        release();
        await until(() => under.problems.length > 0);
        for (let second = 0; second < 30; second += 1) {
          under.clock.advance(1_000);
          await lapse();
        }
        peers.answer('x.test', answers.ok);
        away = false;
        await until(async () => {
          under.clock.advance(1_000);
          return (await new DestinationReports(database).status('x.test'))?.pending === 0;
        });
        expect(new Set(peers.got.map((got) => `${got.txnId} ${got.text}`)).size).toBe(1);
      });
    });

    describe('the queue', () => {
      const rows = async (table: string) =>
        Number((await database.query<{ n: string }>(`SELECT count(*)::text AS n FROM ${table}`))[0]?.n);

      it('takes a repeat of a message for what it is, even after its PDU was delivered', async () => {
        const { sender, queue, drained, clock } = given();
        await queue(pdu(1, ['x.test', 'y.test']));
        expect(await sender.queue.enqueue([pdu(1, ['x.test', 'y.test'])], clock.now())).toBe(0);
        await drained('x.test');
        await drained('y.test');
        expect(
          await sender.queue.enqueue(
            [pdu(1, ['x.test', 'y.test']), pdu(2, ['x.test']), pdu(2, ['x.test'])],
            clock.now(),
          ),
        ).toBe(1);
        sender.nudge();
        await drained('x.test');
        expect(peers.to('x.test').map((got) => got.numbers)).toEqual([[1], [2]]);
      });

      it('holds a PDU once, and once a destination, whatever message it came by', async () => {
        const queue = new DestinationQueue(database);
        await queue.enqueue([pdu(1, ['x.test']), { ...pdu(1, ['x.test', 'y.test']), id: 'another' }], 0);
        expect(await rows('sender_pdus')).toBe(1);
        expect(await rows('sender_queue')).toBe(2);
      });

      it('keeps the order of messages that are too many for one transaction', async () => {
        const names = numbers(1, 3_000).map((n) => `s${n}.test`);
        const queue = new DestinationQueue(database);
        await queue.enqueue(
          numbers(1, 7).map((n) => pdu(n, names)),
          0,
        );
        expect(await rows('sender_queue')).toBe(21_000);
        const order = await database.query<{ event_id: string }>(
          `SELECT p.event_id FROM sender_queue q JOIN sender_pdus p ON p.id = q.pdu_id
            WHERE q.destination = 's7.test' ORDER BY q.seq`,
        );
        expect(order.map((row) => row.event_id)).toEqual(numbers(1, 7).map((n) => `$${n}:us.test`));
      });

      it('forgets PDUs that nobody waits for, and messages after a week', async () => {
        const { sender, queue, drained, clock, outcomes } = given();
        peers.answer('x.test', answers.down);
        await queue(pdu(1, ['x.test', 'y.test']), pdu(2, ['y.test']));
        await drained('y.test');
        await until(() => outcomes.length >= 2);
        await sender.queue.sweep(clock.now() + 3_600_000, () => false);
        expect(await rows('sender_pdus')).toBe(2);
        await sender.queue.sweep(clock.now() + 3_600_001, () => false);
        expect(await rows('sender_pdus')).toBe(1);
        expect(await rows('sender_messages')).toBe(2);
        await sender.queue.sweep(clock.now() + 7 * 86_400_000 + 1, () => false);
        expect(await rows('sender_messages')).toBe(0);
        expect(await rows('sender_pdus')).toBe(1);
      });
    });

    describe('the consumer of outbound PDUs', () => {
      it('makes rows durable before the bus goes on, parks what it cannot read, and goes on', async () => {
        await database.query('TRUNCATE bus_partitions, bus_messages, bus_cursors');
        const clock = new ManualClock();
        const bus = new EmbeddedMessageBus(database, { clock });
        const { sender, drained } = given({}, clock);
        const unreadable: string[] = [];
        const consumer = new OutboundPdusConsumer({
          bus,
          queue: sender.queue,
          clock,
          onQueued: () => sender.nudge(),
          onUnreadable: (_, reason) => unreadable.push(reason),
        });
        await consumer.start();
        const letters: ReceivedMessage[] = [];
        await bus.consume({
          topic: DEAD_LETTER_TOPIC,
          group: 'test',
          maxBatch: 10,
          handle: async (batch) => void letters.push(...batch),
        });
        await bus.publish([
          received(0, valueOf(1, ['x.test'])),
          received(1, '{"room_id":'),
          received(2, valueOf(2, ['x.test', 'not a server'])),
          received(3, valueOf(3, ['x.test'])),
        ]);
        await until(() => letters.length === 2);
        await until(() => peers.to('x.test').flatMap((got) => got.numbers).length === 2);
        await drained('x.test');
        expect(peers.to('x.test').flatMap((got) => got.numbers)).toEqual([1, 3]);
        expect(unreadable).toHaveLength(2);
        expect(JSON.parse(letters[1]?.value ?? '')).toMatchObject({
          reason: 'not a server name: "not a server"',
          consumer: 'exeunt-federation-sender',
          message: { topic: OUTBOUND_PDUS_TOPIC, partition: 0, offset: '2', key: '0' },
        });
        expect(letters[1]?.headers.ce_id).toBe('exeunt-federation-sender/exeunt.outbound-pdus.v1/0/2');
        await consumer.stop();
        await bus.close();
      });

      it('keeps with each PDU the trace that its message names, to every attempt, and none that is no trace', async () => {
        const traceparent = (digit: string) => `00-${digit.repeat(32)}-${digit.repeat(16)}-01`;
        const named = (offset: number, ce_traceparent: string | undefined): ReceivedMessage => {
          const message = received(offset, valueOf(offset, ['x.test']), `traced${offset}`);
          if (ce_traceparent === undefined) return message;
          return { ...message, headers: { ...message.headers, ce_traceparent } };
        };
        const consumer = new OutboundPdusConsumer({
          bus: { consume: () => Promise.reject(new Error('unused')), publish: async () => {} },
          queue: new DestinationQueue(database),
          clock: new ManualClock(),
        });
        peers.answer('x.test', answers.down);
        await consumer.handle([
          named(1, traceparent('a')),
          named(2, undefined),
          named(3, 'a trace'),
          named(4, traceparent('b')),
          named(5, traceparent('a')),
        ]);
        // A row of an earlier release, and one that is taken in again by another message, keep what they have.
        await database.query(`UPDATE sender_pdus SET traceparent = NULL WHERE event_id = '$5:us.test'`);
        const { sender, outcomes } = given();
        await until(() => outcomes.length === 1);
        await consumer.handle([
          { ...named(1, traceparent('c')), headers: { ce_id: 'other', ce_traceparent: traceparent('c') } },
        ]);
        peers.answer('x.test', answers.ok);
        await sender.retry('x.test');
        await until(() => outcomes.length === 2);
        const [a, b] = ['a'.repeat(32), 'b'.repeat(32)];
        const traced = { '$1:us.test': a, '$4:us.test': b };
        expect(outcomes.map(({ traceIds }) => Object.fromEntries(traceIds))).toEqual([traced, traced]);
      });

      it('counts an attempt to the trace of its oldest PDU, and links it to the others', async () => {
        const traceparent = (digit: string) => `00-${digit.repeat(32)}-${digit.repeat(16)}-01`;
        const begun: SpanOptions[] = [];
        const within: (string | undefined)[] = [];
        const tracing: Tracing = {
          begin(name, options = {}) {
            begun.push(options);
            return noTracing.begin(name, options);
          },
          close: async () => {},
        };
        peers.answer('x.test', () => {
          within.push(currentTraceparent());
          return answers.ok;
        });
        const { queue, drained } = given({ tracing });
        await queue({ ...pdu(1, ['x.test']), traceparent: traceparent('a') }, pdu(2, ['x.test']), {
          ...pdu(3, ['x.test']),
          traceparent: traceparent('b'),
        });
        await drained('x.test');
        expect(within).toEqual([traceparent('a')]);
        expect(begun).toMatchObject([
          { parent: { traceId: 'a'.repeat(32) }, links: [{ traceId: 'b'.repeat(32) }] },
        ]);
      });

      it('does not take a batch as handled whose rows are not durable', async () => {
        const consumer = new OutboundPdusConsumer({
          bus: { consume: () => Promise.reject(new Error('unused')), publish: async () => {} },
          queue: { enqueue: () => Promise.reject(new Error('the database is away')) },
        });
        await expect(consumer.handle([received(0, valueOf(1, ['x.test']))])).rejects.toThrow('away');
      });

      it('loses no wake-up to a worker that finds the queue empty at the same time', async () => {
        const { queue, drained } = given();
        for (let round = 0; round < 100; round += 1) await queue(pdu(round, ['x.test', 'y.test']));
        await drained('x.test');
        await drained('y.test');
        expect(peers.to('x.test').flatMap((got) => got.numbers)).toEqual(numbers(0, 99));
        expect(peers.to('y.test').flatMap((got) => got.numbers)).toEqual(numbers(0, 99));
      });
    });

    if (name === 'PostgreSQL') {
      it('sends from several processes at once, one transaction in flight a destination', async () => {
        const names = numbers(1, 10).map((n) => `s${n}.test`);
        const clock = new ManualClock();
        const senders = [1, 2, 3].map(() => given({ isAlone: false }, clock));
        for (let round = 0; round < 40; round += 1) {
          await senders[0]?.queue(pdu(round, names));
          for (const { sender } of senders) sender.nudge();
        }
        for (const one of names) {
          await until(async () => {
            clock.advance(20);
            return (await senders[0]?.sender.status(one))?.pending === 0;
          });
          expect(peers.to(one).flatMap((got) => got.numbers)).toEqual(numbers(0, 39));
        }
        expect(peers.mostInFlight).toBe(1);
      });
    }
  });
}

describe('PGlite', () => {
  let kind: DatabaseKind;
  beforeAll(async () => {
    kind = await pgliteKind();
  });
  afterAll(() => kind.end());
  sendingContract('PGlite', () => kind.open('sending', migrations));
});

const postgres = await postgresKind();
if (postgres === undefined) {
  console.warn('federation sender on PostgreSQL: did not run, there is none on this machine');
  describe.skip('PostgreSQL', () => it('has nothing to run on', () => {}));
} else {
  describe('PostgreSQL', () => {
    afterAll(() => postgres.end());
    sendingContract('PostgreSQL', () => postgres.open('sending', migrations));
  });
}
