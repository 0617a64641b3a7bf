import type { Database } from '@exeunt/database';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import type { CanonicalJson } from '@exeunt/signing';
import { LRUCache } from 'lru-cache';
import type { PduError } from './destination-reports.js';
import type { BackingOff, Failing, Parked } from './destination-state.js';
import { LANES, type Lane, type Limits } from './lanes.js';
import { waitingSince, type OutboundPdu } from './outbound-pdu.js';
import { numberOf } from './stored-number.js';
import { canonicalPdu } from './transaction.js';

/** A transaction as it goes out, the first time and every time until its 200. (TX-03, TX-04) */
export interface FrozenTransaction {
  readonly destination: ServerName;
  readonly txnId: string;
  /** When it was frozen, ms since the epoch: its `origin_server_ts`. */
  readonly frozenAt: number;
  /** One to fifty, in the order they were accepted. */
  readonly pdus: readonly QueuedPdu[];
  /** Who has it; whoever records an outcome shows it. */
  readonly claim: string;
  /** How the destination fared when it was claimed. */
  readonly lane: Lane;
  readonly before: Failing | undefined;
  /** When the destination last came out of failing or of being parked, ms since the epoch. */
  readonly recoveredAt: number | undefined;
}

/** A transaction that was answered 200, and what the destination could not take of it. */
export interface Delivery {
  readonly transaction: FrozenTransaction;
  readonly errors: readonly PduError[];
}

/** A transaction that was not answered 200. */
export interface FailedAttempt {
  readonly transaction: FrozenTransaction;
  /** How the destination had fared; what `state` was reckoned from. */
  readonly before: Failing | undefined;
  readonly state: BackingOff | Parked;
  readonly error: string;
}

export interface QueuedPdu {
  readonly seq: string;
  readonly roomId: string;
  readonly eventId: string;
  /** In federation format. */
  readonly pdu: CanonicalJson;
  /** When it was accepted, ms since the epoch and never after it was put into the queue. */
  readonly acceptedAt: number;
  /** Of the request that made it accepted; absent where that was not traced. */
  readonly traceparent?: string;
}

/** TX-01. */
export const MAX_PDUS = 50;

/** Rows of the queue written in one transaction. */
const MAX_ROWS = 10_000;
const SWEEP_BATCH = 1_000;
const SWEEP_BATCHES = 100;
/** Characters of PDUs kept at hand: they are read and encoded once, however many destinations wait for them. */
const PDUS_AT_HAND = 8 * 1024 * 1024;
const PDU_GRACE_MS = 3_600_000;
const MESSAGE_MEMORY_MS = 7 * 86_400_000;
const PDU_ERROR_MEMORY_MS = 30 * 86_400_000;

/** What ends a parking by hand, in an update of `sender_destinations AS d` where $2 is now. */
const UNPARKED = `parked_at = NULL, recovered_at = $2::bigint,
              state = CASE WHEN d.claim IS NULL THEN 'idle' ELSE d.state END,
              due_at = CASE WHEN d.claim IS NULL THEN $2::bigint ELSE d.due_at END`;

const LANE_CONDITION: Record<Lane, string> = {
  proven: 'failures = 0 AND last_success_at IS NOT NULL',
  untried: 'failures = 0 AND last_success_at IS NULL',
  failing: 'failures > 0',
};

interface ClaimedRow {
  readonly lane: Lane;
  readonly destination: string;
  readonly txn_id: string | null;
  readonly txn_at: string | null;
  readonly txn_seqs: readonly string[] | null;
  readonly failures: number;
  readonly failing_since: string | null;
  readonly parked_at: string | null;
  readonly recovered_at: string | null;
}

/** A row of `sender_pdus`, which never changes. */
interface StoredPdu {
  readonly roomId: string;
  readonly eventId: string;
  readonly pdu: CanonicalJson;
  readonly traceparent?: string;
}

