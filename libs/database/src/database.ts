import { DataSource, MigrationExecutor, type MigrationInterface } from 'typeorm';
import type pg from 'pg';
import { endsSession, failure } from './database-unavailable.js';
import { openPglite, type EmbeddedPostgres } from './pglite.js';

/** A statement for one session. */
export interface Statement {
  /** With a name, at most 63 bytes, it is parsed once a session; the same name always has the same text. */
  readonly name?: string;
  readonly text: string;
  readonly values?: readonly unknown[];
  /** `array`: rows are arrays of columns rather than objects. */
  readonly rowMode?: 'array';
}

/**
 * Runs statements. Values come as `pg` gives them: `bigint`, `numeric` and `xid8` as decimal strings, `json`
 * parsed, timestamps as `Date`.
 */
export interface Session {
  /**
   * The rows of one statement. Rejects with {@link DatabaseUnavailable} where the database can't be had in time,
   * with `pg.DatabaseError` where the statement is at fault.
   */
  query<Row>(statement: string | Statement, values?: readonly unknown[]): Promise<Row[]>;
}

/** A lock that one session of a database has at a time. It ends with its session, however that ends. */
export interface HeldLock {
  /** Resolves while the lock is ours; rejects where that can't be told, and then it is to be taken for lost. */
  check(): Promise<void>;
  /** Later calls do nothing. */
  release(): Promise<void>;
}

/** PostgreSQL, or PGlite in this process: one schema and one SQL for both. */
export interface Database extends Session {
  readonly kind: 'postgres' | 'pglite';
  /** For repositories of read models. The hot paths use {@link Session.query}, on the same connections. */
  readonly dataSource: DataSource;
  /**
   * Runs `work` in one transaction, committed when it resolves and rolled back when it rejects. Rejects as
   * {@link Session.query} does; a commit that was cut off may have happened.
   */
  transaction<Result>(
    work: (session: Session) => Promise<Result>,
    options?: { readonly isolation?: 'read committed' | 'repeatable read' | 'serializable' },
  ): Promise<Result>;
  /**
   * Takes the lock of this number, on a connection of its own; `undefined` where another session has it. PGlite has
   * one process, so everyone gets it there.
   */
  tryLock(lock: bigint): Promise<HeldLock | undefined>;
  /** Resolves if the database answers now. */
  check(): Promise<void>;
  /** Waits for what is under way. Later calls of anything reject. */
  close(): Promise<void>;
}

export interface DatabaseOptions {
  /** `postgres://…`; this or `dataDir`. */
  readonly url?: string;
  /** Directory of a PGlite database, made where there is none; `memory://` for one that ends with the process. */
  readonly dataDir?: string;
  /** Run in order of their timestamps, those not yet run in this database, in one transaction. */
  readonly migrations: readonly (new () => MigrationInterface)[];
  /** Connections at once; PGlite has one. 16 unless told. */
  readonly poolSize?: number;
  /** How long a statement may take, at the server. 30 seconds unless told. PGlite can't bound it. */
  readonly statementTimeoutMs?: number;
  /** How long to wait for a connection. 5 seconds unless told, 60 for PGlite's only one. */
  readonly acquireTimeoutMs?: number;
  /** Hears of connections that broke while nobody used them; the pool replaces them by itself. */
  readonly onIdleError?: (error: Error) => void;
}

/**
 * Statements here are short: compiling one would cost more than running it. And they all have an index: without this
 * a plan that is kept from when a table had a page goes on reading all of it when it has a million.
 */
const sessionSettings = '-c jit=off -c enable_seqscan=off';

/** Everyone who migrates a database waits for this advisory lock; any fixed number does. */
const MIGRATION_LOCK = 4_977_302_615_187n;
const MIGRATION_WAIT_MS = 600_000;

/** The server ends the session of a machine that has vanished, and gives its lock to others, after some ten seconds. */
const LOCK_SESSION = ['tcp_keepalives_idle = 5', 'tcp_keepalives_interval = 2', 'tcp_keepalives_count = 3'];
const LOCK_ANSWER_MS = 5_000;

/**
 * Connects and brings the schema up to date; of several processes that start at once one migrates and the others
 * wait for it. Rejects with {@link DatabaseUnavailable} where there is no server at `url`, with one sentence where
 * another process has `dataDir`.
 */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const { url, dataDir } = options;
  if ((url === undefined) === (dataDir === undefined))
    throw new Error('a database has either a url or a dataDir');
  const embedded = dataDir === undefined ? undefined : await openPglite(dataDir);
  try {
    await migrate(options, embedded);
    const dataSource = await connect(options, embedded, limitsOf(options));
    return new PooledDatabase(dataSource, embedded);
  } catch (error) {
    await embedded?.close();
    throw failure(error);
  }
}

async function migrate(options: DatabaseOptions, embedded: EmbeddedPostgres | undefined): Promise<void> {
  const dataSource = await connect(options, embedded, { max: 1, lock_timeout: MIGRATION_WAIT_MS });
  try {
    const runner = dataSource.createQueryRunner();
    try {
      await runner.query(`SELECT pg_advisory_lock(${MIGRATION_LOCK})`);
      await new MigrationExecutor(dataSource, runner).executePendingMigrations();
      await runner.query(`SELECT pg_advisory_unlock(${MIGRATION_LOCK})`);
    } finally {
      await runner.release();
    }
  } finally {
    await dataSource.destroy();
  }
}

