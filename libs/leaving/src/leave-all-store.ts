import type { Database, Session } from '@exeunt/database';
import type { RoomId, UserId } from '@exeunt/pdu';
import type { LeavingKey } from './domain-events.js';

/** What a user is in a room that there is to leave. */
export const memberships = ['join', 'invite', 'knock'] as const;
export type MembershipToLeave = (typeof memberships)[number];

/** A user's leaving of every room, from the wish to its end. */
export interface LeaveAllRun {
  readonly userId: UserId;
  readonly leaveAllId: string;
  readonly reason: string | undefined;
  readonly include: readonly MembershipToLeave[];
  readonly status: 'running' | 'completed';
  /** How often the user's rooms were looked through to the end. */
  readonly sweeps: number;
  /** Ms since the epoch, as `completedAt`. */
  readonly startedAt: number;
  readonly completedAt: number | undefined;
}

/** A room that the run is to take its user out of. */
export interface RoomToLeave {
  readonly roomId: RoomId;
  readonly membership: MembershipToLeave;
}

/** A room whose turn it is. */
export interface DueRoom extends LeavingKey {
  readonly reason: string | undefined;
  /** How often it was tried and failed. */
  readonly attempts: number;
}

/** Why a user is not out of a room. */
export interface RoomSaid {
  /** The requirement that a refusal rests on; absent where something broke. */
  readonly rule?: string;
  readonly detail: string;
}

/** What became of a room's turn. */
export type RoomOutcome = LeavingKey &
  (
    | { readonly kind: 'left'; readonly leaveId: string }
    /** This server says no: it is not tried again. */
    | { readonly kind: 'refused'; readonly said: RoomSaid }
    /** Something broke, and may be whole at `dueAt`. */
    | { readonly kind: 'failed'; readonly said: RoomSaid; readonly attempts: number; readonly dueAt: number }
  );

/** How the rooms of a run stand. */
export interface LeaveAllCounts {
  readonly total: number;
  /** The user is still in. */
  readonly waiting: number;
  /** The user is out, as far as this server is concerned. */
  readonly left: number;
  /** Of those, the ones whose servers do not know yet. */
  readonly retrying: number;
  /** This server does not let the user out, or all of the room's servers refuse the leave. */
  readonly refused: number;
}

/** A room of a run that is not over and done with. */
export interface OpenRoom {
  readonly roomId: RoomId;
  readonly membership: MembershipToLeave;
  readonly status: 'waiting' | 'retrying' | 'refused';
  readonly leaveId?: string;
  /** Of `waiting` and `retrying`, ms since the epoch. */
  readonly nextAttemptAt?: number;
  readonly said?: RoomSaid;
}

interface RunRow {
  readonly user_id: string;
  readonly leave_all_id: string;
  readonly reason: string | null;
  readonly include: string[];
  readonly status: string;
  readonly sweeps: number;
  readonly started_at: string;
  readonly completed_at: string | null;
}

const runColumns = 'user_id, leave_all_id, reason, include, status, sweeps, started_at, completed_at';
const noRoomWaits = `NOT EXISTS (
  SELECT 1 FROM leave_all_rooms WHERE leave_all_rooms.user_id = leave_all_runs.user_id AND due_at IS NOT NULL)`;

/**
 * Runs of leave-all in PostgreSQL or PGlite. What a method resolved for is durable; two workers at once do each other
 * no harm. Rejects as the database does.
 */
export class LeaveAllStore {
  readonly #database: Database;
  readonly #listeners = new Set<() => void>();

  constructor(database: Database) {
    this.#database = database;
  }

