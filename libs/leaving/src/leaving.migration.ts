import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The leaving side. Keys begin with the user: a stream is one user and one room, and no append spans two.
 *
 * - `leaving_streams`: a row a stream, with the position that appends compare; what of it is due when. While a worker
 *   has it (`claim`), `due_at` is when the claim runs out and `next_at` what comes after.
 * - `leaving_log`: the domain events.
 * - `leaving_leaves`: each leave, so that it can be found by its ID and listed by status.
 * - `leaving_outbox`: facts that the bus has yet to be told.
 *
 * Times are milliseconds since the epoch.
 */
export class Leaving1700000000004 implements MigrationInterface {
  readonly name = 'Leaving1700000000004';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE leaving_streams (
        user_id text COLLATE "C" NOT NULL,
        room_id text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        has_invite boolean NOT NULL,
        next_at bigint,
        due_at bigint,
        claim text,
        PRIMARY KEY (user_id, room_id)
      ) WITH (fillfactor = 70)`);
    await runner.query(
      `CREATE INDEX leaving_streams_due ON leaving_streams (due_at) WHERE due_at IS NOT NULL`,
    );
    await runner.query(`
      CREATE TABLE leaving_log (
        user_id text COLLATE "C" NOT NULL,
        room_id text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        type text NOT NULL,
        schema_version integer NOT NULL,
        payload text NOT NULL,
        logged_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (user_id, room_id, position)
      )`);
    await runner.query(`
      CREATE TABLE leaving_leaves (
        leave_id text COLLATE "C" PRIMARY KEY,
        seq bigserial NOT NULL UNIQUE,
        user_id text COLLATE "C" NOT NULL,
        room_id text COLLATE "C" NOT NULL,
        status text NOT NULL,
        started_at bigint NOT NULL,
        next_attempt_at bigint
      ) WITH (fillfactor = 70)`);
    await runner.query(`CREATE INDEX leaving_leaves_status ON leaving_leaves (status, seq)`);
    await runner.query(
      `CREATE INDEX leaving_leaves_under_way ON leaving_leaves (user_id) WHERE status = 'retrying'`,
    );
    await runner.query(`
      CREATE TABLE leaving_outbox (
        user_id text COLLATE "C" NOT NULL,
        room_id text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        xid xid8 NOT NULL DEFAULT pg_current_xact_id()
      )`);
    await runner.query(`CREATE INDEX leaving_outbox_order ON leaving_outbox (xid, position)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE leaving_outbox, leaving_leaves, leaving_log, leaving_streams`);
  }
}

/** Streams in which a knock of the user waits. */
export class LeavingKnocks1700000000010 implements MigrationInterface {
  readonly name = 'LeavingKnocks1700000000010';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE leaving_streams ADD COLUMN has_knock boolean NOT NULL DEFAULT false`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE leaving_streams DROP COLUMN has_knock`);
  }
}

/** The tables of the leaving side, in order. */
export const leavingMigrations = [Leaving1700000000004, LeavingKnocks1700000000010] as const;
