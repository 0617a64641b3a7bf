import type { ServerName } from '@exeunt/pdu';
import { LookupCache } from './lookup-cache.js';
import {
  resolveBySrv,
  resolveDelegation,
  resolveServerName,
  type NeedsLookup,
  type Resolution,
  type SrvOutcome,
  type Target,
  type Undialable,
} from './resolution-steps.js';
import type { SrvRecord } from './srv-order.js';
import {
  backoff,
  delegationLifetimeMs,
  faultLifetimeMs,
  readWellKnown,
  type Delegation,
  type WellKnownAnswer,
  type WellKnownFault,
} from './well-known.js';

/**
 * Asks `https://{host}/.well-known/matrix/server` (DS-01), following redirects (DS-02), and settles within a bounded
 * time with a bounded body. A rejection counts as `unreachable`.
 */
export type WellKnownFetch = (host: string) => Promise<WellKnownAnswer>;

/**
 * The SRV records of a full name such as `_matrix-fed._tcp.example.com`; none where DNS says that there are none.
 * Rejects where DNS says nothing, and settles within a bounded time.
 */
export type SrvLookup = (name: string) => Promise<readonly SrvRecord[]>;

/** One look-up that was made, so not one answered from the cache; for metrics and logs. */
export type DiscoveryLookup =
  | {
      readonly kind: 'well-known';
      readonly host: string;
      /** Few values, so fit for a label. */
      readonly outcome: 'delegated' | WellKnownFault;
      /** What it delegates to. */
      readonly server?: ServerName;
      /** For people, where no answer came. */
      readonly error?: string;
      /** How long it is not asked again. */
      readonly lifetimeMs: number;
    }
  | {
      readonly kind: 'srv';
      /** The full name, with service and protocol. */
      readonly name: string;
      readonly outcome: 'found' | 'none' | 'failed';
      readonly error?: string;
      readonly lifetimeMs: number;
    };

export interface ServerDiscoveryDependencies {
  readonly fetchWellKnown: WellKnownFetch;
  readonly lookUpSrv: SrvLookup;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** 0 <= x < 1: draws among SRV records, spreads waits. */
  readonly random: () => number;
  /** Told of each look-up when it has ended. Must not throw. */
  readonly onLookup?: (lookup: DiscoveryLookup) => void;
  /** Most hosts, and most SRV names, whose look-ups are remembered; 10 000 unless told. */
  readonly maxEntries?: number;
}

const minuteMs = 60_000;

/**
 * How long SRV records, or that there are none, are kept: Node does not show their TTL, so it is a time that most
 * administrators wait anyway. A failed look-up is kept for a minute, then twice as long each time, up to an hour.
 */
export const srvLifetime = {
  foundMs: 5 * minuteMs,
  minFailedMs: minuteMs,
  maxFailedMs: 60 * minuteMs,
} as const;

/**
 * Finds the servers of the federation by their names: literals, ports, `.well-known` and both SRV names. (Spec v1.19,
 * server-server-api, resolving server names; requirements section 6)
 *
 * What was looked up is remembered within bounds, what failed as well, and look-ups of one name at the same time
 * are one. The order of SRV targets is drawn anew each time. Names that differ in case share their look-ups, not their
 * `Host` header.
 */
export class ServerDiscovery {
  readonly #dependencies: ServerDiscoveryDependencies;
  readonly #delegations: LookupCache<Delegation>;
  readonly #srv: LookupCache<SrvOutcome>;

  constructor(dependencies: ServerDiscoveryDependencies) {
    const { now, maxEntries = 10_000 } = dependencies;
    this.#dependencies = dependencies;
    this.#delegations = new LookupCache(maxEntries, now);
    this.#srv = new LookupCache(2 * maxEntries, now);
  }

