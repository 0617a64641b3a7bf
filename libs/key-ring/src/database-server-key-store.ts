import { decodeBase64, encodeUnpaddedBase64 } from '@exeunt/signing';
import type { ServerName } from '@exeunt/pdu';
import type { MigrationInterface, QueryRunner } from 'typeorm';
import type { KnownServerKeys, ServerKeyStore } from './server-key-store.js';

/** What is asked of a database: PostgreSQL's SQL with `$1` parameters, rows as objects. TypeORM's data source fits. */
export interface Database {
  query(sql: string, parameters?: unknown[]): Promise<unknown>;
}

/** The table of `DatabaseServerKeyStore`. */
export class ServerKeys1700000000001 implements MigrationInterface {
  // TypeORM orders migrations by this, and a minifier would take the class's own name.
  readonly name = 'ServerKeys1700000000001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE server_keys (
        server text PRIMARY KEY,
        verify_keys text NOT NULL,
        old_verify_keys text NOT NULL,
        valid_until_ts bigint NOT NULL,
        fetched_at bigint NOT NULL
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE server_keys');
  }
}

interface ServerKeysRow {
  verify_keys: string;
  old_verify_keys: string;
  valid_until_ts: string | number | bigint;
  fetched_at: string | number | bigint;
}

/** Verify keys in the table `server_keys`. Rejects with the database's error, or where a row cannot be read. */
export class DatabaseServerKeyStore implements ServerKeyStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async load(server: ServerName): Promise<KnownServerKeys | undefined> {
    const [row] = (await this.#database.query(
      'SELECT verify_keys, old_verify_keys, valid_until_ts, fetched_at FROM server_keys WHERE server = $1',
      [server],
    )) as ServerKeysRow[];
    return row === undefined ? undefined : keysOfRow(server, row);
  }

  async save(server: ServerName, keys: KnownServerKeys): Promise<void> {
    const verifyKeys = Array.from(keys.verifyKeys, ([keyId, key]) => [keyId, encodeUnpaddedBase64(key)]);
    const oldVerifyKeys = Array.from(keys.oldVerifyKeys, ([keyId, { publicKey, expiredTs }]) => [
      keyId,
      encodeUnpaddedBase64(publicKey),
      expiredTs,
    ]);
    await this.#database.query(
      `INSERT INTO server_keys (server, verify_keys, old_verify_keys, valid_until_ts, fetched_at)
       VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (server) DO UPDATE SET
         verify_keys = excluded.verify_keys,
         old_verify_keys = excluded.old_verify_keys,
         valid_until_ts = excluded.valid_until_ts,
         fetched_at = excluded.fetched_at
       WHERE server_keys.fetched_at <= excluded.fetched_at`,
      [server, JSON.stringify(verifyKeys), JSON.stringify(oldVerifyKeys), keys.validUntilTs, keys.fetchedAt],
    );
  }
}

/** The two columns are lists of what `save` wrote, so a key ID can never be mistaken for a property. */
function keysOfRow(server: ServerName, row: ServerKeysRow): KnownServerKeys {
  try {
    const verifyKeys = JSON.parse(row.verify_keys) as [string, string][];
    const oldVerifyKeys = JSON.parse(row.old_verify_keys) as [string, string, number][];
    return {
      verifyKeys: new Map(verifyKeys.map(([keyId, key]) => [keyId, bytesOf(key)])),
      oldVerifyKeys: new Map(
        oldVerifyKeys.map(([keyId, key, expiredTs]) => [keyId, { publicKey: bytesOf(key), expiredTs }]),
      ),
      validUntilTs: Number(row.valid_until_ts),
      fetchedAt: Number(row.fetched_at),
    };
  } catch (cause) {
    throw new Error(`the stored keys of ${server} cannot be read`, { cause });
  }
}

function bytesOf(key: string): Uint8Array {
  const bytes = decodeBase64(key);
  if (bytes === undefined) throw new TypeError('a key that is not base64');
  return bytes;
}
