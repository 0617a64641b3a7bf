import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Two more things of a destination, both null at first and both milliseconds since the epoch.
 *
 * - `parked_at`: since when an operator has it parked. At rest such a row has no `due_at`; while a worker has it, it
 *   has one, as any other.
 * - `recovered_at`: when it last came out of failing or of being parked: what was accepted before then had to wait for
 *   that.
 */
export class SendingParking1700000000030 implements MigrationInterface {
  readonly name = 'SendingParking1700000000030';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(
      `ALTER TABLE sender_destinations ADD COLUMN parked_at bigint, ADD COLUMN recovered_at bigint`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE sender_destinations DROP COLUMN parked_at, DROP COLUMN recovered_at`);
  }
}
