/** A PostgreSQL to test against: one that somebody configured, or what it takes to start one of our own. */
export type FoundPostgres =
  | { kind: 'configured'; url: string }
  | { kind: 'binaries'; directory: string }
  | { kind: 'docker'; image: string };

/** A running PostgreSQL that {@link startPostgres} started, reachable at `url` by TCP on loopback. */
export interface PostgresServer {
  /** `postgres://user:password@127.0.0.1:port/exeunt`; the same after a restart. */
  readonly url: string;
  /** Process ID of the postmaster while it runs; another after a restart. Undefined in a container. */
  readonly pid: number | undefined;
  /** Where its files are: `data`, `server.log`, the Unix socket. Undefined in a container. */
  readonly directory: string | undefined;
  /** Makes an empty database with a name of its own on this server and gives its URL. */
  createDatabase(): Promise<string>;
  /** Ends every session at once, writes everything out and starts again on the same port with the same data. */
  restart(): Promise<void>;
  /** Kills every process of the server as a power cut would: nothing is written out. It stays down until `start`. */
  kill9(): Promise<void>;
  /** Starts it again after `kill9`; recovery runs and committed rows are there. Does nothing while it is running. */
  start(): Promise<void>;
  /** Ends the server and deletes its directory. Later calls do nothing. */
  stop(): Promise<void>;
}

/**
 * EXEUNT_TEST_DATABASE_URL when that is set, else the newest PostgreSQL server binaries of this machine (Debian's
 * folders, then PATH), else the official image where a Docker engine answers, else `undefined`: the caller says that its
 * tests do not run. With EXEUNT_TEST_SERVICES=docker it is the image even where there are binaries.
 */
export function findPostgres(): FoundPostgres | undefined;

/**
 * Starts a PostgreSQL with fresh data, fsync on, on a free port of 127.0.0.1, and waits until it answers a query. It
 * ends with this process, however that ends. PostgreSQL refuses to run as root, so a root caller gets it run as the
 * user `postgres`, or `nobody`.
 *
 * @throws when this machine has neither binaries nor a Docker engine, or with the server's log when it does not come up
 */
export function startPostgres(): Promise<PostgresServer>;
