import { setTimeout as delay } from 'node:timers/promises';
import type { MigrationInterface, QueryRunner } from 'typeorm';
import type { Database } from '@exeunt/database';
import type { EventId, RoomId, UserId } from '@exeunt/pdu';

/**
 * Invites that another server is being shown and the room does not have yet. `until`: ms since the epoch; a process
 * that died in between must not make anybody wait for its invite after that.
 */
export class InvitesUnderWay1700000000006 implements MigrationInterface {
  readonly name = 'InvitesUnderWay1700000000006';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE invites_under_way (
        room_id text COLLATE "C" NOT NULL,
        user_id text COLLATE "C" NOT NULL,
        event_id text COLLATE "C" NOT NULL,
        until bigint NOT NULL,
        PRIMARY KEY (room_id, user_id, event_id)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE invites_under_way`);
  }
}

/** An invite of ours that is shown to the invited server. */
interface ShownInvite {
  readonly roomId: RoomId;
  readonly userId: UserId;
  readonly eventId: EventId;
}

/** As long as two requests of the longest kind: v2, then v1. */
const longestMs = 120_000;
/** How long somebody is made to wait for an invite; less than what other servers give a request. */
const patienceMs = 10_000;
const lookEveryMs = 50;

/**
 * The invited server has the invite before the room does, for it signs it first. A bot that rejects at once would find
 * that it was never invited; with this, whoever is told so can wait for the invite instead. In the database, for the
 * rejection may come to another gateway.
 */
export class InvitesUnderWay {
  readonly #database: Database;
  readonly #now: () => number;

  constructor(database: Database, now: () => number) {
    this.#database = database;
    this.#now = now;
  }

  /** Runs `work`, during which the invited server may have the invite. */
  async during<T>({ roomId, userId, eventId }: ShownInvite, work: () => Promise<T>): Promise<T> {
    const key = [roomId, userId, eventId];
    const now = this.#now();
    await this.#database.query(
      `WITH expired AS (DELETE FROM invites_under_way WHERE room_id = $1 AND until <= $5)
       INSERT INTO invites_under_way (room_id, user_id, event_id, until) VALUES ($1, $2, $3, $4)`,
      [...key, now + longestMs, now],
    );
    try {
      return await work();
    } finally {
      // What came of the invite stands, whether or not this is told: the row runs out by itself.
      await this.#database
        .query(`DELETE FROM invites_under_way WHERE room_id = $1 AND user_id = $2 AND event_id = $3`, key)
        .catch(() => {});
    }
  }

  /**
   * Waits until no invite of the user to the room is under way, at most ten seconds. `false`, at once, where there was
   * none to wait for.
   */
  async settled(roomId: RoomId, userId: UserId): Promise<boolean> {
    const begun = performance.now();
    for (let waited = false; ; waited = true) {
      const [some] = await this.#database.query({
        name: 'invites-under-way',
        text: `SELECT 1 FROM invites_under_way WHERE room_id = $1 AND user_id = $2 AND until > $3 LIMIT 1`,
        values: [roomId, userId, this.#now()],
      });
      if (some === undefined || performance.now() - begun > patienceMs) return waited;
      await delay(lookEveryMs);
    }
  }
}
