import { isIP } from 'node:net';
import { hostOf, portOf, type ServerName } from '@exeunt/pdu';
import { orderSrvRecords, type SrvRecord } from './srv-order.js';
import { isTcpPort, type Delegation } from './well-known.js';

/** The port of a server name that gives none. */
export const defaultFederationPort = 8448;

/** Most targets that are tried for one request; a DNS answer has room for hundreds. */
export const maxTargets = 16;

/** Where a federation request goes and whom it must find there. */
export interface Target {
  readonly kind: 'target';
  /** What is dialled: an IP address without brackets, or a DNS name, all of whose addresses are the target. */
  readonly host: string;
  /** 1 to 65535. */
  readonly port: number;
  /** The `Host` header, with port and brackets only where the spec's table has them. */
  readonly hostHeader: string;
  /**
   * The DNS name (also for SNI; lower case, no trailing dot) or the IP address, without brackets, that the certificate
   * must be for. (DS-06)
   */
  readonly certificateName: string;
  /** True where `certificateName` is an address: no SNI then. (DS-06) */
  readonly isIpLiteral: boolean;
}

/** Where to try, in order: the next one where no connection can be made to the one before. (DS-09) */
export interface Targets {
  readonly kind: 'targets';
  readonly targets: readonly [Target, ...Target[]];
}

/** A name with neither port nor address: steps 3 to 6 need a look-up of `.well-known` and SRV records. */
export interface NeedsLookup {
  readonly kind: 'needs-lookup';
  readonly host: string;
}

/** A server name that the grammar allows and no connection can be made to. */
export interface Undialable {
  readonly kind: 'undialable';
  readonly why: string;
}

/** Where a server is, or that it is nowhere. */
export type Resolution = Targets | Undialable;

/** The SRV look-ups of steps 3.3 and 3.4, or 4 and 5: the records found, none, or `failed` where DNS did not say. */
export interface SrvOutcomes {
  /** `_matrix-fed._tcp`. */
  readonly matrixFed: SrvOutcome;
  /** `_matrix._tcp`, deprecated. */
  readonly matrix: SrvOutcome;
}

export type SrvOutcome = readonly SrvRecord[] | 'failed';

/**
 * Steps 1 and 2 of resolving a server name, which need no network: an IP literal, and a name with a port. Everything
 * else needs look-ups, to whose results `resolveServerName` applies again. A port that TCP does not have (0, or above
 * 65535) and a name that DNS cannot have (an empty or endless label), which the grammar lets through, are undialable. (Spec v1.19, server-server-api, resolving server names;
 * requirements section 6)
 */
export function resolveServerName(name: ServerName): Target | NeedsLookup | Undialable {
  const host = hostOf(name);
  const port = portOf(name);
  const address = host.startsWith('[') ? host.slice(1, -1) : host;
  const isIpLiteral = isIP(address) !== 0;
  if (!isIpLiteral && !isHost(withoutRoot(host))) {
    return { kind: 'undialable', why: `${host} is no name that DNS can have` };
  }

  // Steps 1 and 2 have the server name itself in the Host header, so with its port only where one was given.
  if (isIpLiteral || port !== undefined) {
    const dialled = port ?? defaultFederationPort;
    if (!isTcpPort(dialled)) return { kind: 'undialable', why: `there is no TCP port ${dialled}` };
    return {
      kind: 'target',
      host: address,
      port: dialled,
      hostHeader: name,
      certificateName: isIpLiteral ? address : certificateNameOf(address),
      isIpLiteral,
    };
  }
  return { kind: 'needs-lookup', host };
}

/**
 * Step 3: what the `.well-known` of a host makes of it. An IP literal (3.1) or a name with a port (3.2) that it
 * delegates to is a target; for any other name (3.3 to 3.5), and for the host itself where nothing is delegated
 * (4 to 6), the SRV records are still to be looked up. A delegated name is not asked for a `.well-known` again.
 */
export function resolveDelegation(
  lookup: NeedsLookup,
  delegation: Delegation,
): Target | NeedsLookup | Undialable {
  return delegation.kind === 'delegated' ? resolveServerName(delegation.server) : lookup;
}

/**
 * Steps 3.3 to 3.5 for a delegated name, and 4 to 6 for the host itself, which differ only in the name: the targets of
 * `_matrix-fed._tcp`, else those of `_matrix._tcp`, else the name on port 8448. `Host` and certificate are for the
 * name, wherever SRV records lead (DS-05). A look-up that failed counts as one that found nothing, since where DNS
 * cannot be asked a hosts file may still know the name; only the name's own certificate is accepted there anyway.
 *
 * Records whose one target is the root say that there is no service (RFC 2782), so neither 8448 nor the deprecated
 * name is tried then; records with no port or no host that can be dialled lead nowhere, and are passed over. What a
 * target is an alias of (CNAME) is for the resolver of addresses alone: we neither see nor follow it. (DS-05)
 */
export function resolveBySrv({ host }: NeedsLookup, srv: SrvOutcomes, random: () => number): Resolution {
  const records = [srv.matrixFed, srv.matrix].find((found) => found !== 'failed' && found.length > 0);
  if (records === undefined || records === 'failed') {
    return { kind: 'targets', targets: [targetFor(host, host, defaultFederationPort)] };
  }
  const dialable = records.filter(({ name, port }) => isTcpPort(port) && isHost(withoutRoot(name)));
  const [first, ...rest] = orderSrvRecords(dialable, random)
    .slice(0, maxTargets)
    .map(({ name, port }) => targetFor(host, withoutRoot(name), port));
  if (first !== undefined) return { kind: 'targets', targets: [first, ...rest] };
  const isDenied = records.every(({ name }) => withoutRoot(name) === '');
  return {
    kind: 'undialable',
    why: isDenied
      ? `the SRV record of ${host} says that there is no such service`
      : `the SRV records of ${host} lead to no host and port`,
  };
}

/**
 * Resolves by steps 1, 2 and 6 alone: a server that delegates its name is looked for at its undelegated host on port
 * 8448, where most often nothing answers; one that answers there must still hold a certificate for that host.
 */
export function resolveWithoutLookups(name: ServerName): Resolution {
  const resolved = resolveServerName(name);
  switch (resolved.kind) {
    case 'needs-lookup':
      return { kind: 'targets', targets: [targetFor(resolved.host, resolved.host, defaultFederationPort)] };
    case 'target':
      return { kind: 'targets', targets: [resolved] };
    case 'undialable':
      return resolved;
  }
}

/** A server known by a DNS name, at `host`, which may be another. */
function targetFor(name: string, host: string, port: number): Target {
  return {
    kind: 'target',
    host,
    port,
    hostHeader: name,
    certificateName: certificateNameOf(name),
    isIpLiteral: false,
  };
}

/** SNI has no trailing dot (RFC 6066, 3), and what serves it may compare it letter for letter. */
function certificateNameOf(host: string): string {
  return withoutRoot(host).toLowerCase();
}

/** Without the dot that ends a name at the root; empty for the root itself. */
function withoutRoot(name: string): string {
  return name.endsWith('.') ? name.slice(0, -1) : name;
}

/** Labels of DNS are any bytes, those of hosts are not; an underscore is found in the wild. */
function isHost(name: string): boolean {
  return name.length <= 253 && /^[\w-]{1,63}(\.[\w-]{1,63})*$/.test(name);
}
