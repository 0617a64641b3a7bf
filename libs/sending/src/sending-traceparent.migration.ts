import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The trace of the request that made a PDU accepted; null in rows of earlier releases, and where there was none. */
export class SendingTraceparent1700000000020 implements MigrationInterface {
  readonly name = 'SendingTraceparent1700000000020';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE sender_pdus ADD COLUMN traceparent text`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE sender_pdus DROP COLUMN traceparent`);
  }
}
