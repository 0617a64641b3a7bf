import { ApiError, type OperatorApi } from './operator-api.js';

/** A destination as `GET /v1/destinations` gives it. Times are milliseconds since the epoch. */
export interface Destination {
  readonly destination: string;
  readonly state: 'idle' | 'sending' | 'backing-off' | 'parked';
  readonly pending: number;
  readonly in_flight: number;
  readonly failures: number;
  readonly failing_since: number | null;
  readonly retry_at: number | null;
  readonly parked_by: 'failures' | 'operator' | null;
  readonly parked_at: number | null;
  readonly last_success_at: number | null;
  readonly last_error: string | null;
}

/** A destination as `GET /v1/destinations/{server}` gives it. */
export interface DestinationDetails extends Destination {
  readonly oldest_accepted_at: number | null;
  readonly transaction: {
    readonly txn_id: string;
    readonly frozen_at: number;
    readonly pdus: readonly { readonly room_id: string; readonly event_id: string }[];
  } | null;
  readonly pdu_errors: readonly {
    readonly room_id: string;
    readonly event_id: string;
    readonly error: string;
    readonly answered_at: number;
  }[];
}

export interface DestinationFilter {
  readonly state?: string | undefined;
  /** Those alone that something waits for. */
  readonly pending?: boolean | undefined;
}

const PAGE = 500;

/** All destinations that the filter takes, in order of their names; read page by page. */
export async function destinations(
  api: OperatorApi,
  { state, pending }: DestinationFilter = {},
): Promise<Destination[]> {
  const query = new URLSearchParams({ limit: String(PAGE) });
  if (state !== undefined) query.set('state', state);
  if (pending === true) query.set('pending', 'true');
  const all: Destination[] = [];
  for (;;) {
    const page = await ask<{ readonly destinations: readonly Destination[]; readonly next?: string }>(
      api,
      'GET',
      `?${query}`,
    );
    all.push(...page.destinations);
    if (page.next === undefined) return all;
    query.set('from', page.next);
  }
}

export function destination(api: OperatorApi, server: string): Promise<DestinationDetails> {
  return ask(api, 'GET', `/${encodeURIComponent(server)}`);
}

/** Has the sender act on a destination, and gives how it stands then. */
export function act(
  api: OperatorApi,
  server: string,
  action: 'retry' | 'park' | 'unpark',
): Promise<DestinationDetails> {
  return ask(api, 'POST', `/${encodeURIComponent(server)}/${action}`);
}

/** A gateway whose sender is another process does not have the routes at all. */
async function ask<Answer>(api: OperatorApi, method: 'GET' | 'POST', rest: string): Promise<Answer> {
  try {
    return await api.call<Answer>(method, `/v1/destinations${rest}`);
  } catch (cause) {
    if (!(cause instanceof ApiError) || cause.errcode !== 'M_UNRECOGNIZED') throw cause;
    throw new Error(
      `${api.url} is a gateway that does not send; ask a federation-sender of the same database instead, ` +
        `with --url http://HOST:8091 (its EXEUNT_SENDER_HOST and EXEUNT_SENDER_PORT)`,
      { cause },
    );
  }
}
