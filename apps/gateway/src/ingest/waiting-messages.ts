import { createHash } from 'node:crypto';
import type { MigrationInterface, QueryRunner } from 'typeorm';
import type { Database } from '@exeunt/database';
import type { ReceivedMessage } from '@exeunt/message-bus';
import type { RoomId } from '@exeunt/pdu';

/**
 * Messages of `exeunt.ingest.v1`, or what is left of them, that can't be judged yet. `place` is where the message stood
 * in the bus, hashed with its headers, so that a repeat makes no second row, and another message at the same place of a
 * topic that was made anew does; `message` is it as JSON. Times are milliseconds since the epoch.
 */
export class IngestWaiting1700000000010 implements MigrationInterface {
  readonly name = 'IngestWaiting1700000000010';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE ingest_waiting (
        room_id text COLLATE "C" NOT NULL,
        seq bigserial NOT NULL,
        place text COLLATE "C" NOT NULL,
        message text NOT NULL,
        since bigint NOT NULL,
        attempts integer NOT NULL,
        next_at bigint NOT NULL,
        PRIMARY KEY (room_id, seq),
        UNIQUE (room_id, place)
      )`);
    await runner.query(`CREATE INDEX ingest_waiting_due ON ingest_waiting (next_at)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE ingest_waiting`);
  }
}

/** A message that waits. */
export interface WaitingMessage {
  readonly roomId: RoomId;
  /** Opaque; later ones of a room came later. */
  readonly seq: string;
  /** When it first came. */
  readonly since: number;
  /** How often it was tried, from 1 on. */
  readonly attempts: number;
  /** When it is due to be tried again. */
  readonly nextAt: number;
}

/** Messages of one room that may wait at a time. */
const maxOfRoom = 1_000;

/** What waits, in PostgreSQL or PGlite. Rejects as the database does. */
export class WaitingMessages {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** How many wait, of all rooms. */
  async count(): Promise<number> {
    const [row] = await this.#database.query<{ waiting: string }>(
      'SELECT count(*) AS waiting FROM ingest_waiting',
    );
    return Number(row?.waiting ?? 0);
  }

  /** Whether any message of the room waits. */
  async holdsAnyOf(roomId: RoomId): Promise<boolean> {
    const rows = await this.#database.query({
      name: 'ingest-waiting-any',
      text: `SELECT 1 FROM ingest_waiting WHERE room_id = $1 LIMIT 1`,
      values: [roomId],
    });
    return rows.length > 0;
  }

  /** Keeps a message until `nextAt`; one that is kept already stays as it is. False where too many of the room wait. */
  async keep(roomId: RoomId, message: ReceivedMessage, now: number, nextAt: number): Promise<boolean> {
    const { topic, partition, offset, headers } = message;
    const place = createHash('sha256')
      .update(JSON.stringify([topic, partition, offset, headers]))
      .digest('base64url');
    const rows = await this.#database.query({
      name: 'ingest-waiting-keep',
      // Named again by the upsert, a row that was there before counts as kept.
      text: `INSERT INTO ingest_waiting AS kept (room_id, place, message, since, attempts, next_at)
        SELECT $1, $2, $3, $4::bigint, 1, $5::bigint
        WHERE (SELECT count(*) FROM ingest_waiting WHERE room_id = $1 AND place <> $2) < ${maxOfRoom}
        ON CONFLICT (room_id, place) DO UPDATE SET attempts = kept.attempts RETURNING seq`,
      values: [roomId, place, JSON.stringify(message), now, nextAt],
    });
    return rows.length > 0;
  }

  /** Rooms of which a message is due, at most `limit`, the longest due first. */
  async dueRooms(now: number, limit: number): Promise<readonly RoomId[]> {
    const rows = await this.#database.query<{ room_id: string }>({
      name: 'ingest-waiting-due',
      text: `SELECT room_id FROM ingest_waiting WHERE next_at <= $1 GROUP BY room_id ORDER BY min(next_at) LIMIT $2`,
      values: [now, limit],
    });
    return rows.map(({ room_id: roomId }) => roomId as RoomId);
  }

  /** What waits of a room, in the order in which it came; the messages themselves are a read each. */
  async ofRoom(roomId: RoomId): Promise<readonly WaitingMessage[]> {
    const rows = await this.#database.query<{
      seq: string;
      since: string;
      attempts: number;
      next_at: string;
    }>({
      name: 'ingest-waiting-of-room',
      text: `SELECT seq, since, attempts, next_at FROM ingest_waiting WHERE room_id = $1 ORDER BY seq`,
      values: [roomId],
    });
    return rows.map(({ seq, since, attempts, next_at: nextAt }) => ({
      roomId,
      seq: String(seq),
      since: Number(since),
      attempts,
      nextAt: Number(nextAt),
    }));
  }

  /** The message, or what is left of it; undefined where another process has done with it. */
  async read({ roomId, seq }: WaitingMessage): Promise<ReceivedMessage | undefined> {
    const [row] = await this.#database.query<{ message: string }>({
      name: 'ingest-waiting-read',
      text: `SELECT message FROM ingest_waiting WHERE room_id = $1 AND seq = $2::bigint`,
      values: [roomId, seq],
    });
    return row === undefined ? undefined : (JSON.parse(row.message) as ReceivedMessage);
  }

  /** It was tried again in vain, or this is what is left of it. */
  async keepOn(
    { roomId, seq, attempts }: WaitingMessage,
    left: ReceivedMessage,
    nextAt: number,
  ): Promise<void> {
    await this.#database.query({
      name: 'ingest-waiting-keep-on',
      text: `UPDATE ingest_waiting SET message = $3, attempts = $4, next_at = $5
        WHERE room_id = $1 AND seq = $2::bigint`,
      values: [roomId, seq, JSON.stringify(left), attempts + 1, nextAt],
    });
  }

  /** It waits no more. */
  async forget({ roomId, seq }: WaitingMessage): Promise<void> {
    await this.#database.query({
      name: 'ingest-waiting-forget',
      text: `DELETE FROM ingest_waiting WHERE room_id = $1 AND seq = $2::bigint`,
      values: [roomId, seq],
    });
  }
}
