import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDatabase, type Database, type DatabaseOptions } from '@exeunt/database';
import { eventStoreMigrations, InMemoryEventStore, TypeormEventStore } from '@exeunt/event-store';
import { describe, it } from 'vitest';
import { findPostgres, startPostgres } from '../harness/postgres-server.js';
import { eventStoreContract, type OpenedStore } from './event-store.contract.js';

eventStoreContract('in memory', async () => {
  const store = new InMemoryEventStore();
  const opened: OpenedStore = { store, outbox: store, reopen: async () => opened, close: async () => {} };
  return opened;
});

async function openStore(
  options: Omit<DatabaseOptions, 'migrations'>,
  end: () => unknown,
): Promise<OpenedStore> {
  const database: Database = await openDatabase({ ...options, migrations: eventStoreMigrations });
  const store = new TypeormEventStore(database);
  return {
    store,
    outbox: store,
    reopen: async () => {
      await database.close();
      return openStore(options, end);
    },
    close: async () => {
      await database.close();
      await end();
    },
  };
}

eventStoreContract('PGlite', () => {
  const directory = mkdtempSync(join(tmpdir(), 'exeunt-event-store-'));
  return openStore({ dataDir: directory }, () => rmSync(directory, { recursive: true }));
});

const found = findPostgres();
if (found === undefined) {
  describe('event store: PostgreSQL', () => {
    it.skip('does NOT run here: set EXEUNT_TEST_DATABASE_URL or install a PostgreSQL server', () => {});
  });
  console.warn(
    'event store: PostgreSQL NOT tested; set EXEUNT_TEST_DATABASE_URL or install a PostgreSQL server',
  );
} else {
  eventStoreContract('PostgreSQL', async () => {
    if (found.kind === 'configured') return openStore({ url: found.url }, () => {});
    const server = await startPostgres();
    return openStore({ url: server.url }, () => server.stop());
  });
}
