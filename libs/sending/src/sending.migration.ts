import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * What the sender has to remember.
 *
 * - `sender_messages`: messages of the bus that were taken in, so that a repeat is recognised after its PDU has long
 *   been delivered.
 * - `sender_pdus`: each PDU once, for as long as a destination waits for it.
 * - `sender_queue`: a row a PDU and destination, in the order of `seq`, until the destination has answered 200.
 * - `sender_destinations`: how each destination fares, when to look at it next (`due_at`, null for nothing to do;
 *   while a worker has it, when its claim ends), and the transaction that is frozen until its 200.
 * - `sender_pdu_errors`: PDUs that a destination said it could not take.
 *
 * Times are milliseconds since the epoch.
 */
export class Sending1700000000003 implements MigrationInterface {
  readonly name = 'Sending1700000000003';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE sender_messages (
        id text COLLATE "C" PRIMARY KEY,
        seen_at bigint NOT NULL
      )`);
    await runner.query(`CREATE INDEX sender_messages_seen ON sender_messages (seen_at)`);
    await runner.query(`
      CREATE TABLE sender_pdus (
        id bigserial PRIMARY KEY,
        room_id text COLLATE "C" NOT NULL,
        event_id text COLLATE "C" NOT NULL,
        pdu text NOT NULL,
        received_at bigint NOT NULL,
        UNIQUE (room_id, event_id)
      )`);
    await runner.query(`
      CREATE TABLE sender_queue (
        destination text COLLATE "C" NOT NULL,
        seq bigserial NOT NULL,
        pdu_id bigint NOT NULL,
        accepted_at bigint NOT NULL,
        PRIMARY KEY (destination, seq)
      )`);
    await runner.query(`CREATE UNIQUE INDEX sender_queue_pdu ON sender_queue (pdu_id, destination)`);
    await runner.query(`
      CREATE TABLE sender_destinations (
        destination text COLLATE "C" PRIMARY KEY,
        state text NOT NULL DEFAULT 'idle',
        due_at bigint,
        claim text,
        failures integer NOT NULL DEFAULT 0,
        failing_since bigint,
        retry_at bigint,
        last_success_at bigint,
        last_error text,
        txn_id text,
        txn_at bigint,
        txn_seqs bigint[]
      ) WITH (fillfactor = 70)`);
    // Two lanes: destinations that fail must not stand before those that don't.
    await runner.query(
      `CREATE INDEX sender_destinations_due ON sender_destinations (due_at)
        WHERE due_at IS NOT NULL AND failures = 0`,
    );
    await runner.query(
      `CREATE INDEX sender_destinations_failing ON sender_destinations (due_at)
        WHERE due_at IS NOT NULL AND failures > 0`,
    );
    await runner.query(`
      CREATE TABLE sender_pdu_errors (
        id bigserial PRIMARY KEY,
        destination text COLLATE "C" NOT NULL,
        room_id text COLLATE "C" NOT NULL,
        event_id text COLLATE "C" NOT NULL,
        txn_id text NOT NULL,
        error text NOT NULL,
        answered_at bigint NOT NULL
      )`);
    await runner.query(
      `CREATE INDEX sender_pdu_errors_destination ON sender_pdu_errors (destination, id DESC)`,
    );
    await runner.query(`CREATE INDEX sender_pdu_errors_answered ON sender_pdu_errors (answered_at)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const table of ['pdu_errors', 'destinations', 'queue', 'pdus', 'messages']) {
      await runner.query(`DROP TABLE sender_${table}`);
    }
  }
}
