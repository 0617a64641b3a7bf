import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Leaving everything. Keys begin with the user, as all of the leaving side's do; a user has the newest run alone.
 *
 * - `leave_all_runs`: a row a user. `reason` is a JSON string; `sweeps` counts how often the user's rooms were looked
 *   through to the end.
 * - `leave_all_rooms`: a row a room of the run. `due_at` is set while the room waits to be left, `leave_id` once it is,
 *   `said` (JSON) where it could not be.
 *
 * Times are milliseconds since the epoch.
 */
export class LeaveAll1700000000050 implements MigrationInterface {
  readonly name = 'LeaveAll1700000000050';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE leave_all_runs (
        user_id text COLLATE "C" PRIMARY KEY,
        leave_all_id text COLLATE "C" NOT NULL,
        reason text,
        include text[] NOT NULL,
        status text NOT NULL,
        sweeps integer NOT NULL,
        started_at bigint NOT NULL,
        completed_at bigint
      )`);
    await runner.query(
      `CREATE INDEX leave_all_runs_running ON leave_all_runs (started_at) WHERE status = 'running'`,
    );
    await runner.query(`
      CREATE TABLE leave_all_rooms (
        user_id text COLLATE "C" NOT NULL,
        room_id text COLLATE "C" NOT NULL,
        membership text NOT NULL,
        status text NOT NULL,
        attempts integer NOT NULL,
        due_at bigint,
        leave_id text COLLATE "C",
        said text,
        PRIMARY KEY (user_id, room_id)
      ) WITH (fillfactor = 70)`);
    await runner.query(
      `CREATE INDEX leave_all_rooms_due ON leave_all_rooms (due_at, room_id) WHERE due_at IS NOT NULL`,
    );
    await runner.query(
      `CREATE INDEX leave_all_rooms_waiting ON leave_all_rooms (user_id) WHERE due_at IS NOT NULL`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE leave_all_rooms, leave_all_runs`);
  }
}
