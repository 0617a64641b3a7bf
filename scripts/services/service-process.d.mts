/** Where a server runs: what the scripts of the services need of a process or a container. */
export interface ServicePlace {
  /** Of a process of this machine while it runs; another after a restart. */
  readonly pid: number | undefined;
  /** Enough to find it again from another process. */
  readonly receipt: object;
  /**
   * Starts it, the same data and ports each time, and gives `ready` once `isUp` says so, or its log of this time where
   * it ended before, or was not up in a minute. Does nothing while it runs.
   */
  start(isUp: () => Promise<boolean>): Promise<string>;
  /** Ends it in its orderly way, and waits until it is gone. */
  end(): Promise<void>;
  /** Kills it with all its children as a power cut would, and waits until they are gone. */
  kill9(): Promise<void>;
  /** Deletes its data; it has ended. A container is forced to. */
  remove(): void | Promise<void>;
}

/**
 * A process of this machine. Its log and its process ID are in `server.log` and `server.pid` of its directory.
 */
export class ServiceProcess implements ServicePlace {
  constructor(settings: {
    /** For messages. */
    readonly what: string;
    readonly directory: string;
    readonly command: readonly string[];
    /** For `end`. */
    readonly endSignal: NodeJS.Signals;
    /** What it gets when this process ends, whatever ends that, unless it is to outlive it. */
    readonly orphanSignal: NodeJS.Signals;
    readonly outlivesCaller: boolean;
    /** Whom it runs as; the caller unless told. */
    readonly user?: { readonly uid?: number; readonly gid?: number };
  });
  readonly pid: number | undefined;
  readonly receipt: object;
  start(isUp: () => Promise<boolean>): Promise<string>;
  end(): Promise<void>;
  kill9(): Promise<void>;
  remove(): void;
}

/**
 * A container. It is made at the first start, with the image's own stop signal for `end`; unless it is to outlive its
 * caller, it is removed when this process ends, whatever ends that.
 */
export class ServiceContainer implements ServicePlace {
  constructor(settings: {
    readonly image: string;
    /** Ports of loopback, and which of the container's each is. */
    readonly ports: Readonly<Record<number, number>>;
    readonly environment: Readonly<Record<string, string>>;
    readonly outlivesCaller: boolean;
  });
  readonly pid: undefined;
  readonly receipt: object;
  start(isUp: () => Promise<boolean>): Promise<string>;
  end(): Promise<void>;
  kill9(): Promise<void>;
  remove(): Promise<void>;
}

/** Whether EXEUNT_TEST_SERVICES=docker asks for containers where the machine has servers of its own too. */
export function wantsContainers(): boolean;

/** Whether `docker` is there and reaches an engine. */
export function hasDockerEngine(): boolean;

/** Ports of loopback that nobody listens on now, all different. */
export function freePorts(count: number): Promise<number[]>;

/**
 * `start`, `stop`, or the word that asks for the address, from the command line: one server of a checkout, which stays.
 * Prints `variable=address`; what is running is written down in `.services/<script>.json`.
 */
export function runServiceCommand(
  command: string | undefined,
  service: {
    readonly script: string;
    readonly what: string;
    readonly variable: string;
    readonly query: string;
    readonly start: () => Promise<{ readonly address: string; readonly place: object }>;
  },
): Promise<void>;
