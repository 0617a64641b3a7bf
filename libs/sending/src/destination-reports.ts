import type { Database } from '@exeunt/database';
import type { ServerName } from '@exeunt/pdu';
import type { DestinationState, Parked } from './destination-state.js';
import { numberOf } from './stored-number.js';

/** A PDU that a destination answered it could not take. Final: it is not sent again. (TX-06) */
export interface PduError {
  readonly roomId: string;
  readonly eventId: string;
  /** The destination's words, cut to 500 characters. */
  readonly error: string;
}

/** How a destination fares, in the shape of the platform API. Times are ms since the epoch. */
export interface DestinationStatus {
  readonly destination: ServerName;
  readonly state: DestinationState['kind'];
  /** PDUs it has not acknowledged, those under way included. */
  readonly pending: number;
  /** PDUs of the transaction that is under way now; 0 while it waits. */
  readonly in_flight: number;
  /** In a row. */
  readonly failures: number;
  /** The first of them; null where there are none. */
  readonly failing_since: number | null;
  /**
   * When it is tried again by itself; null where nothing keeps it from being tried at once, or an operator has parked
   * it.
   */
  readonly retry_at: number | null;
  /** `failures`: for days. `operator`: by hand, also while what is under way ends. Null where it is not parked. */
  readonly parked_by: Parked['by'] | null;
  /** Since when an operator has it parked. */
  readonly parked_at: number | null;
  readonly last_success_at: number | null;
  /** The last thing that went wrong, kept after it went well again. */
  readonly last_error: string | null;
}

/** All there is to know of a destination. */
export interface DestinationDetails extends DestinationStatus {
  /** When the oldest PDU it has not acknowledged was accepted. */
  readonly oldest_accepted_at: number | null;
  /** The transaction that is repeated unchanged until its 200; null where none has gone out. */
  readonly transaction: {
    readonly txn_id: string;
    readonly frozen_at: number;
    readonly pdus: readonly { readonly room_id: string; readonly event_id: string }[];
  } | null;
  /** What it said of single PDUs it could not take within the last month, newest first, at most 20. */
  readonly pdu_errors: readonly {
    readonly room_id: string;
    readonly event_id: string;
    readonly error: string;
    readonly answered_at: number;
  }[];
}

/** Which destinations of a list. */
export interface DestinationFilter {
  /** Whoever has this state. */
  readonly state?: DestinationState['kind'];
  /** Those alone that something waits for. */
  readonly pendingOnly?: boolean;
}

const SHOWN_PDU_ERRORS = 20;

