import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Destinations that nothing has ever been delivered to are found apart from those that answered the last time. */
export class SenderLanes1700000000040 implements MigrationInterface {
  readonly name = 'SenderLanes1700000000040';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP INDEX sender_destinations_due`);
    await runner.query(
      `CREATE INDEX sender_destinations_proven ON sender_destinations (due_at)
        WHERE due_at IS NOT NULL AND failures = 0 AND last_success_at IS NOT NULL`,
    );
    await runner.query(
      `CREATE INDEX sender_destinations_untried ON sender_destinations (due_at)
        WHERE due_at IS NOT NULL AND failures = 0 AND last_success_at IS NULL`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP INDEX sender_destinations_untried`);
    await runner.query(`DROP INDEX sender_destinations_proven`);
    await runner.query(
      `CREATE INDEX sender_destinations_due ON sender_destinations (due_at)
        WHERE due_at IS NOT NULL AND failures = 0`,
    );
  }
}
