import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The room log, what is derived from it in the same transaction, and the outbox. Every key begins with the room ID,
 * and identifiers sort by code point, the same everywhere.
 */
export class RoomLog1767225600000 implements MigrationInterface {
  readonly name = 'RoomLog1767225600000';

  async up(runner: QueryRunner): Promise<void> {
    // Each append rewrites the room's row. With space left on its page and no index on what changes, the new version
    // stays on the page (HOT) and no index is touched.
    await runner.query(`
      CREATE TABLE rooms (
        room_id text COLLATE "C" PRIMARY KEY,
        room_version text NOT NULL,
        position bigint NOT NULL,
        header text NOT NULL,
        extremities text
      ) WITH (fillfactor = 50)`);
    await runner.query(`
      CREATE TABLE room_log (
        room_id text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        schema_version integer NOT NULL,
        logged_at timestamptz NOT NULL DEFAULT now(),
        type text NOT NULL,
        event_id text COLLATE "C",
        payload text NOT NULL,
        changes text,
        pdu text,
        auth_event_ids text[] COLLATE "C",
        PRIMARY KEY (room_id, position)
      )`);
    // With the position, so that the newest of an event is never looked for backwards through the room's log.
    await runner.query(
      `CREATE INDEX room_log_event ON room_log (room_id, event_id, position) WHERE event_id IS NOT NULL`,
    );
    await runner.query(`
      CREATE TABLE room_state (
        room_id text COLLATE "C" NOT NULL,
        type text COLLATE "C" NOT NULL,
        state_key text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        event_id text COLLATE "C"
      )`);
    // Newest first, so that a page of the state at a position is one pass over the index.
    await runner.query(
      `CREATE UNIQUE INDEX room_state_history ON room_state (room_id, type, state_key, position DESC)`,
    );
    await runner.query(`
      CREATE TABLE room_residents (
        room_id text COLLATE "C" NOT NULL,
        server text COLLATE "C" NOT NULL,
        joined bigint NOT NULL,
        PRIMARY KEY (room_id, server)
      ) WITH (fillfactor = 70)`);
    await runner.query(`
      CREATE TABLE room_placed (
        room_id text COLLATE "C" NOT NULL,
        event_id text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        PRIMARY KEY (room_id, event_id, position)
      )`);
    // No key beyond the one index: a transaction is one append to one room, so that (xid, position) names a row.
    await runner.query(`
      CREATE TABLE outbox (
        room_id text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        destinations text NOT NULL
      ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)`);
    await runner.query(`CREATE INDEX outbox_order ON outbox (xid, position)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE outbox, room_placed, room_residents, room_state, room_log, rooms`);
  }
}
