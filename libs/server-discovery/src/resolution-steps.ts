import { isIP } from 'node:net';
import { hostOf, portOf, type ServerName } from '@exeunt/pdu';

/** The port of a server name that gives none. */
export const defaultFederationPort = 8448;

/** Where a federation request goes and whom it must find there. */
export interface Target {
  readonly kind: 'target';
  /** What is dialled: an IP address without brackets, or a DNS name. */
  readonly host: string;
  /** 1 to 65535. */
  readonly port: number;
  /** The `Host` header, with port and brackets only where the spec's table has them. */
  readonly hostHeader: string;
  /** The DNS name (also for SNI) or the IP address, without brackets, that the certificate must be for. (DS-06) */
  readonly certificateName: string;
  /** True where `certificateName` is an address: no SNI then. (DS-06) */
  readonly isIpLiteral: boolean;
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

/**
 * Steps 1 and 2 of resolving a server name, which need no network: an IP literal, and a name with a port. Everything
 * else needs look-ups, to whose results `resolveServerName` applies again. A port that TCP does not have (0, or above
 * 65535, which the grammar lets through) is undialable. (Spec v1.19, server-server-api, resolving server names;
 * requirements section 6)
 */
export function resolveServerName(name: ServerName): Target | NeedsLookup | Undialable {
  const host = hostOf(name);
  const port = portOf(name);
  const address = host.startsWith('[') ? host.slice(1, -1) : host;
  const isIpLiteral = isIP(address) !== 0;

  // Steps 1 and 2 have the server name itself in the Host header, so with its port only where one was given.
  if (isIpLiteral || port !== undefined) {
    const dialled = port ?? defaultFederationPort;
    if (dialled < 1 || dialled > 65_535)
      return { kind: 'undialable', why: `there is no TCP port ${dialled}` };
    return {
      kind: 'target',
      host: address,
      port: dialled,
      hostHeader: name,
      certificateName: address,
      isIpLiteral,
    };
  }
  return { kind: 'needs-lookup', host };
}

/** Step 6: neither `.well-known` nor SRV records say otherwise, so the host itself on port 8448. */
export function targetWithoutDelegation({ host }: NeedsLookup): Target {
  return {
    kind: 'target',
    host,
    port: defaultFederationPort,
    hostHeader: host,
    certificateName: host,
    isIpLiteral: false,
  };
}

/**
 * Resolves by steps 1, 2 and 6 alone. Steps 3 to 5 (`.well-known`, SRV) are deferred: a server that delegates
 * its name is looked for at its undelegated host on port 8448, where most often nothing answers, so that it counts as
 * unreachable; one that answers there must still hold a certificate for that host.
 */
export function resolveWithoutLookups(name: ServerName): Target | Undialable {
  const resolution = resolveServerName(name);
  return resolution.kind === 'needs-lookup' ? targetWithoutDelegation(resolution) : resolution;
}
