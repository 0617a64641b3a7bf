import type { IncomingHttpHeaders } from 'node:http';
import { isIP } from 'node:net';
import type { CacheHeaders, Target, WellKnownAnswer, WellKnownFetch } from '@exeunt/server-discovery';
import { parseNetworks } from './network-policy.js';
import {
  poolFor,
  secureContextWith,
  systemLookup,
  type AddressLookup,
  type PeerPoolOptions,
  type RefusedAddress,
} from './peer-pool.js';
import { remoteErrorOf } from './remote-error.js';
import { discard, firstOf, isCompressed, readBody } from './response-body.js';

export interface WellKnownFetchOptions {
  /** False only in test networks: any certificate is taken. */
  readonly verifyTls: boolean;
  /** PEM of further roots, in addition to the system's. (DS-06) */
  readonly ca?: string;
  /** CIDR texts; networks that may be dialled although they are not public. */
  readonly allowNetworks: readonly string[];
  /**
   * When it gives up, redirects included; 5000 unless told. Short, since whoever wants the server waits for it, and a
   * host whose web server stays silent may well have a homeserver.
   */
  readonly timeoutMs?: number;
  /** Most bytes of body; 50 KiB unless told. (DS-07) */
  readonly maxBodyBytes?: number;
  /** Where URLs without a port are dialled. 443, and something else only in tests that may not listen there. (DS-01) */
  readonly wellKnownPort?: number;
}

export interface WellKnownFetchDependencies {
  readonly options: WellKnownFetchOptions;
  /** Addresses of a DNS name; the system's (`getaddrinfo`) unless told. */
  readonly lookup?: AddressLookup;
  /** Told of each address that was not dialled, after redirects too. Must not throw. (DS-07) */
  readonly onRefusedAddress?: (refused: RefusedAddress) => void;
}

/** Most redirects that are followed. (DS-02, DS-07) */
export const maxRedirects = 5;

const redirectStatuses = new Set([301, 302, 303, 307, 308]);

/**
 * Fetches `https://{host}/.well-known/matrix/server` over verified TLS from addresses that were checked when they were
 * dialled, those of redirects as well. Redirects are followed to https alone, at most five, none twice; nothing is
 * sent along but the request. It asks for no compression and takes none. (DS-01, DS-02, DS-07)
 *
 * Throws `TypeError` for a network that is not in CIDR form, and for further roots that are no certificates; what it
 * gives never rejects.
 */
