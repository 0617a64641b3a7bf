import type { MigrationInterface, QueryRunner } from 'typeorm';
import type { Database } from '@exeunt/database';
import type { ServerName } from '@exeunt/pdu';

/** What each transaction was answered, so that a repeat gets the same. Times are milliseconds since the epoch. */
export class ReceivedTransactions1700000000005 implements MigrationInterface {
  readonly name = 'ReceivedTransactions1700000000005';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE received_transactions (
        origin text COLLATE "C" NOT NULL,
        txn_id text COLLATE "C" NOT NULL,
        answer text NOT NULL,
        received_at bigint NOT NULL,
        PRIMARY KEY (origin, txn_id)
      )`);
    await runner.query(`CREATE INDEX received_transactions_age ON received_transactions (received_at)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP TABLE received_transactions`);
  }
}

/** A server that has had no answer for so long sends its backlog under other IDs. */
const keptMs = 7 * 86_400_000;
const sweepEveryMs = 3_600_000;

/** Transactions that were answered, for a week. (TX-04) */
export class ReceivedTransactions {
  readonly #database: Database;
  #sweptAt = 0;

  constructor(database: Database) {
    this.#database = database;
  }

  /** The JSON text of the first answer; undefined for a transaction that was never answered. */
  async answerTo(origin: ServerName, txnId: string): Promise<string | undefined> {
    const [row] = await this.#database.query<{ answer: string }>({
      name: 'received-transaction',
      text: `SELECT answer FROM received_transactions WHERE origin = $1 AND txn_id = $2`,
      values: [origin, txnId],
    });
    return row?.answer;
  }

  /** Keeps an answer and gives the one that counts: another process may have been first. */
  async keep(origin: ServerName, txnId: string, answer: string, now: number): Promise<string> {
    const kept = await this.#database.query({
      name: 'keep-received-transaction',
      text: `INSERT INTO received_transactions (origin, txn_id, answer, received_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING RETURNING origin`,
      values: [origin, txnId, answer, now],
    });
    if (now - this.#sweptAt >= sweepEveryMs) {
      this.#sweptAt = now;
      await this.#database.query(`DELETE FROM received_transactions WHERE received_at < $1`, [now - keptMs]);
    }
    return kept.length > 0 ? answer : ((await this.answerTo(origin, txnId)) ?? answer);
  }
}
