import type { Database } from '@exeunt/database';
import type { RoomId, UserId } from '@exeunt/pdu';
import { decodeLeavingEvent, encodeLeavingEvent } from './codec.js';
import { isLeavingRefusal, type LeavingDecision, type LeavingRefusal } from './decide.js';
import type { LeavingEvent, LeavingKey } from './domain-events.js';
import { isFactForTheBus } from './facts.js';
import { evolve, initialLeaving, type Leave, type LeaveStatus, type Leaving } from './leaving.js';

/** A stream, folded. */
export interface LoadedLeaving {
  readonly state: Leaving;
  /** Of the last domain event; 0 for a stream that does not exist yet. */
  readonly position: number;
  readonly events: readonly LeavingEvent[];
}

/** What an execution left behind. */
export interface LeavingOutcome {
  readonly state: Leaving;
  readonly events: readonly LeavingEvent[];
  readonly refusal?: LeavingRefusal;
}

/** A leave as the list shows it. */
export interface LeaveSummary extends LeavingKey {
  readonly leaveId: string;
  readonly status: LeaveStatus['kind'];
  readonly startedAt: number;
  readonly nextAttemptAt?: number;
  /** For the next page. */
  readonly seq: string;
}

/** A fact of the log that the bus has yet to be told. */
export interface FactToTell extends LeavingKey {
  /** Opaque; for {@link LeavingStore.told}. */
  readonly xid: string;
  readonly position: number;
  readonly event: LeavingEvent;
}

/** Appends to one stream collided again and again. */
export class LeavingContended extends Error {}

const maxAttempts = 20;

/**
 * Streams of the leaving side in PostgreSQL or PGlite. An append is one statement: the stream's row at the expected
 * position, log, leaves and outbox, or nothing. Rejects as the database does.
 */
export class LeavingStore {
  readonly #database: Database;
  readonly #listeners = new Set<() => void>();

  constructor(database: Database) {
    this.#database = database;
  }

