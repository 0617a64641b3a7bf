import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * What other servers' questions about the past are answered from: rooms by event ID alone, and redactions by what
 * they name. (docs/decisions/0013-serving-history.md)
 */
export class ServingHistory1767225600030 implements MigrationInterface {
  readonly name = 'ServingHistory1767225600030';

  async up(runner: QueryRunner): Promise<void> {
    // By hash: half of a B-tree's size, and nobody asks for an order. Not unique, so each shard can have its own.
    await runner.query(
      `CREATE INDEX room_log_event_anywhere ON room_log USING hash (event_id) WHERE event_id IS NOT NULL`,
    );
    await runner.query(`
      CREATE TABLE room_redactions (
        room_id text COLLATE "C" NOT NULL,
        redacts text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        PRIMARY KEY (room_id, redacts, position)
      )`);
    // Of redactions that are in the log already. As json: jsonb would refuse the numbers that a PDU may hold.
    await runner.query(String.raw`
      INSERT INTO room_redactions (room_id, redacts, position)
      SELECT room_id, named.redacts, position FROM (
        SELECT room_id, position, pdu::json AS pdu FROM room_log
        WHERE type = 'PduAccepted' AND payload::json ->> 'place' = 'graph'
          AND pdu LIKE '%"m.room.redaction"%' AND strpos(pdu, '\u0000') = 0
      ) AS logged
      CROSS JOIN LATERAL (
        SELECT logged.pdu ->> 'redacts' AS redacts UNION SELECT logged.pdu -> 'content' ->> 'redacts'
      ) AS named
      WHERE logged.pdu ->> 'type' = 'm.room.redaction' AND named.redacts LIKE '$%' AND length(named.redacts) <= 255`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE room_redactions`);
    await runner.query(`DROP INDEX room_log_event_anywhere`);
  }
}