/** How destinations fare, for operators and metrics. Reads what `DestinationQueue` writes, and changes nothing. */
export class DestinationReports {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Undefined for a server we have never had anything for. */
  async status(destination: string): Promise<DestinationStatus | undefined> {
    return (await this.#statuses('d.destination = $1', [destination]))[0];
  }

  /** Undefined for a server we have never had anything for. */
  async details(destination: string): Promise<DestinationDetails | undefined> {
    const status = await this.status(destination);
    if (status === undefined) return undefined;
    const [row] = await this.#database.query<{
      txn_id: string | null;
      txn_at: string | null;
      oldest_accepted_at: string | null;
    }>(
      `SELECT txn_id, txn_at::text AS txn_at,
              (SELECT accepted_at FROM sender_queue q WHERE q.destination = d.destination ORDER BY seq LIMIT 1)::text
                AS oldest_accepted_at
         FROM sender_destinations d WHERE destination = $1`,
      [destination],
    );
    const pdus = await this.#database.query<{ room_id: string; event_id: string }>(
      `SELECT p.room_id, p.event_id
         FROM (SELECT destination, unnest(txn_seqs) AS seq FROM sender_destinations WHERE destination = $1) AS t
         JOIN sender_queue q ON q.destination = t.destination AND q.seq = t.seq
         JOIN sender_pdus p ON p.id = q.pdu_id
        ORDER BY q.seq`,
      [destination],
    );
    const errors = await this.pduErrors(destination, SHOWN_PDU_ERRORS);
    const txnId = row?.txn_id ?? undefined;
    return {
      ...status,
      oldest_accepted_at: numberOf(row?.oldest_accepted_at),
      transaction: txnId === undefined ? null : { txn_id: txnId, frozen_at: Number(row?.txn_at), pdus },
      pdu_errors: errors.map(({ roomId, eventId, error, answeredAt }) => ({
        room_id: roomId,
        event_id: eventId,
        error,
        answered_at: answeredAt,
      })),
    };
  }

  /**
   * In order of server name by code point, after `after`; at most `limit`. With a filter it looks at each destination
   * at most once, and counts what waits for those alone that it gives.
   */
  async list(
    options: { readonly after?: string; readonly limit: number } & DestinationFilter,
  ): Promise<DestinationStatus[]> {
    const condition = `($1::text IS NULL OR d.destination > $1::text) AND ($3::text IS NULL OR d.state = $3::text)
         AND (NOT $4::boolean
              OR (SELECT 1 FROM sender_queue q WHERE q.destination = d.destination LIMIT 1) IS NOT NULL)
       ORDER BY d.destination LIMIT $2::int`;
    const { after = null, limit, state = null, pendingOnly = false } = options;
    return await this.#statuses(condition, [after, limit, state, pendingOnly]);
  }

  async #statuses(condition: string, values: unknown[]): Promise<DestinationStatus[]> {
    const rows = await this.#database.query<{
      destination: string;
      state: DestinationState['kind'];
      pending: string;
      in_flight: number;
      failures: number;
      failing_since: string | null;
      retry_at: string | null;
      parked_at: string | null;
      last_success_at: string | null;
      last_error: string | null;
    }>(
      `SELECT destination, state, failures, retry_at::text AS retry_at, last_error,
              failing_since::text AS failing_since, parked_at::text AS parked_at,
              last_success_at::text AS last_success_at,
              (SELECT count(*) FROM sender_queue q WHERE q.destination = d.destination)::text AS pending,
              CASE WHEN claim IS NULL THEN 0 ELSE coalesce(array_length(txn_seqs, 1), 0) END AS in_flight
         FROM (SELECT * FROM sender_destinations d WHERE ${condition}) AS d
        ORDER BY destination`,
      values,
    );
    return rows.map((row) => ({
      destination: row.destination as ServerName,
      state: row.state,
      pending: Number(row.pending),
      in_flight: row.in_flight,
      failures: row.failures,
      failing_since: numberOf(row.failing_since),
      retry_at: numberOf(row.retry_at),
      parked_by: row.parked_at !== null ? 'operator' : row.state === 'parked' ? 'failures' : null,
      parked_at: numberOf(row.parked_at),
      last_success_at: numberOf(row.last_success_at),
      last_error: row.last_error,
    }));
  }

  /** How many destinations are in each state. Looks at each of them. */
  async countByState(): Promise<Record<DestinationState['kind'], number>> {
    const rows = await this.#database.query<{ state: DestinationState['kind']; destinations: string }>(
      `SELECT state, count(*)::text AS destinations FROM sender_destinations GROUP BY state`,
    );
    const counts = { idle: 0, sending: 0, 'backing-off': 0, parked: 0 };
    for (const { state, destinations } of rows) counts[state] = Number(destinations);
    return counts;
  }

  /** How many PDUs wait, each counted once a destination. Exact, so it takes a fraction of a second a million. */
  async countPending(): Promise<number> {
    const [row] = await this.#database.query<{ pending: string }>(
      `SELECT count(*)::text AS pending FROM sender_queue`,
    );
    return Number(row?.pending ?? 0);
  }

  /** What the destination said of single PDUs it could not take, newest first. Kept for a month. */
  async pduErrors(
    destination: string,
    limit: number,
  ): Promise<(PduError & { readonly answeredAt: number })[]> {
    const rows = await this.#database.query<{
      room_id: string;
      event_id: string;
      error: string;
      answered_at: string;
    }>(
      `SELECT room_id, event_id, error, answered_at::text AS answered_at FROM sender_pdu_errors
        WHERE destination = $1 ORDER BY id DESC LIMIT $2::int`,
      [destination, limit],
    );
    return rows.map((row) => ({
      roomId: row.room_id,
      eventId: row.event_id,
      error: row.error,
      answeredAt: Number(row.answered_at),
    }));
  }
}