  /** Begins a run, in the place of the one before; or gives the one that is running, as it is. */
  async begin(wish: {
    readonly userId: UserId;
    readonly leaveAllId: string;
    readonly reason: string | undefined;
    readonly include: readonly MembershipToLeave[];
    readonly now: number;
  }): Promise<LeaveAllRun> {
    const { userId, leaveAllId, reason, include, now } = wish;
    return this.#database.transaction(async (tx) => {
      const [begun] = await tx.query<RunRow>(
        `INSERT INTO leave_all_runs AS old (user_id, leave_all_id, reason, include, status, sweeps, started_at)
          VALUES ($1, $2, $3, $4::text[], 'running', 0, $5)
          ON CONFLICT (user_id) DO UPDATE SET leave_all_id = excluded.leave_all_id, reason = excluded.reason,
            include = excluded.include, status = 'running', sweeps = 0, started_at = excluded.started_at,
            completed_at = NULL
          WHERE old.status = 'completed' RETURNING ${runColumns}`,
        [userId, leaveAllId, reason === undefined ? null : JSON.stringify(reason), include, now],
      );
      if (begun !== undefined) {
        await tx.query(`DELETE FROM leave_all_rooms WHERE user_id = $1`, [userId]);
        return runOf(begun);
      }
      // It can't have completed meanwhile: the conflict has locked its row.
      return (await newestOf(tx, userId))!;
    });
  }

  /** The user's newest run. */
  newestOf(userId: UserId): Promise<LeaveAllRun | undefined> {
    return newestOf(this.#database, userId);
  }

  async countsOf({ userId }: LeaveAllRun): Promise<LeaveAllCounts> {
    const [row] = await this.#database.query<Record<keyof LeaveAllCounts, string>>(
      `SELECT count(*) AS total,
          count(*) FILTER (WHERE room.status = 'waiting') AS waiting,
          count(*) FILTER (WHERE room.status = 'left') AS left,
          count(*) FILTER (WHERE room.status = 'left' AND leave.status = 'retrying') AS retrying,
          count(*) FILTER (WHERE room.status = 'refused' OR leave.status = 'refused') AS refused
        FROM leave_all_rooms AS room LEFT JOIN leaving_leaves AS leave USING (leave_id) WHERE room.user_id = $1`,
      [userId],
    );
    const { total, waiting, left, retrying, refused } = row!;
    return {
      total: Number(total),
      waiting: Number(waiting),
      left: Number(left),
      retrying: Number(retrying),
      refused: Number(refused),
    };
  }

  /** Rooms that are not over and done with, in order of their IDs after `after`; at most `limit`. */
  async openRoomsOf(
    { userId }: LeaveAllRun,
    page: { readonly after: RoomId | undefined; readonly limit: number },
  ): Promise<readonly OpenRoom[]> {
    const rows = await this.#database.query<{
      room_id: string;
      membership: string;
      status: string;
      leave_id: string | null;
      next_at: string | null;
      said: string | null;
    }>(
      `SELECT room_id, membership, status, leave_id, next_at, said FROM (
          SELECT room.room_id, membership, leave_id, said, coalesce(due_at, next_attempt_at) AS next_at,
            CASE WHEN room.status = 'left' THEN leave.status ELSE room.status END AS status
          FROM leave_all_rooms AS room LEFT JOIN leaving_leaves AS leave USING (leave_id)
          WHERE room.user_id = $1 AND room.room_id > $2
        ) AS rooms
        WHERE status IN ('waiting', 'retrying', 'refused') ORDER BY room_id LIMIT $3`,
      [userId, page.after ?? '', page.limit],
    );
    return rows.map((row) => ({
      roomId: row.room_id as RoomId,
      membership: row.membership as MembershipToLeave,
      status: row.status as OpenRoom['status'],
      ...(row.leave_id === null ? {} : { leaveId: row.leave_id }),
      ...(row.next_at === null ? {} : { nextAttemptAt: Number(row.next_at) }),
      ...(row.said === null ? {} : { said: JSON.parse(row.said) as RoomSaid }),
    }));
  }

  /**
   * Adds rooms that the user was found in to a run that is running. One that the run has taken the user out of, and the
   * user is in again, waits once more; one that waits, or was refused, stays as it is. Gives how many wait anew.
   */
  async add(
    { userId, leaveAllId }: LeaveAllRun,
    rooms: readonly RoomToLeave[],
    now: number,
  ): Promise<number> {
    if (rooms.length === 0) return 0;
    const added = await this.#database.query({
      name: 'leave-all-add',
      text: `INSERT INTO leave_all_rooms AS old (user_id, room_id, membership, status, attempts, due_at)
        SELECT run.user_id, one.room_id, one.membership, 'waiting', 0, $3
        FROM (
            SELECT user_id FROM leave_all_runs
            WHERE user_id = $1 AND leave_all_id = $2 AND status = 'running' FOR UPDATE
          ) AS run, unnest($4::text[], $5::text[]) AS one(room_id, membership)
        ON CONFLICT (user_id, room_id) DO UPDATE
          SET membership = excluded.membership, status = 'waiting', attempts = 0, due_at = excluded.due_at
          WHERE old.status = 'left'
        RETURNING room_id`,
      values: [
        userId,
        leaveAllId,
        now,
        rooms.map(({ roomId }) => roomId),
        rooms.map(({ membership }) => membership),
      ],
    });
    if (added.length > 0) for (const listener of this.#listeners) listener();
    return added.length;
  }

  /** Rooms whose turn it is, of all runs, those first that wait longest; at most `limit`. */
  async due(now: number, limit: number): Promise<readonly DueRoom[]> {
    const rows = await this.#database.query<{
      user_id: string;
      room_id: string;
      attempts: number;
      reason: string | null;
    }>({
      name: 'leave-all-due',
      text: `SELECT user_id, room_id, attempts, reason FROM leave_all_rooms JOIN leave_all_runs USING (user_id)
        WHERE due_at <= $1 ORDER BY due_at, room_id LIMIT $2`,
      values: [now, limit],
    });
    return rows.map((row) => ({
      userId: row.user_id as UserId,
      roomId: row.room_id as RoomId,
      attempts: row.attempts,
      reason: reasonOf(row.reason),
    }));
  }

  /** When the next room is due; undefined where none waits. */
  async nextDue(): Promise<number | undefined> {
    const [row] = await this.#database.query<{ due_at: string | null }>({
      name: 'leave-all-next-due',
      text: `SELECT min(due_at) AS due_at FROM leave_all_rooms WHERE due_at IS NOT NULL`,
    });
    return row?.due_at == null ? undefined : Number(row.due_at);
  }

  /** Notes what became of rooms that waited; of others nothing. */
  async note(outcomes: readonly RoomOutcome[]): Promise<void> {
    await this.#database.query({
      name: 'leave-all-note',
      text: `UPDATE leave_all_rooms AS room SET status = one.status, attempts = one.attempts, due_at = one.due_at,
          leave_id = coalesce(one.leave_id, room.leave_id), said = one.said
        FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::bigint[], $6::text[], $7::text[])
          AS one(user_id, room_id, status, attempts, due_at, leave_id, said)
        WHERE room.user_id = one.user_id AND room.room_id = one.room_id AND room.due_at IS NOT NULL`,
      values: [
        outcomes.map(({ userId }) => userId),
        outcomes.map(({ roomId }) => roomId),
        outcomes.map(({ kind }) => (kind === 'failed' ? 'waiting' : kind)),
        outcomes.map((one) => (one.kind === 'failed' ? one.attempts : 0)),
        outcomes.map((one) => (one.kind === 'failed' ? one.dueAt : null)),
        outcomes.map((one) => (one.kind === 'left' ? one.leaveId : null)),
        outcomes.map((one) => (one.kind === 'left' ? null : JSON.stringify(one.said))),
      ],
    });
  }

  /** The oldest running run none of whose rooms waits: its user's rooms are to be looked through. Not of `except`. */
  async toSweep(except: readonly UserId[] = []): Promise<LeaveAllRun | undefined> {
    const [row] = await this.#database.query<RunRow>({
      name: 'leave-all-to-sweep',
      text: `SELECT ${runColumns} FROM leave_all_runs WHERE status = 'running' AND ${noRoomWaits}
        AND user_id <> ALL ($1::text[]) ORDER BY started_at LIMIT 1`,
      values: [except],
    });
    return row === undefined ? undefined : runOf(row);
  }

  /** The user's rooms were looked through to the end. */
  async swept({ userId, leaveAllId }: LeaveAllRun): Promise<void> {
    await this.#database.query(
      `UPDATE leave_all_runs SET sweeps = sweeps + 1 WHERE user_id = $1 AND leave_all_id = $2`,
      [userId, leaveAllId],
    );
  }

  /** Ends a run; does nothing where a room of it waits. */
  async complete({ userId, leaveAllId }: LeaveAllRun, now: number): Promise<void> {
    await this.#database.transaction(async (tx) => {
      // Whoever adds rooms takes this lock as well: what came before it is seen below, what comes after finds no run.
      await tx.query(`SELECT 1 FROM leave_all_runs WHERE user_id = $1 FOR UPDATE`, [userId]);
      await tx.query(
        `UPDATE leave_all_runs SET status = 'completed', completed_at = $3
          WHERE user_id = $1 AND leave_all_id = $2 AND status = 'running' AND ${noRoomWaits}`,
        [userId, leaveAllId, now],
      );
    });
  }

  /** Calls back whenever this process has added rooms. Gives back how to end that. */
  onAdded(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}

async function newestOf(session: Session, userId: UserId): Promise<LeaveAllRun | undefined> {
  const [row] = await session.query<RunRow>(`SELECT ${runColumns} FROM leave_all_runs WHERE user_id = $1`, [
    userId,
  ]);
  return row === undefined ? undefined : runOf(row);
}

function runOf(row: RunRow): LeaveAllRun {
  return {
    userId: row.user_id as UserId,
    leaveAllId: row.leave_all_id,
    reason: reasonOf(row.reason),
    include: row.include as MembershipToLeave[],
    status: row.status as LeaveAllRun['status'],
    sweeps: row.sweeps,
    startedAt: Number(row.started_at),
    completedAt: row.completed_at === null ? undefined : Number(row.completed_at),
  };
}

function reasonOf(stored: string | null): string | undefined {
  return stored === null ? undefined : (JSON.parse(stored) as string);
}