  /**
   * Where the server is, in the order to try. Never rejects: a look-up that fails leads to the next step. That the
   * addresses may be dialled is for whoever dials them to see.
   */
  async resolve(name: ServerName): Promise<Resolution> {
    // Steps 1 and 2: an IP literal, or a port.
    const named = resolveServerName(name);
    if (named.kind !== 'needs-lookup') return alone(named);

    // Step 3: delegated, to a literal, a name with a port, or a name.
    const delegated = resolveDelegation(named, await this.#delegationOf(named.host));
    if (delegated.kind !== 'needs-lookup') return alone(delegated);

    // Steps 3.3 to 3.5, or 4 to 6. Both names are asked at once: most servers have neither record.
    const [matrixFed, matrix] = await Promise.all([
      this.#srvOf('_matrix-fed._tcp', delegated),
      this.#srvOf('_matrix._tcp', delegated),
    ]);
    return resolveBySrv(delegated, { matrixFed, matrix }, this.#dependencies.random);
  }

  /** Has the next `resolve` of this name look everything up again, as after its administrators say it has moved. */
  forget(name: ServerName): void {
    const named = resolveServerName(name);
    if (named.kind !== 'needs-lookup') return;
    const known = this.#delegations.peek(cacheKey(named.host));
    const delegated = known === undefined ? named : resolveDelegation(named, known);
    this.#delegations.forget(cacheKey(named.host));
    if (delegated.kind !== 'needs-lookup') return;
    for (const service of services) this.#srv.forget(cacheKey(`${service}.${delegated.host}`));
  }

  #delegationOf(host: string): Promise<Delegation> {
    const { fetchWellKnown, now, random, onLookup } = this.#dependencies;
    return this.#delegations.get(cacheKey(host), async (failuresBefore) => {
      const answer = await fetchWellKnown(host).catch((thrown: unknown): WellKnownAnswer => ({
        kind: 'failed',
        fault: 'unreachable',
        error: textOf(thrown),
      }));
      const value = readWellKnown(answer);
      const headers = answer.kind === 'answer' ? answer.headers : {};
      const isFailure = value.kind === 'none';
      const lifetimeMs = isFailure
        ? faultLifetimeMs(failuresBefore + 1, random(), headers, now())
        : delegationLifetimeMs(headers, now());
      onLookup?.({
        kind: 'well-known',
        host,
        outcome: value.kind === 'delegated' ? 'delegated' : value.fault,
        ...(value.kind === 'delegated' ? { server: value.server } : {}),
        ...(answer.kind === 'failed' ? { error: answer.error } : {}),
        lifetimeMs,
      });
      return { value, lifetimeMs, isFailure };
    });
  }

  #srvOf(service: Service, { host }: NeedsLookup): Promise<SrvOutcome> {
    const { lookUpSrv, random, onLookup } = this.#dependencies;
    const { foundMs, minFailedMs, maxFailedMs } = srvLifetime;
    const name = cacheKey(`${service}.${host}`);
    return this.#srv.get(name, async (failuresBefore) => {
      try {
        const records = await lookUpSrv(name);
        const outcome = records.length > 0 ? 'found' : 'none';
        onLookup?.({ kind: 'srv', name, outcome, lifetimeMs: foundMs });
        return { value: records, lifetimeMs: foundMs, isFailure: false };
      } catch (thrown) {
        const lifetimeMs = backoff(failuresBefore + 1, random(), minFailedMs, maxFailedMs);
        onLookup?.({ kind: 'srv', name, outcome: 'failed', error: textOf(thrown), lifetimeMs });
        return { value: 'failed', lifetimeMs, isFailure: true };
      }
    });
  }
}

const services = ['_matrix-fed._tcp', '_matrix._tcp'] as const;
type Service = (typeof services)[number];

/** DNS knows no case, and the dot at a name's end leads to the same place. */
function cacheKey(name: string): string {
  return name.toLowerCase().replace(/\.$/, '');
}

function alone(resolved: Target | Undialable): Resolution {
  return resolved.kind === 'target' ? { kind: 'targets', targets: [resolved] } : resolved;
}

function textOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
