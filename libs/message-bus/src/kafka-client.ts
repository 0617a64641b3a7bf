import { createRequire } from 'node:module';
import kafkajs, {
  type ISocketFactory,
  type KafkaConfig,
  type logCreator,
  type LogEntry,
  type RetryOptions,
  type SASLOptions,
} from 'kafkajs';

/** How to reach the brokers. */
export interface KafkaConnection {
  /** `host:port` of some brokers; the others are learnt from them. */
  readonly brokers: readonly string[];
  /** `true` for TLS against the system's roots, or what `tls.connect` takes. Default: no TLS. */
  readonly ssl?: KafkaConfig['ssl'];
  /** For example `{mechanism: 'scram-sha-512', username, password}`. Default: no authentication. */
  readonly sasl?: SASLOptions;
  /** What brokers show in their logs and quotas. Default `exeunt`. */
  readonly clientId?: string;
  /** How sockets are opened. Default: TCP, or TLS with `ssl`. */
  readonly socketFactory?: ISocketFactory;
}

/** Told of everything that went wrong and is tried again. */
export type OnProblem = (what: string, cause: unknown) => void;

/** The same complaint is passed on once in this time: kafkajs complains at every attempt of an outage. */
const SAME_PROBLEM_MS = 10_000;
const MOST_KINDS_OF_PROBLEM = 100;

/** Part of the group protocol's normal course, or a choice of ours that kafkajs warns of. */
const NO_PROBLEM = [
  'rebalancing',
  'Limiting retries for the idempotent producer',
  'The member id was not recognized',
  'The coordinator is not aware of this member',
  'Specified group generation id is not valid',
  'The group member needs to have a valid member id',
];

/**
 * A kafkajs client whose complaints go to `onProblem`.
 *
 * @param requestTimeoutMs when a request to a broker that is connected but silent is given up
 */
export function kafkaClient(
  connection: KafkaConnection,
  options: {
    readonly requestTimeoutMs: number;
    readonly retry: RetryOptions;
    readonly onProblem: OnProblem;
  },
): kafkajs.Kafka {
  stopEmptyTimers();
  return new kafkajs.Kafka({
    brokers: [...connection.brokers],
    clientId: connection.clientId ?? 'exeunt',
    ...(connection.ssl === undefined ? {} : { ssl: connection.ssl }),
    ...(connection.sasl === undefined ? {} : { sasl: connection.sasl }),
    ...(connection.socketFactory === undefined ? {} : { socketFactory: connection.socketFactory }),
    connectionTimeout: 3_000,
    authenticationTimeout: 10_000,
    requestTimeout: options.requestTimeoutMs,
    retry: options.retry,
    logLevel: kafkajs.logLevel.WARN,
    logCreator: complaintsTo(options.onProblem),
  });
}

function complaintsTo(onProblem: OnProblem): logCreator {
  const told = new Map<string, number>();
  return () =>
    ({ namespace, log }: LogEntry) => {
      const detail = typeof log['error'] === 'string' ? log['error'] : undefined;
      const text = detail === undefined ? log.message : `${log.message}: ${detail}`;
      if (NO_PROBLEM.some((normal) => text.includes(normal))) return;
      const what = namespace ? `Kafka ${namespace}` : 'Kafka';
      const kind = `${what} ${text}`;
      const now = performance.now();
      if (now - (told.get(kind) ?? -Infinity) < SAME_PROBLEM_MS) return;
      if (told.size >= MOST_KINDS_OF_PROBLEM) told.clear();
      told.set(kind, now);
      onProblem(what, new Error(text));
    };
}

interface RequestQueue {
  readonly pending: readonly unknown[];
  scheduleCheckPendingRequests: (() => void) & { onlyWhenNeeded?: true };
}

/**
 * After every answer kafkajs 2.2.4 starts a timer to look for requests that wait, although none does; its length is
 * negative then, and Node 24 warns of that on the terminal (tulios/kafkajs#1751, fixed in no release). Nothing needs
 * that timer, and the warning can't be filtered without taking Node's own printing of all warnings away.
 */
function stopEmptyTimers(): void {
  const { prototype } = createRequire(import.meta.url)('kafkajs/src/network/requestQueue') as {
    readonly prototype: RequestQueue;
  };
  const schedule = prototype.scheduleCheckPendingRequests;
  if (schedule.onlyWhenNeeded === true) return;
  prototype.scheduleCheckPendingRequests = Object.assign(
    function whenOneWaits(this: RequestQueue) {
      if (this.pending.length > 0) schedule.call(this);
    },
    { onlyWhenNeeded: true as const },
  );
}

/** What `work` gives, or a rejection with `late()` after `ms`; the work itself goes on. */
export async function within<T>(ms: number, work: Promise<T>, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), ms);
  });
  try {
    return await Promise.race([work, deadline]);
  } finally {
    clearTimeout(timer);
  }
}

/** The innermost cause that kafkajs wrapped: its wrappers say only that it gave up. */
export function rootCause(error: unknown): Error & { readonly type?: string; readonly code?: unknown } {
  let cause = error instanceof Error ? error : new Error(String(error));
  for (let depth = 0; depth < 10 && cause.cause instanceof Error; depth += 1) cause = cause.cause;
  return cause;
}