interface Frozen {
  readonly destination: string;
  readonly txnId: string;
  readonly frozenAt: number;
  readonly seqs: readonly string[];
  readonly lane: Lane;
  readonly before: Failing | undefined;
  readonly recoveredAt: number | undefined;
  /** Of one that is frozen just now; of an older one they are read. */
  readonly places?: readonly Place[];
}

/** A row of `sender_queue`. */
interface Place {
  readonly seq: string;
  readonly pdu_id: string;
  readonly accepted_at: string;
}

/** With lists as texts with commas between, which are read faster than arrays. */
interface FrozenRow {
  readonly destination: string;
  readonly txn_id: string;
  readonly seqs: string;
  readonly pdu_ids: string;
  readonly accepted_at: string;
}

const dueOf = (lane: Lane, limit: string): string =>
  `SELECT destination, '${lane}' AS lane FROM sender_destinations
    WHERE due_at <= $3::bigint AND ${LANE_CONDITION[lane]}
    ORDER BY due_at LIMIT ${limit}::int FOR UPDATE SKIP LOCKED`;

const CLAIM = `
  WITH untried AS MATERIALIZED (${dueOf('untried', '$4')}),
  failing AS MATERIALIZED (${dueOf('failing', '$5')}),
  proven AS MATERIALIZED (${dueOf('proven', '$6')})
  UPDATE sender_destinations AS d SET claim = $1, due_at = $2::bigint, state = 'sending'
    FROM (SELECT * FROM failing UNION ALL SELECT * FROM untried UNION ALL SELECT * FROM proven) AS due
   WHERE d.destination = due.destination
  RETURNING due.lane, d.destination, d.txn_id, d.txn_at::text AS txn_at, d.txn_seqs::text[] AS txn_seqs,
            d.failures, d.failing_since::text AS failing_since,
            d.parked_at::text AS parked_at, d.recovered_at::text AS recovered_at`;

const FREEZE = `
  WITH oldest AS MATERIALIZED (
    SELECT m.destination, m.txn_id, array_agg(q.seq ORDER BY q.seq) AS seqs,
           string_agg(q.pdu_id::text, ',' ORDER BY q.seq) AS pdu_ids,
           string_agg(q.accepted_at::text, ',' ORDER BY q.seq) AS accepted_at
      FROM unnest($1::text[], $2::text[]) AS m(destination, txn_id)
     CROSS JOIN LATERAL (
       SELECT seq, pdu_id, accepted_at FROM sender_queue
        WHERE destination = m.destination ORDER BY seq LIMIT ${MAX_PDUS}
     ) AS q
     GROUP BY m.destination, m.txn_id
  )
  UPDATE sender_destinations AS d SET txn_id = o.txn_id, txn_at = $3::bigint, txn_seqs = o.seqs
    FROM oldest AS o WHERE d.destination = o.destination
  RETURNING d.destination, d.txn_id, array_to_string(d.txn_seqs, ',') AS seqs, o.pdu_ids, o.accepted_at`;

const NEXT_DUE = `SELECT ${LANES.map(
  (lane) =>
    `(SELECT min(due_at) FROM sender_destinations WHERE due_at IS NOT NULL AND ${LANE_CONDITION[lane]})::text AS ${lane}`,
).join(', ')}`;

/** Those whose transaction is still this one; whoever has them waits for us. */
const LOCK_ANSWERED = `
  SELECT d.destination
    FROM sender_destinations AS d JOIN unnest($1::text[], $2::text[]) AS m(destination, txn_id)
      ON d.destination = m.destination AND d.txn_id = m.txn_id
   ORDER BY d.destination FOR UPDATE OF d`;

