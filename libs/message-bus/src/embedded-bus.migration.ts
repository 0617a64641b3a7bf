import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The tables of the embedded bus. */
export class EmbeddedBus1700000000002 implements MigrationInterface {
  readonly name = 'EmbeddedBus1700000000002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE bus_partitions (
        topic text COLLATE "C" NOT NULL,
        partition int NOT NULL,
        next_offset bigint NOT NULL,
        PRIMARY KEY (topic, partition)
      )`);
    await runner.query(`
      CREATE TABLE bus_messages (
        topic text COLLATE "C" NOT NULL,
        partition int NOT NULL,
        "offset" bigint NOT NULL,
        key text NOT NULL,
        headers text NOT NULL,
        value text NOT NULL,
        PRIMARY KEY (topic, partition, "offset")
      )`);
    await runner.query(`
      CREATE TABLE bus_cursors (
        topic text COLLATE "C" NOT NULL,
        partition int NOT NULL,
        consumer_group text COLLATE "C" NOT NULL,
        "offset" bigint NOT NULL,
        PRIMARY KEY (topic, partition, consumer_group)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const table of ['bus_cursors', 'bus_messages', 'bus_partitions']) {
      await runner.query(`DROP TABLE ${table}`);
    }
  }
}
