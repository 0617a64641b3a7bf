import { X509Certificate } from 'node:crypto';
import { lookup as systemLookupByCallback } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import tls, { type SecureContext } from 'node:tls';
import type { Target } from '@exeunt/server-discovery';
import { buildConnector, Pool } from 'undici';
import { mayDial, type Network } from './network-policy.js';
import { refusedNetworkCode } from './remote-error.js';

/** An address of a DNS name. */
export interface FoundAddress {
  readonly address: string;
  readonly family: 4 | 6;
}

/** All addresses of a DNS name, in the order to try; rejects with an error that has a `code` where there are none. */
export type AddressLookup = (hostname: string) => Promise<readonly FoundAddress[]>;

/** `getaddrinfo`, so that a hosts file counts. */
export const systemLookup: AddressLookup = (hostname) =>
  new Promise((resolve, reject) => {
    systemLookupByCallback(hostname, { all: true, order: 'verbatim' }, (error, addresses) => {
      if (error === null) resolve(addresses as FoundAddress[]);
      else reject(error);
    });
  });

/** An address that a name led to, or was, and that was not dialled; for metrics and logs. (DS-07) */
export interface RefusedAddress {
  /** Few values, so fit for a label. */
  readonly purpose: 'request' | 'well-known';
  /** The name or literal that led there. */
  readonly host: string;
  readonly address: string;
}

export interface PeerPoolOptions {
  /** When a connection, TLS included, gives up. */
  readonly timeoutMs: number;
  readonly verifyTls: boolean;
  /** From `secureContextWith`; Node's own roots without it. */
  readonly secureContext?: SecureContext;
  readonly allowed: readonly Network[];
  readonly lookup: AddressLookup;
  readonly connections: number;
  /** Told of each address refused, also where another address of the same name is dialled. Must not throw. */
  readonly onRefused?: (host: string, address: string) => void;
}

/** Connections to one target. */
export interface PeerPool {
  readonly pool: Pool;
  /** False where nothing can be on its way to the target: no connection is open. */
  isConnected(): boolean;
}

/** Idle connections end before most servers (Node: 5 s) end them, so that no request meets a closing one. */
const keepAliveTimeoutMs = 4000;

/**
 * How long one of several addresses has for TCP before the next is tried; the last has all the time there is. Node's
 * own 250 ms give up on servers at the other end of the world.
 */
const addressTimeoutMs = 1000;

/**
 * Kept-alive HTTPS/1.1 connections to one target, at most `connections`, opened on demand; all addresses of its host
 * are tried.
 *
 * Each new connection looks the name up anew and dials only addresses that `mayDial`: the check is made in the
 * look-up whose result is dialled, so a name cannot change between the two. SNI and certificate are for the target's
 * name; an IP literal sends no SNI. Of an error it can be told by `wasNotSent` that no connection came about. (DS-05 to
 * DS-07)
 */
export function poolFor(target: Target, options: PeerPoolOptions): PeerPool {
  const connectTls = buildConnector({
    timeout: options.timeoutMs,
    rejectUnauthorized: options.verifyTls,
    ...(options.secureContext === undefined ? {} : { secureContext: options.secureContext }),
    lookup: checkedLookup(options),
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: addressTimeoutMs,
    maxCachedSessions: 1,
  });
  let open = 0;
  const connect: buildConnector.connector = (_, callback) => {
    const onEnd: buildConnector.Callback = (...result) => {
      const [error, socket] = result;
      if (error !== null) {
        unsent.add(error);
      } else {
        open += 1;
        socket.once('close', () => (open -= 1));
      }
      callback(...result);
    };
    // An address is dialled without a look-up, so it is checked here; SRV records may have one too.
    if (isIP(target.host) !== 0 && !mayDial(target.host, options.allowed)) {
      options.onRefused?.(target.host, target.host);
      onEnd(refusal(target.host), null);
      return;
    }
    const isIpv6 = isIP(target.host) === 6;
    const dialled = {
      protocol: 'https:',
      hostname: target.host,
      host: isIpv6 ? `[${target.host}]` : target.host,
      port: String(target.port),
    };
    connectTls(target.isIpLiteral ? dialled : { ...dialled, servername: target.certificateName }, onEnd);
  };
  // Where it leads is the connector's business: a server name need not be a host that URLs know.
  const pool = new Pool('https://peer.invalid', {
    connect,
    connections: options.connections,
    pipelining: 1,
    allowH2: false,
    keepAliveTimeout: keepAliveTimeoutMs,
    keepAliveMaxTimeout: keepAliveTimeoutMs,
  });
  return { pool, isConnected: () => open > 0 };
}

const unsent = new WeakSet<Error>();

/** True for the error of a connection that did not come about, so that nothing was sent over it. */
export function wasNotSent(thrown: unknown): boolean {
  return thrown instanceof Error && unsent.has(thrown);
}

function checkedLookup({ lookup, allowed, onRefused }: PeerPoolOptions): LookupFunction {
  return (hostname, { all, family }, callback) => {
    const dial = (found: readonly FoundAddress[]) => {
      const wanted = found.filter((each) => !isFamily(family) || each.family === family);
      const usable = wanted.filter(({ address }) => {
        const isUsable = mayDial(address, allowed);
        if (!isUsable) onRefused?.(hostname, address);
        return isUsable;
      });
      const [first] = usable;
      if (wanted.length === 0) callback(noAddress(hostname), '', 0);
      else if (first === undefined) callback(refusal(hostname), '', 0);
      else if (all === true) callback(null, usable);
      else callback(null, first.address, first.family);
    };
    lookup(hostname).then(dial, (error: NodeJS.ErrnoException) => callback(error, '', 0));
  };
}

function isFamily(family: unknown): family is 4 | 6 {
  return family === 4 || family === 6;
}

function noAddress(host: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${host} has no address`), { code: 'ENOTFOUND' });
}

function refusal(host: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${host} leads only to addresses that are not to be dialled`), {
    code: refusedNetworkCode,
  });
}

/**
 * TLS that trusts the certificates in `ca` (PEM, one or more) as well as the system's roots. To be made once: reading
 * some 150 certificates for each connection would cost more than the rest of it. Throws `TypeError` where `ca` holds
 * no certificate or a broken one, which OpenSSL would pass over in silence.
 */
export function secureContextWith(ca: string): SecureContext {
  const certificates = ca.match(/-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----/gs) ?? [];
  if (certificates.length === 0) throw new TypeError('no certificate in PEM among the further roots');
  try {
    certificates.forEach((certificate) => void new X509Certificate(certificate));
  } catch (cause) {
    throw new TypeError('a broken certificate among the further roots', { cause });
  }
  // `getCACertificates` is newer than the oldest Node we run on.
  const system =
    typeof tls.getCACertificates === 'function' ? tls.getCACertificates('default') : tls.rootCertificates;
  return tls.createSecureContext({ ca: [...system, ...certificates] });
}