/** Needs their locks: what was queued before we had them is seen, and what is queued later finds no due time. */
const RECORD_DELIVERIES = `
  WITH answered AS MATERIALIZED (
    SELECT m.destination, m.error, d.txn_id, d.txn_seqs
      FROM unnest($1::text[], $2::text[]) AS m(destination, error)
      JOIN sender_destinations AS d ON d.destination = m.destination
  ), gone AS (
    DELETE FROM sender_queue AS q USING answered AS a
     WHERE q.destination = a.destination AND q.seq = ANY(a.txn_seqs)
  ), refused AS (
    INSERT INTO sender_pdu_errors (destination, room_id, event_id, txn_id, error, answered_at)
    SELECT a.destination, e.room_id, e.event_id, a.txn_id, e.error, $3::bigint
      FROM unnest($4::text[], $5::text[], $6::text[], $7::text[])
           WITH ORDINALITY AS e(destination, room_id, event_id, error, place)
      JOIN answered AS a ON a.destination = e.destination ORDER BY e.place
  )
  UPDATE sender_destinations AS d
     SET state = CASE WHEN d.parked_at IS NULL THEN 'idle' ELSE 'parked' END,
         recovered_at = CASE WHEN d.failures > 0 THEN $3::bigint ELSE d.recovered_at END,
         claim = NULL, failures = 0, failing_since = NULL, retry_at = NULL,
         due_at = CASE WHEN d.parked_at IS NULL AND EXISTS (
           SELECT 1 FROM sender_queue AS q WHERE q.destination = d.destination AND q.seq <> ALL(d.txn_seqs)
         ) THEN $3::bigint END,
         last_success_at = $3::bigint, last_error = coalesce(a.error, d.last_error),
         txn_id = NULL, txn_at = NULL, txn_seqs = NULL
    FROM answered AS a WHERE d.destination = a.destination`;

const RECORD_FAILURES = `
  UPDATE sender_destinations AS d
     SET state = m.state, claim = NULL, failures = m.failures, failing_since = m.failing_since,
         retry_at = m.retry_at, due_at = m.retry_at, last_error = m.error
    FROM (SELECT destination, claim, failures, parked_at FROM sender_destinations
           WHERE destination = ANY($1::text[]) ORDER BY destination FOR UPDATE) AS held
    JOIN unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::int[], $6::bigint[], $7::bigint[], $8::text[],
                $9::boolean[])
         AS m(destination, claim, before, state, failures, failing_since, retry_at, error, by_hand)
      ON held.destination = m.destination AND held.claim = m.claim AND held.failures = m.before
         AND (held.parked_at IS NOT NULL) = m.by_hand
   WHERE d.destination = held.destination
  RETURNING d.destination`;

/**
 * The sender's memory in the database: what waits for whom, and what is frozen. Every method is one transaction, so a
 * kill between any two of them loses nothing; several processes may use one database.
 *
 * Who puts rows into the queue locks the rows of their destinations first, and who finds a queue empty looks while it
 * holds that lock: so nothing is ever put to a destination that has just been told it has nothing to do.
 */