function limitsOf(options: DatabaseOptions): object {
  const statementTimeoutMs = options.statementTimeoutMs ?? 30_000;
  return {
    max: options.poolSize ?? 16,
    connectionTimeoutMillis: options.acquireTimeoutMs ?? (options.url === undefined ? 60_000 : 5_000),
    statement_timeout: statementTimeoutMs,
    idle_in_transaction_session_timeout: statementTimeoutMs,
    // For a server that no longer answers at all.
    query_timeout: statementTimeoutMs + 5_000,
  };
}

function connect(
  options: DatabaseOptions,
  embedded: EmbeddedPostgres | undefined,
  extra: object,
): Promise<DataSource> {
  return new DataSource({
    type: 'postgres',
    ...(options.url === undefined ? {} : { url: options.url }),
    ...(embedded === undefined ? {} : { driver: embedded.driver }),
    applicationName: 'exeunt',
    migrations: [...options.migrations],
    migrationsTransactionMode: 'all',
    synchronize: false,
    logging: false,
    installExtensions: false,
    poolErrorHandler: (error: Error) => options.onIdleError?.(error),
    extra: {
      keepAlive: true,
      // A connection that breaks while it is in use emits the error besides failing its statement.
      onConnect: (client: pg.ClientBase) => void client.on('error', () => {}),
      options: sessionSettings,
      ...extra,
    },
  }).initialize();
}

class PooledDatabase implements Database {
  readonly kind: 'postgres' | 'pglite';
  readonly dataSource: DataSource;
  readonly #embedded: EmbeddedPostgres | undefined;
  readonly #pool: pg.Pool;

  constructor(dataSource: DataSource, embedded: EmbeddedPostgres | undefined) {
    this.kind = embedded === undefined ? 'postgres' : 'pglite';
    this.dataSource = dataSource;
    this.#embedded = embedded;
    this.#pool = (dataSource.driver as unknown as { readonly master: pg.Pool }).master;
  }

  query<Row>(statement: string | Statement, values?: readonly unknown[]): Promise<Row[]> {
    const config = typeof statement === 'string' ? { text: statement, values } : statement;
    return new Promise((resolve, reject) => {
      // With callbacks, for the way through promises takes half as much time again. And not `pool.query`, which
      // throws the connection away for every statement that fails.
      this.#pool.connect((unavailable, client, release) => {
        if (client === undefined) return reject(failure(unavailable));
        client.query(config as pg.QueryConfig, (error: unknown, result) => {
          if (error) {
            release(endsSession(error));
            reject(failure(error));
          } else {
            release();
            resolve(result.rows as Row[]);
          }
        });
      });
    });
  }

  async transaction<Result>(
    work: (session: Session) => Promise<Result>,
    options: { readonly isolation?: string } = {},
  ): Promise<Result> {
    const client = await this.#pool.connect().catch((error: unknown) => {
      throw failure(error);
    });
    let broken = false;
    const run = async (config: string | pg.QueryConfig) => {
      try {
        return await client.query(config);
      } catch (error) {
        broken ||= endsSession(error);
        throw failure(error);
      }
    };
    try {
      await run(`BEGIN${options.isolation === undefined ? '' : ` ISOLATION LEVEL ${options.isolation}`}`);
      const result = await work({
        query: async <Row>(statement: string | Statement, values?: readonly unknown[]) => {
          const config = typeof statement === 'string' ? { text: statement, values } : statement;
          return (await run(config as pg.QueryConfig)).rows as Row[];
        },
      });
      const { command } = await run('COMMIT');
      if (command !== 'COMMIT')
        throw new Error('the transaction was rolled back, for one of its statements failed');
      return result;
    } catch (error) {
      if (!broken) await run('ROLLBACK').catch(() => (broken = true));
      throw error;
    } finally {
      client.release(broken);
    }
  }

  async tryLock(lock: bigint): Promise<HeldLock | undefined> {
    if (this.kind === 'pglite') return { check: () => this.check(), release: () => Promise.resolve() };
    const client = await this.#pool.connect().catch((error: unknown) => {
      throw failure(error);
    });
    let isOurs = true;
    const giveBack = (broken: boolean): void => {
      if (isOurs) client.release(broken);
      isOurs = false;
    };
    const run = async <Row>(text: string): Promise<Row[]> => {
      if (!isOurs) throw new Error('the lock was released');
      try {
        // A connection that is silent may be gone, and its lock with another.
        const config = { text, query_timeout: LOCK_ANSWER_MS };
        return (await client.query(config as pg.QueryConfig)).rows as Row[];
      } catch (error) {
        giveBack(true);
        throw failure(error);
      }
    };
    const [row] = await run<{ taken: boolean }>(`SELECT pg_try_advisory_lock(${lock}) AS taken`);
    if (row?.taken !== true) {
      giveBack(false);
      return undefined;
    }
    for (const setting of LOCK_SESSION) await run(`SET ${setting}`);
    return {
      check: async () => void (await run('SELECT 1')),
      // The session ends, and with it the lock: nobody can be given a connection that still has it.
      release: async () => giveBack(true),
    };
  }

  async check(): Promise<void> {
    await this.query('SELECT 1');
  }

  async close(): Promise<void> {
    try {
      await this.dataSource.destroy();
    } finally {
      await this.#embedded?.close();
    }
  }
}