export function wellKnownFetch({
  options,
  lookup = systemLookup,
  onRefusedAddress,
}: WellKnownFetchDependencies): WellKnownFetch {
  const { timeoutMs = 5000, maxBodyBytes = 50 * 1024, wellKnownPort = 443 } = options;
  const poolOptions: PeerPoolOptions = {
    timeoutMs,
    verifyTls: options.verifyTls,
    ...(options.ca === undefined ? {} : { secureContext: secureContextWith(options.ca) }),
    allowed: parseNetworks(options.allowNetworks),
    lookup,
    connections: 1,
    onRefused: (host, address) => onRefusedAddress?.({ purpose: 'well-known', host, address }),
  };

  return async (host) => {
    const ending = new AbortController();
    const outOfTime = failed('timeout', `no .well-known within ${timeoutMs} ms`);
    let end: (answer: WellKnownAnswer) => void = () => {};
    const ended = new Promise<WellKnownAnswer>((resolve) => (end = resolve));
    const timer = setTimeout(() => {
      end(outOfTime);
      ending.abort();
    }, timeoutMs);
    try {
      return await Promise.race([ended, follow(host, ending.signal).catch(failureOf)]);
    } finally {
      clearTimeout(timer);
    }
  };

  async function follow(host: string, signal: AbortSignal): Promise<WellKnownAnswer> {
    let url = parseUrl(`https://${host}/.well-known/matrix/server`);
    // A URL knows fewer names than DNS, and takes some, such as 2130706433, for addresses that they are not.
    if (url?.hostname !== host.toLowerCase()) {
      return failed('unreachable', `${host} is no host of a URL`);
    }
    const seen = new Set<string>();
    for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
      seen.add(url.href);
      const answer = await ask(url, signal);
      if (!('location' in answer)) return answer;
      const next: URL | undefined = parseUrl(answer.location, url.href);
      if (next?.protocol !== 'https:' || next.username !== '' || next.password !== '') {
        return failed('bad-redirect', `redirected to ${answer.location.slice(0, 200)}`);
      }
      next.hash = '';
      if (seen.has(next.href))
        return failed('redirect-loop', `redirected to ${next.href.slice(0, 200)} again`);
      url = next;
    }
    return failed('too-many-redirects', `more than ${maxRedirects} redirects`);
  }

  async function ask(
    url: URL,
    signal: AbortSignal,
  ): Promise<WellKnownAnswer | { readonly location: string }> {
    signal.throwIfAborted();
    const { pool } = poolFor(targetOf(url), poolOptions);
    const destroy = () => void pool.destroy().catch(() => {});
    // Aborting a request would leave its connection to come about.
    signal.addEventListener('abort', destroy, { once: true });
    try {
      const response = await pool.request({
        method: 'GET',
        path: url.pathname + url.search,
        headers: {
          host: url.host,
          accept: 'application/json',
          'accept-encoding': 'identity',
          'user-agent': 'Exeunt',
        },
        headersTimeout: 0,
        bodyTimeout: 0,
      });
      const location = firstOf(response.headers, 'location');
      if (redirectStatuses.has(response.statusCode) && location !== undefined) {
        discard(response);
        return { location };
      }
      if (response.statusCode !== 200) {
        discard(response);
        return answerOf(response.statusCode, response.headers, new Uint8Array());
      }
      if (isCompressed(response)) {
        discard(response);
        return failed('compressed', 'the answer is compressed, which was not asked for');
      }
      const body = await readBody(response, maxBodyBytes);
      if (body === undefined) return failed('too-large', `the answer has more than ${maxBodyBytes} bytes`);
      return answerOf(200, response.headers, body);
    } finally {
      destroy();
    }
  }

  function targetOf(url: URL): Target {
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const isIpLiteral = isIP(host) !== 0;
    return {
      kind: 'target',
      host,
      port: url.port === '' ? wellKnownPort : Number(url.port),
      hostHeader: url.host,
      certificateName: isIpLiteral ? host : host.replace(/\.$/, ''),
      isIpLiteral,
    };
  }
}

/** `URL.parse`, which is newer than the oldest Node we run on. */
function parseUrl(text: string, base?: string): URL | undefined {
  return URL.canParse(text, base) ? new URL(text, base) : undefined;
}

function answerOf(status: number, headers: IncomingHttpHeaders, body: Uint8Array): WellKnownAnswer {
  return { kind: 'answer', status, headers: cacheHeaders(headers), body };
}

function cacheHeaders(headers: IncomingHttpHeaders): CacheHeaders {
  const cacheControl: string | string[] | undefined = headers['cache-control'];
  const expires = firstOf(headers, 'expires');
  const date = firstOf(headers, 'date');
  const age = firstOf(headers, 'age');
  return {
    ...(cacheControl === undefined ? {} : { cacheControl: [cacheControl].flat().join(',') }),
    ...(expires === undefined ? {} : { expires }),
    ...(date === undefined ? {} : { date }),
    ...(age === undefined ? {} : { age }),
  };
}

type Failure = Extract<WellKnownAnswer, { kind: 'failed' }>;

function failed(fault: Failure['fault'], error: string): Failure {
  return { kind: 'failed', fault, error };
}

/** What an exception of the HTTP client stands for. */
function failureOf(thrown: unknown): Failure {
  const { kind, error } = remoteErrorOf(thrown);
  switch (kind) {
    case 'timeout':
    case 'tls':
    case 'refused-network':
    case 'too-large':
    case 'unreachable':
      return failed(kind, error);
    case 'not-json':
    case 'http':
      return failed('unreachable', error);
  }
}
