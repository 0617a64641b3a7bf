import { fsyncSync, existsSync, mkdirSync, rmSync, writeFileSync, openSync, closeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Duplex } from 'node:stream';
import { PGlite } from '@electric-sql/pglite';
import { NodeFS } from '@electric-sql/pglite/nodefs';
import pg from 'pg';
import { lockDirectory } from './directory-lock.js';

/** An embedded PostgreSQL that looks like the `pg` module to whoever makes a pool of it. */
export interface EmbeddedPostgres {
  /** `driver` of a TypeORM data source. Its pools have one connection, whatever they are asked for. */
  readonly driver: { readonly Pool: typeof pg.Pool };
  /** Call it after the last pool has ended. */
  close(): Promise<void>;
}

/**
 * Opens PGlite in `dataDir`, or in memory for `memory://`. A directory is locked for this process first, and what
 * is committed there is on the disk (fsync), which PGlite by itself doesn't see to.
 *
 * PGlite is one session in this thread: while it runs a statement the event loop stands still, and no statement
 * timeout can end it.
 */
export async function openPglite(dataDir: string): Promise<EmbeddedPostgres> {
  if (dataDir === 'memory://') {
    const lite = await PGlite.create({ dataDir, startParams: startParams('off') });
    return embedded(
      lite,
      () => {},
      () => {},
    );
  }
  const directory = resolve(dataDir);
  const lock = await lockDirectory(directory);
  try {
    const files = join(directory, 'postgres');
    const marker = join(directory, 'initialised');
    // A first start that was cut off leaves half a database, which nobody has been promised anything from.
    if (!existsSync(marker)) rmSync(files, { recursive: true, force: true });
    mkdirSync(files, { recursive: true });
    const lite = await PGlite.create({ fs: new DurableFiles(files), startParams: startParams('on') });
    lock.verify();
    if (!existsSync(marker)) {
      await lite.exec('CHECKPOINT');
      writeFileSync(marker, '', { flush: true });
      syncDirectory(directory);
    }
    return embedded(lite, lock.verify, lock.release);
  } catch (error) {
    lock.release();
    throw error;
  }
}

function embedded(lite: PGlite, verify: () => void, release: () => void): EmbeddedPostgres {
  class SessionPool extends pg.Pool {
    constructor(config: pg.PoolConfig) {
      super({
        ...config,
        // The queue of this pool is what hands the session to one transaction at a time.
        max: 1,
        idleTimeoutMillis: 0,
        user: 'postgres',
        database: 'postgres',
        ssl: false,
        stream: () => new SessionSocket(lite, verify) as never,
      });
    }
  }
  return {
    driver: { Pool: SessionPool },
    close: async () => {
      try {
        await lite.close();
      } finally {
        release();
      }
    },
  };
}

function startParams(fsync: 'on' | 'off'): string[] {
  const withoutNoFsync = PGlite.defaultStartParams.filter((parameter) => parameter !== '-F');
  // Of the calls that PostgreSQL can use to write its log out, `fsync` is the one that reaches the file system here.
  return [
    ...withoutNoFsync,
    '-c',
    `fsync=${fsync}`,
    '-c',
    'wal_sync_method=fsync',
    '-c',
    'jit=off',
    '-c',
    'enable_seqscan=off',
  ];
}

/** Emscripten's Node file system leaves fsync out: PostgreSQL's calls would succeed and do nothing. */
class DurableFiles extends NodeFS {
  override async init(...[lite, options]: Parameters<NodeFS['init']>) {
    const { emscriptenOpts } = await super.init(lite, options);
    const fsync = (stream: { readonly nfd: number }) => {
      fsyncSync(stream.nfd);
      return 0;
    };
    const preRun = [emscriptenOpts.preRun ?? []].flat() as ((module: unknown) => void)[];
    const install = (module: unknown) => {
      const { NODEFS } = module as { NODEFS: { stream_ops: { fsync?: typeof fsync } } };
      NODEFS.stream_ops.fsync = fsync;
    };
    return { emscriptenOpts: { ...emscriptenOpts, preRun: [...preRun, install] } as typeof emscriptenOpts };
  }
}

function syncDirectory(path: string): void {
  const file = openSync(path, 'r');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** What `pg` takes for its connection: its bytes go to PGlite, PGlite's answers come back. */
class SessionSocket extends Duplex {
  readonly #lite: PGlite;
  readonly #verify: () => void;

  constructor(lite: PGlite, verify: () => void) {
    super();
    this.#lite = lite;
    this.#verify = verify;
  }

  connect(): this {
    process.nextTick(() => this.emit('connect'));
    return this;
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#run(chunk).then(() => done(), done);
  }

  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.#run(Buffer.concat(chunks.map(({ chunk }) => chunk))).then(() => done(), done);
  }

  override _final(done: () => void): void {
    this.push(null);
    done();
  }

  async #run(bytes: Uint8Array): Promise<void> {
    // Nothing here ever waits for the event loop by itself: without a turn of it between two statements, a busy
    // session would keep timers and the network from running at all.
    await new Promise((resolve) => setImmediate(resolve));
    this.#verify();
    // Only the first message of a connection begins with a zero. The session may be one that a pool gave up in the
    // middle of a transaction.
    if (bytes[0] === 0) {
      for (const sql of ['ROLLBACK', 'DISCARD ALL']) await this.#lite.execProtocolRaw(simpleQuery(sql));
    }
    const answer = await this.#lite.execProtocolRaw(bytes);
    if (answer.length > 0) this.push(answer);
  }

  setNoDelay(): void {}
  setKeepAlive(): void {}
  ref(): void {}
  unref(): void {}
}

function simpleQuery(sql: string): Uint8Array {
  const text = Buffer.from(`${sql}\0`);
  const head = Buffer.alloc(5);
  head.write('Q');
  head.writeInt32BE(text.length + 4, 1);
  return Buffer.concat([head, text]);
}
