import { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import type { QueryRunner } from 'typeorm';
import {
  DatabaseServerKeyStore,
  ServerKeys1700000000001,
  type Database,
} from './database-server-key-store.js';
import { InMemoryServerKeyStore, type KnownServerKeys, type ServerKeyStore } from './server-key-store.js';

const peer = parseServerName('peer.test:8448') as ServerName;
const other = parseServerName('other.test') as ServerName;

let pglite: PGlite;
let database: Database;

beforeAll(async () => {
  pglite = new PGlite();
  database = { query: async (sql, parameters) => (await pglite.query(sql, parameters)).rows };
  await new ServerKeys1700000000001().up(database as unknown as QueryRunner);
}, 60_000);

afterAll(() => pglite.close());

describe.each<[string, () => ServerKeyStore]>([
  ['memory', () => new InMemoryServerKeyStore()],
  ['a database', () => new DatabaseServerKeyStore(database)],
])('keys in %s', (_, open) => {
  it('are those that were saved last', async () => {
    const store = open();
    expect(await store.load(peer)).toBeUndefined();

    await store.save(peer, keys(1, 1000));
    await store.save(peer, keys(2, 2000));

    expect(await store.load(peer)).toEqual(keys(2, 2000));
    expect(await store.load(other)).toBeUndefined();
  });

  it('are not replaced by keys that were fetched earlier', async () => {
    const store = open();
    await store.save(other, keys(2, 2000));

    await store.save(other, keys(1, 1999));
    expect(await store.load(other)).toEqual(keys(2, 2000));
    await store.save(other, keys(3, 2000));
    expect(await store.load(other)).toEqual(keys(3, 2000));
  });
});

describe('a row that is not ours', () => {
  it('is an exception that names the server', async () => {
    const broken = parseServerName('broken.test') as ServerName;
    await database.query(`INSERT INTO server_keys VALUES ($1, '[["ed25519:a","%"]]', '[]', 1, 1)`, [broken]);

    await expect(new DatabaseServerKeyStore(database).load(broken)).rejects.toThrow('broken.test');
  });
});

function keys(fill: number, fetchedAt: number): KnownServerKeys {
  return {
    verifyKeys: new Map([['ed25519:a', new Uint8Array(32).fill(fill)]]),
    oldVerifyKeys: new Map([['ed25519:b', { publicKey: new Uint8Array(32).fill(9), expiredTs: 5 }]]),
    validUntilTs: 1_700_000_000_000,
    fetchedAt,
  };
}