  async load({ userId, roomId }: LeavingKey): Promise<LoadedLeaving> {
    const rows = await this.#database.query<{
      position: string;
      type: string;
      schema_version: number;
      payload: string;
    }>({
      name: 'leaving-load',
      text: `SELECT position, type, schema_version, payload FROM leaving_log
        WHERE user_id = $1 AND room_id = $2 ORDER BY position`,
      values: [userId, roomId],
    });
    const events = rows.map(({ type, schema_version: schemaVersion, payload }) =>
      decodeLeavingEvent({ type, schemaVersion, payload }),
    );
    return {
      events,
      position: Number(rows.at(-1)?.position ?? 0),
      state: events.reduce(evolve, initialLeaving),
    };
  }

  /** Loads, decides and appends; again where another was faster. What it gives is durable. */
  async execute(key: LeavingKey, decide: (state: Leaving) => LeavingDecision): Promise<LeavingOutcome> {
    for (let attempt = 1; attempt <= maxAttempts; attempt++) {
      const { state, position } = await this.load(key);
      const decision = decide(state);
      if (isLeavingRefusal(decision)) return { state, events: [], refusal: decision };
      if (decision.length === 0) return { state, events: [] };
      const after = decision.reduce(evolve, state);
      if (await this.#append(key, position, decision, state, after))
        return { state: after, events: decision };
    }
    throw new LeavingContended(`${key.userId} in ${key.roomId} did not hold still`);
  }

  /** Rooms in which an invite waits for the user. */
  async invitesOf(userId: UserId): Promise<readonly RoomId[]> {
    return this.#roomsOf(userId, 'has_invite');
  }

  /** Rooms in which a knock of the user waits. */
  async knocksOf(userId: UserId): Promise<readonly RoomId[]> {
    return this.#roomsOf(userId, 'has_knock');
  }

  /** The user's leaves that are not over, oldest first. */
  async underWayOf(userId: UserId): Promise<readonly LeaveSummary[]> {
    return this.#leaves(`WHERE user_id = $1 AND status = 'retrying' ORDER BY seq`, [userId]);
  }

  async find(leaveId: string): Promise<LeaveSummary | undefined> {
    return (await this.#leaves('WHERE leave_id = $1', [leaveId]))[0];
  }

  /** Leaves in the order in which they began, of one status or all, after `after`; at most `limit`. */
  async list(options: {
    readonly status: LeaveStatus['kind'] | undefined;
    readonly after: string | undefined;
    readonly limit: number;
  }): Promise<readonly LeaveSummary[]> {
    const { status, after, limit } = options;
    return status === undefined
      ? this.#leaves('WHERE seq > $1 ORDER BY seq LIMIT $2', [after ?? '0', limit])
      : this.#leaves('WHERE status = $3 AND seq > $1 ORDER BY seq LIMIT $2', [after ?? '0', limit, status]);
  }

  /** Takes streams that are due, at most `limit`: nobody else gets them until `claimUntil` or their release. */
  async claim(options: {
    readonly now: number;
    readonly limit: number;
    readonly claim: string;
    readonly claimUntil: number;
  }): Promise<readonly LeavingKey[]> {
    const rows = await this.#database.query<{ user_id: string; room_id: string }>({
      name: 'leaving-claim',
      text: `UPDATE leaving_streams AS stream SET claim = $3, due_at = $4 FROM (
          SELECT user_id, room_id FROM leaving_streams WHERE due_at <= $1
          ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ) AS due WHERE stream.user_id = due.user_id AND stream.room_id = due.room_id
        RETURNING stream.user_id, stream.room_id`,
      values: [options.now, options.limit, options.claim, options.claimUntil],
    });
    return rows.map((row) => ({ userId: row.user_id as UserId, roomId: row.room_id as RoomId }));
  }

  /** Gives a claimed stream back: it is due when its state says. */
  async release({ userId, roomId }: LeavingKey, claim: string): Promise<void> {
    await this.#database.query({
      name: 'leaving-release',
      text: `UPDATE leaving_streams SET claim = NULL, due_at = next_at
        WHERE user_id = $1 AND room_id = $2 AND claim = $3`,
      values: [userId, roomId, claim],
    });
  }

  /** Ends every claim: for a process that knows it is the only one. */
  async forgetClaims(): Promise<void> {
    await this.#database.query(
      `UPDATE leaving_streams SET claim = NULL, due_at = next_at WHERE claim IS NOT NULL`,
    );
  }

  /** When the next stream is due; undefined where none waits. */
  async nextDue(): Promise<number | undefined> {
    const [row] = await this.#database.query<{ due_at: string | null }>({
      name: 'leaving-next-due',
      text: `SELECT min(due_at) AS due_at FROM leaving_streams WHERE due_at IS NOT NULL`,
    });
    return row?.due_at == null ? undefined : Number(row.due_at);
  }

  /** The oldest facts that the bus has yet to be told, those of a stream in order; none that could be overtaken. */
  async toTell(limit: number): Promise<readonly FactToTell[]> {
    const rows = await this.#database.query<{
      user_id: string;
      room_id: string;
      position: string;
      xid: string;
      type: string;
      schema_version: number;
      payload: string;
    }>({
      name: 'leaving-to-tell',
      // As for the rooms' outbox: a row whose transaction is older than all under way can't be overtaken.
      text: `SELECT oldest.*, logged.type, logged.schema_version, logged.payload FROM (
          SELECT user_id, room_id, position, xid FROM leaving_outbox
          WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, position LIMIT $1
        ) AS oldest JOIN leaving_log AS logged USING (user_id, room_id, position)
        ORDER BY oldest.xid, oldest.position`,
      values: [limit],
    });
    return rows.map((row) => ({
      userId: row.user_id as UserId,
      roomId: row.room_id as RoomId,
      position: Number(row.position),
      xid: row.xid,
      event: decodeLeavingEvent({
        type: row.type,
        schemaVersion: row.schema_version,
        payload: row.payload,
      }),
    }));
  }

  /** Takes facts away that are durable in the bus. */
  async told(facts: readonly FactToTell[]): Promise<void> {
    await this.#database.query({
      name: 'leaving-told',
      text: `DELETE FROM leaving_outbox USING unnest($1::xid8[], $2::bigint[], $3::text[], $4::text[])
          AS told(xid, position, user_id, room_id)
        WHERE leaving_outbox.xid = told.xid AND leaving_outbox.position = told.position
          AND leaving_outbox.user_id = told.user_id AND leaving_outbox.room_id = told.room_id`,
      values: [
        facts.map(({ xid }) => xid),
        facts.map(({ position }) => position),
        facts.map(({ userId }) => userId),
        facts.map(({ roomId }) => roomId),
      ],
    });
  }

  /** Calls `listener` after each append of this process; gives back how to stop. */
  onAppend(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async #append(
    { userId, roomId }: LeavingKey,
    expected: number,
    events: readonly LeavingEvent[],
    before: Leaving,
    after: Leaving,
  ): Promise<boolean> {
    const position = expected + events.length;
    const nextAt = after.leave?.status.kind === 'retrying' ? after.leave.status.nextAttemptAt : null;
    const stored = events.map((event) => encodeLeavingEvent(event));
    const leaves = changedLeaves(before, events);
    const facts = events.flatMap((event, at) => (isFactForTheBus(event) ? [expected + at + 1] : []));
    const rows = await this.#database.query({
      name: expected === 0 ? 'leaving-append-first' : 'leaving-append',
      text: `WITH entered AS (${expected === 0 ? create : move}),
        logged AS (
          INSERT INTO leaving_log (user_id, room_id, position, type, schema_version, payload)
          SELECT user_id, room_id, $4::bigint - $6::bigint + one.nth, one.type, one.schema_version, one.payload
          FROM entered, unnest($7::text[], $8::integer[], $9::text[])
            WITH ORDINALITY AS one(type, schema_version, payload, nth)
        ),
        leaves AS (
          INSERT INTO leaving_leaves AS old (leave_id, user_id, room_id, status, started_at, next_attempt_at)
          SELECT one.leave_id, user_id, room_id, one.status, one.started_at, one.next_attempt_at
          FROM entered, unnest($10::text[], $11::text[], $12::bigint[], $13::bigint[])
            AS one(leave_id, status, started_at, next_attempt_at)
          ON CONFLICT (leave_id) DO UPDATE
            SET status = excluded.status, next_attempt_at = excluded.next_attempt_at
        ),
        facts AS (
          INSERT INTO leaving_outbox (user_id, room_id, position)
          SELECT user_id, room_id, one.position FROM entered, unnest($14::bigint[]) AS one(position)
        )
        SELECT user_id FROM entered`,
      values: [
        userId,
        roomId,
        after.invite !== undefined,
        position,
        nextAt,
        events.length,
        stored.map(({ type }) => type),
        stored.map(({ schemaVersion }) => schemaVersion),
        stored.map(({ payload }) => payload),
        leaves.map(({ leaveId }) => leaveId),
        leaves.map(({ status }) => status.kind),
        leaves.map(({ startedAt }) => startedAt),
        leaves.map(({ status }) => (status.kind === 'retrying' ? status.nextAttemptAt : null)),
        facts,
        after.knock !== undefined,
      ],
    });
    if (rows.length === 0) return false;
    for (const listener of this.#listeners) listener();
    return true;
  }

  async #roomsOf(userId: UserId, what: 'has_invite' | 'has_knock'): Promise<readonly RoomId[]> {
    const rows = await this.#database.query<{ room_id: string }>(
      `SELECT room_id FROM leaving_streams WHERE user_id = $1 AND ${what} ORDER BY room_id`,
      [userId],
    );
    return rows.map(({ room_id: roomId }) => roomId as RoomId);
  }

  async #leaves(where: string, values: readonly unknown[]): Promise<readonly LeaveSummary[]> {
    const rows = await this.#database.query<{
      leave_id: string;
      seq: string;
      user_id: string;
      room_id: string;
      status: string;
      started_at: string;
      next_attempt_at: string | null;
    }>(
      `SELECT leave_id, seq, user_id, room_id, status, started_at, next_attempt_at FROM leaving_leaves ${where}`,
      values,
    );
    return rows.map((row) => ({
      leaveId: row.leave_id,
      seq: row.seq,
      userId: row.user_id as UserId,
      roomId: row.room_id as RoomId,
      status: row.status as LeaveStatus['kind'],
      startedAt: Number(row.started_at),
      ...(row.next_attempt_at === null ? {} : { nextAttemptAt: Number(row.next_attempt_at) }),
    }));
  }
}

const create = `INSERT INTO leaving_streams (user_id, room_id, position, has_invite, has_knock, next_at, due_at)
  VALUES ($1, $2, $4::bigint, $3::boolean, $15::boolean, $5::bigint, $5::bigint) ON CONFLICT DO NOTHING RETURNING user_id, room_id`;
/** A claimed stream stays its claimer's: what it is due for waits in `next_at`. */
const move = `UPDATE leaving_streams SET position = $4::bigint, has_invite = $3::boolean, has_knock = $15::boolean,
    next_at = $5::bigint, due_at = CASE WHEN claim IS NULL THEN $5::bigint ELSE due_at END
  WHERE user_id = $1 AND room_id = $2 AND position = $4::bigint - $6::bigint RETURNING user_id, room_id`;

/** Each leave that the events begin or change, as it then stands. */
function changedLeaves(before: Leaving, events: readonly LeavingEvent[]): readonly Leave[] {
  const changed = new Map<string, Leave>();
  let state = before;
  for (const event of events) {
    state = evolve(state, event);
    if ('leaveId' in event && state.leave?.leaveId === event.leaveId) changed.set(event.leaveId, state.leave);
  }
  return [...changed.values()];
}