export class DestinationQueue {
  readonly #database: Database;
  readonly #pdus = new LRUCache<string, StoredPdu>({
    maxSize: PDUS_AT_HAND,
    sizeCalculation: ({ pdu }) => pdu.length + 500,
  });
  #sweptUpTo = '0';

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Makes PDUs wait for their destinations, after all that wait already and in the order given. A message that was
   * taken in before, even if its PDU has been delivered since, is left out, and a PDU never waits twice for one
   * destination. Gives how many messages were new.
   */
  async enqueue(messages: readonly OutboundPdu[], now: number): Promise<number> {
    let fresh = 0;
    let part: OutboundPdu[] = [];
    let rows = 0;
    for (const message of messages) {
      if (part.length > 0 && rows + message.destinations.length > MAX_ROWS) {
        fresh += await this.#enqueuePart(part, now);
        part = [];
        rows = 0;
      }
      part.push(message);
      rows += message.destinations.length;
    }
    return part.length === 0 ? fresh : fresh + (await this.#enqueuePart(part, now));
  }

  async #enqueuePart(messages: readonly OutboundPdu[], now: number): Promise<number> {
    return await this.#database.transaction(async (tx) => {
      const news = await tx.query<{ id: string }>({
        name: 'sending-take-in',
        text: `INSERT INTO sender_messages (id, seen_at)
         SELECT id, $2::bigint FROM unnest($1::text[]) AS m(id) ORDER BY id COLLATE "C"
         ON CONFLICT DO NOTHING RETURNING id`,
        values: [messages.map((message) => message.id), String(now)],
      });
      const unseen = new Set(news.map((row) => row.id));
      // A message that is twice in this batch counts once, and where it came first.
      const fresh = messages.filter((message) => unseen.delete(message.id));
      if (fresh.length === 0) return 0;

      await tx.query({
        name: 'sending-make-due',
        text: `INSERT INTO sender_destinations AS d (destination, due_at)
         SELECT destination, $2::bigint FROM unnest($1::text[]) AS m(destination)
          ORDER BY destination COLLATE "C"
         ON CONFLICT (destination) DO UPDATE SET due_at = excluded.due_at
           WHERE d.due_at IS NULL AND d.parked_at IS NULL`,
        values: [[...new Set(fresh.flatMap((message) => message.destinations))], String(now)],
      });

      const pdus = [
        ...new Map(fresh.map((message) => [nameOf(message.roomId, message.eventId), message])).values(),
      ];
      const stored = await tx.query<{ id: string; room_id: string; event_id: string }>(
        `INSERT INTO sender_pdus (room_id, event_id, pdu, traceparent, received_at)
         SELECT room_id, event_id, pdu, traceparent, $5::bigint
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS m(room_id, event_id, pdu, traceparent)
          ORDER BY room_id COLLATE "C", event_id COLLATE "C"
         ON CONFLICT (room_id, event_id) DO UPDATE SET received_at = excluded.received_at
         RETURNING id::text AS id, room_id, event_id`,
        [
          pdus.map((message) => message.roomId),
          pdus.map((message) => message.eventId),
          pdus.map((message) => message.pdu),
          pdus.map((message) => message.traceparent ?? null),
          String(now),
        ],
      );
      const ids = new Map(stored.map((row) => [nameOf(row.room_id, row.event_id), row.id]));

      const rows = fresh.flatMap(({ roomId, eventId, destinations, acceptedAt }) => {
        const pduId = ids.get(nameOf(roomId, eventId));
        const since = String(waitingSince(acceptedAt, now));
        return destinations.map((destination) => ({ destination, pduId, since }));
      });
      // The sequence is drawn in the order of the rows as they are sorted.
      await tx.query({
        name: 'sending-queue',
        text: `INSERT INTO sender_queue (destination, pdu_id, accepted_at)
         SELECT destination, pdu_id, accepted_at
           FROM unnest($1::text[], $2::bigint[], $3::bigint[])
                WITH ORDINALITY AS m(destination, pdu_id, accepted_at, place)
          ORDER BY place
         ON CONFLICT (pdu_id, destination) DO NOTHING`,
        values: [
          rows.map((row) => row.destination),
          rows.map((row) => row.pduId),
          rows.map((row) => row.since),
        ],
      });
      return fresh.length;
    });
  }

  /**
   * Takes destinations that are due, of each lane those that have been for longest, and gives what each has to be
   * sent: the transaction that is frozen, or else one frozen now from the oldest PDUs. Until `claimUntil`, or until an
   * outcome is recorded, nobody else gets them. Destinations that turn out to have nothing waiting are put to rest, and
   * so are those that were parked by hand while a process sent to them that died. `looked`: how many of each lane were
   * due.
   */
  async claim(options: {
    readonly limits: Limits;
    readonly now: number;
    readonly claimUntil: number;
    readonly claim: string;
    readonly newTxnId: () => string;
    readonly onProblem: (what: string, cause: unknown) => void;
  }): Promise<{
    readonly transactions: readonly FrozenTransaction[];
    readonly looked: Readonly<Record<Lane, number>>;
  }> {
    const { limits, now, claimUntil, claim, newTxnId } = options;
    const { frozen, looked } = await this.#database.transaction(async (tx) => {
      const due = await tx.query<ClaimedRow>({
        name: 'sending-claim',
        text: CLAIM,
        values: [claim, String(claimUntil), String(now), limits.untried, limits.failing, limits.proven],
      });
      const rows = due.filter((row) => row.parked_at === null);
      const thawed = rows.filter((row) => row.txn_id === null).map((row) => row.destination);
      const fresh = new Map<string, Pick<Frozen, 'txnId' | 'seqs' | 'places'>>();
      if (thawed.length > 0) {
        const found = await tx.query<FrozenRow>({
          name: 'sending-freeze',
          text: FREEZE,
          values: [thawed, thawed.map(() => newTxnId()), String(now)],
        });
        for (const row of found) {
          const [seqs, pduIds, times] = [
            row.seqs.split(','),
            row.pdu_ids.split(','),
            row.accepted_at.split(','),
          ];
          const places = seqs.map((seq, at) => ({ seq, pdu_id: pduIds[at]!, accepted_at: times[at]! }));
          fresh.set(row.destination, { txnId: row.txn_id, seqs, places });
        }
      }
      const claimed: Frozen[] = [];
      for (const row of rows) {
        const { destination, lane } = row;
        const before = failingOf(row);
        const recoveredAt = numberOf(row.recovered_at) ?? undefined;
        if (row.txn_id !== null) {
          const frozenAt = Number(row.txn_at);
          const seqs = row.txn_seqs ?? [];
          claimed.push({ destination, txnId: row.txn_id, frozenAt, seqs, lane, before, recoveredAt });
          continue;
        }
        const frozen = fresh.get(destination);
        if (frozen !== undefined)
          claimed.push({ destination, ...frozen, frozenAt: now, lane, before, recoveredAt });
      }
      const idle = thawed.filter((destination) => !fresh.has(destination));
      if (idle.length > 0) {
        await tx.query(
          `UPDATE sender_destinations
              SET state = 'idle', claim = NULL, due_at = NULL, failures = 0, failing_since = NULL, retry_at = NULL
            WHERE destination = ANY($1::text[])`,
          [idle],
        );
      }
      const parked = due.filter((row) => row.parked_at !== null).map((row) => row.destination);
      if (parked.length > 0) {
        await tx.query(
          `UPDATE sender_destinations SET state = 'parked', claim = NULL, due_at = NULL, retry_at = NULL
            WHERE destination = ANY($1::text[])`,
          [parked],
        );
      }
      const looked = { proven: 0, untried: 0, failing: 0 };
      for (const { lane } of due) looked[lane] += 1;
      return { frozen: claimed, looked };
    });
    return { transactions: await this.#load(frozen, claim, options.onProblem), looked };
  }

  async #load(
    frozen: readonly Frozen[],
    claim: string,
    onProblem: (what: string, cause: unknown) => void,
  ): Promise<readonly FrozenTransaction[]> {
    if (frozen.length === 0) return [];
    const read = await this.#placesOf(frozen.filter((one) => one.places === undefined));
    const placesOf = (one: Frozen) => one.places ?? read.get(one.destination) ?? [];
    const ids = new Set(frozen.flatMap((one) => placesOf(one).map((place) => place.pdu_id)));
    const pdus = await this.#pdusOf(ids, onProblem);
    return frozen.flatMap((one) => {
      const { destination, txnId, frozenAt, seqs, lane, before, recoveredAt } = one;
      const list = placesOf(one).flatMap(({ seq, pdu_id, accepted_at }): QueuedPdu[] => {
        const stored = pdus.get(pdu_id);
        return stored === undefined ? [] : [{ seq, ...stored, acceptedAt: Number(accepted_at) }];
      });
      const server = parseServerName(destination);
      // A transaction that is not whole must not go out under its ID.
      if (server === undefined || list.length !== seqs.length) {
        const cause = new Error(`${list.length} of ${seqs.length} PDUs of transaction ${txnId} are there`);
        onProblem(`read the transaction for ${destination}`, cause);
        return [];
      }
      return [{ destination: server, txnId, frozenAt, pdus: list, claim, lane, before, recoveredAt }];
    });
  }

  async #placesOf(frozen: readonly Frozen[]): Promise<ReadonlyMap<string, readonly Place[]>> {
    const places = new Map<string, Place[]>();
    if (frozen.length === 0) return places;
    const rows = await this.#database.query<Place & { readonly destination: string }>({
      name: 'sending-places',
      text: `SELECT q.destination, q.seq::text AS seq, q.pdu_id::text AS pdu_id, q.accepted_at::text AS accepted_at
         FROM unnest($1::text[], $2::bigint[]) AS m(destination, seq)
         JOIN sender_queue q ON q.destination = m.destination AND q.seq = m.seq
        ORDER BY q.destination, q.seq`,
      values: [
        frozen.flatMap(({ destination, seqs }) => seqs.map(() => destination)),
        frozen.flatMap(({ seqs }) => [...seqs]),
      ],
    });
    for (const row of rows) {
      const list = places.get(row.destination);
      if (list === undefined) places.set(row.destination, [row]);
      else list.push(row);
    }
    return places;
  }

  /** Each PDU is read once, however many destinations wait for it. */
  async #pdusOf(
    ids: ReadonlySet<string>,
    onProblem: (what: string, cause: unknown) => void,
  ): Promise<ReadonlyMap<string, StoredPdu>> {
    const found = new Map<string, StoredPdu>();
    for (const id of ids) {
      const known = this.#pdus.get(id);
      if (known !== undefined) found.set(id, known);
    }
    const missing = [...ids].filter((id) => !found.has(id));
    if (missing.length === 0) return found;
    const rows = await this.#database.query<{
      id: string;
      room_id: string;
      event_id: string;
      pdu: string;
      traceparent: string | null;
    }>(
      `SELECT id::text AS id, room_id, event_id, pdu, traceparent FROM sender_pdus WHERE id = ANY($1::bigint[])`,
      [missing],
    );
    for (const { id, room_id, event_id, pdu, traceparent } of rows) {
      try {
        const stored = {
          roomId: room_id,
          eventId: event_id,
          pdu: canonicalPdu(pdu),
          ...(traceparent === null ? {} : { traceparent }),
        };
        this.#pdus.set(id, stored);
        found.set(id, stored);
      } catch (cause) {
        onProblem(`read PDU ${event_id}`, cause);
      }
    }
    return found;
  }

  /**
   * Destinations have answered 200: their PDUs wait no longer, those with an error neither. Those that have more are
   * due at once. Leaves out what somebody has recorded already.
   */
  async delivered(deliveries: readonly Delivery[], now: number): Promise<void> {
    await this.#database.transaction(async (tx) => {
      const answered = await tx.query<{ destination: string }>({
        name: 'sending-lock-answered',
        text: LOCK_ANSWERED,
        values: [
          deliveries.map(({ transaction }) => transaction.destination),
          deliveries.map(({ transaction }) => transaction.txnId),
        ],
      });
      if (answered.length === 0) return;
      const ours = new Set<string>(answered.map(({ destination }) => destination));
      // Of two answers to one transaction the later counts.
      const byDestination = new Map(
        deliveries.map((delivery) => [delivery.transaction.destination, delivery]),
      );
      const recorded = [...byDestination.values()].filter(({ transaction }) =>
        ours.has(transaction.destination),
      );
      const errors = recorded.flatMap(({ transaction: { destination }, errors: each }) =>
        each.map((error) => ({ destination, ...error })),
      );
      await tx.query({
        name: 'sending-record-deliveries',
        text: RECORD_DELIVERIES,
        values: [
          recorded.map(({ transaction }) => transaction.destination),
          recorded.map(({ errors: each }) => {
            const last = each.at(-1);
            return last === undefined ? null : `${last.eventId}: ${last.error}`;
          }),
          String(now),
          errors.map(({ destination }) => destination),
          errors.map(({ roomId }) => roomId),
          errors.map(({ eventId }) => eventId),
          errors.map(({ error }) => error),
        ],
      });
    });
  }

  /**
   * Attempts have failed and their destinations are now in `state`, each reckoned from its `before`. Gives those of
   * which that was recorded; not among them is one that did not stand so: it has made contact since, was parked or
   * unparked by hand, or the claim is lost.
   */
  async failed(attempts: readonly FailedAttempt[]): Promise<ReadonlySet<string>> {
    const rows = attempts.map(({ transaction: { destination, claim }, before, state, error }) => {
      const [failing, retryAt] = 'retryAt' in state ? [state, state.retryAt] : [state.before, undefined];
      return { destination, claim, before, kind: state.kind, failing, retryAt, error };
    });
    const done = await this.#database.query<{ destination: string }>({
      name: 'sending-record-failures',
      text: RECORD_FAILURES,
      values: [
        rows.map(({ destination }) => destination),
        rows.map(({ claim }) => claim),
        rows.map(({ before }) => before?.failures ?? 0),
        rows.map(({ kind }) => kind),
        rows.map(({ failing }) => failing?.failures ?? 0),
        rows.map(({ failing }) => (failing === undefined ? null : String(failing.failingSince))),
        rows.map(({ retryAt }) => (retryAt === undefined ? null : String(retryAt))),
        rows.map(({ error }) => error),
        // Parked by hand: the only state without a time to try again.
        rows.map(({ retryAt }) => retryAt === undefined),
      ],
    });
    return new Set(done.map(({ destination }) => destination));
  }

  /**
   * The destinations are there, or an operator wants them tried: those that wait for a retry or are parked are due now,
   * and a failure under way is their first.
   */
  async contact(destinations: readonly string[], now: number): Promise<void> {
    await this.#database.query(
      `UPDATE sender_destinations AS d
          SET failures = 0, failing_since = NULL, retry_at = NULL, ${UNPARKED}
         FROM (SELECT destination FROM sender_destinations
                WHERE destination = ANY($1::text[]) AND (failures > 0 OR parked_at IS NOT NULL)
                ORDER BY destination FOR UPDATE) AS there
        WHERE d.destination = there.destination`,
      [[...destinations], String(now)],
    );
  }

  /** An operator wants nothing sent to it for now. What is under way is not cut off; nothing that waits is dropped. */
  async park(destination: string, now: number): Promise<void> {
    await this.#database.query(
      `UPDATE sender_destinations
          SET parked_at = $2::bigint,
              state = CASE WHEN claim IS NULL THEN 'parked' ELSE state END,
              due_at = CASE WHEN claim IS NULL THEN NULL ELSE due_at END,
              retry_at = CASE WHEN claim IS NULL THEN NULL ELSE retry_at END
        WHERE destination = $1 AND parked_at IS NULL`,
      [destination, String(now)],
    );
  }

  /** One that is parked, by hand or by its failures, is due now; any other stays as it is. */
  async unpark(destination: string, now: number): Promise<void> {
    await this.#database.query(
      `UPDATE sender_destinations AS d
          SET failures = CASE WHEN d.claim IS NULL THEN 0 ELSE d.failures END,
              failing_since = CASE WHEN d.claim IS NULL THEN NULL ELSE d.failing_since END,
              retry_at = CASE WHEN d.claim IS NULL THEN NULL ELSE d.retry_at END, ${UNPARKED}
        WHERE d.destination = ANY($1::text[]) AND (d.parked_at IS NOT NULL OR d.state = 'parked')`,
      [[destination], String(now)],
    );
  }

  /** Gives up claims whose outcome could not be recorded; of one destination, or all of a claim. */
  async release(claim: string, destination: string | undefined, now: number): Promise<void> {
    await this.#giveUp('claim = $2 AND ($3::text IS NULL OR destination = $3::text)', now, [
      claim,
      destination ?? null,
    ]);
  }

  /** Gives up all claims: the process that held them is gone. Only for one that has the database to itself. */
  async forgetClaims(now: number): Promise<void> {
    await this.#giveUp('claim IS NOT NULL', now, []);
  }

  async #giveUp(condition: string, now: number, values: readonly unknown[]): Promise<void> {
    await this.#database.query(
      `UPDATE sender_destinations
          SET claim = NULL, due_at = CASE WHEN parked_at IS NULL THEN $1::bigint END,
              state = CASE WHEN parked_at IS NOT NULL THEN 'parked'
                           WHEN failures = 0 THEN 'idle' ELSE 'backing-off' END,
              retry_at = CASE WHEN parked_at IS NULL AND failures > 0 THEN $1::bigint END
        WHERE ${condition}`,
      [String(now), ...values],
    );
  }

  /** When the next destination of each lane is due, claimed ones included; undefined for never. */
  async nextDue(): Promise<Record<Lane, number | undefined>> {
    const [row] = await this.#database.query<Record<Lane, string | null>>({
      name: 'sending-next-due',
      text: NEXT_DUE,
    });
    const dueAt = (lane: Lane) => numberOf(row?.[lane]) ?? undefined;
    return { proven: dueAt('proven'), untried: dueAt('untried'), failing: dueAt('failing') };
  }

  /**
   * Deletes what nobody needs any more: PDUs that no destination waits for, an hour after they came; messages a week
   * and errors a month old. In bounded statements, and a bounded number of them; what is left is for the next time.
   */
  async sweep(now: number, enough: () => boolean): Promise<void> {
    for (let batch = 0; batch < SWEEP_BATCHES && !enough(); batch += 1) {
      // Through all of them in turn, for those of a dead destination stay long and would be looked at every time.
      const window = await this.#database.query<{ id: string }>(
        `SELECT id::text AS id FROM sender_pdus WHERE id > $1::bigint ORDER BY sender_pdus.id LIMIT ${SWEEP_BATCH}`,
        [this.#sweptUpTo],
      );
      // Whoever queues a PDU again renews received_at under the row's lock, so this can't take it from under them.
      await this.#database.query(
        `DELETE FROM sender_pdus p WHERE p.id = ANY($1::bigint[]) AND p.received_at < $2::bigint
            AND NOT EXISTS (SELECT 1 FROM sender_queue q WHERE q.pdu_id = p.id)`,
        [window.map((row) => row.id), String(now - PDU_GRACE_MS)],
      );
      this.#sweptUpTo = window.length < SWEEP_BATCH ? '0' : (window.at(-1)?.id ?? '0');
      if (this.#sweptUpTo === '0') break;
    }
    const aged = [
      ['sender_messages', 'seen_at', MESSAGE_MEMORY_MS],
      ['sender_pdu_errors', 'answered_at', PDU_ERROR_MEMORY_MS],
    ] as const;
    for (const [table, column, memoryMs] of aged) {
      for (let batch = 0; batch < SWEEP_BATCHES && !enough(); batch += 1) {
        const gone = await this.#database.query(
          `DELETE FROM ${table} WHERE id IN (
             SELECT id FROM ${table} WHERE ${column} < $1::bigint ORDER BY ${column} LIMIT ${SWEEP_BATCH}
           ) RETURNING 1 AS gone`,
          [String(now - memoryMs)],
        );
        if (gone.length < SWEEP_BATCH) break;
      }
    }
  }
}

function nameOf(roomId: string, eventId: string): string {
  return `${roomId}\0${eventId}`;
}

function failingOf({ failures, failing_since }: ClaimedRow): Failing | undefined {
  return failures === 0 ? undefined : { failures, failingSince: Number(failing_since) };
}
