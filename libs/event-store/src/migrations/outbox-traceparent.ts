import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The trace of the request that made a PDU accepted; null in rows of earlier releases, and where there was none. */
export class OutboxTraceparent1767225600020 implements MigrationInterface {
  readonly name = 'OutboxTraceparent1767225600020';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE outbox ADD COLUMN traceparent text`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE outbox DROP COLUMN traceparent`);
  }
}
