import { parseServerName, portOf, type ServerName } from '@exeunt/pdu';

/**
 * Why a `.well-known` names no server. None of it is an error: discovery goes on at step 4. (DS-03)
 *
 * - `unreachable`, `timeout`, `tls`: no answer came from the host, or from where it redirected.
 * - `refused-network`: it, or where it redirected, is at an address that we do not dial. (DS-07)
 * - `status`: an answer other than 200.
 * - `bad-redirect`: to another scheme than https, with a user name, or to no URL at all.
 * - `redirect-loop`, `too-many-redirects`. (DS-02)
 * - `too-large`, `compressed`, `not-json`: no body that we read.
 * - `no-server`: JSON whose `m.server` is missing or no server name with a port that exists.
 */
export type WellKnownFault =
  | 'unreachable'
  | 'timeout'
  | 'tls'
  | 'refused-network'
  | 'status'
  | 'bad-redirect'
  | 'redirect-loop'
  | 'too-many-redirects'
  | 'too-large'
  | 'compressed'
  | 'not-json'
  | 'no-server';

/** The headers that say how long an answer is good; each as it came, the values of a repeated one joined by commas. */
export interface CacheHeaders {
  readonly cacheControl?: string;
  readonly expires?: string;
  readonly date?: string;
  readonly age?: string;
}

/** What asking a host for `/.well-known/matrix/server` came to, redirects followed. */
export type WellKnownAnswer =
  | {
      readonly kind: 'answer';
      /** The last answer's; never a redirect that was to be followed. */
      readonly status: number;
      readonly headers: CacheHeaders;
      /** With status 200; empty or cut off otherwise. */
      readonly body: Uint8Array;
    }
  | {
      readonly kind: 'failed';
      readonly fault: Exclude<WellKnownFault, 'status' | 'not-json' | 'no-server'>;
      /** For people. */
      readonly error: string;
    };

/** What a `.well-known` says: the server that answers for the host, or why it names none. */
export type Delegation =
  | { readonly kind: 'delegated'; readonly server: ServerName }
  | { readonly kind: 'none'; readonly fault: WellKnownFault };

/**
 * Reads an answer. Only a 200 with a JSON object, whatever its content type, whose `m.server` is a server name
 * delegates; its port, where given, must be one that TCP has. (DS-02, DS-03)
 */
export function readWellKnown(answer: WellKnownAnswer): Delegation {
  if (answer.kind === 'failed') return { kind: 'none', fault: answer.fault };
  if (answer.status !== 200) return { kind: 'none', fault: 'status' };
  const json = parsed(answer.body);
  if (json === undefined) return { kind: 'none', fault: 'not-json' };
  const named = isObject(json) && Object.hasOwn(json, 'm.server') ? json['m.server'] : undefined;
  const server = typeof named === 'string' ? parseServerName(named) : undefined;
  if (server === undefined || !isTcpPort(portOf(server) ?? 1)) return { kind: 'none', fault: 'no-server' };
  return { kind: 'delegated', server };
}

/**
 * Lenient where PDUs are not: these files are written by hand, and a byte order mark or a repeated key in one keeps no
 * other server from reading it.
 */
function parsed(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    // How it is broken makes no difference to anyone.
    return undefined;
  }
}

function isObject(json: unknown): json is Readonly<Record<string, unknown>> {
  return typeof json === 'object' && json !== null;
}

/** True for the ports that a connection can be made to, 1 to 65535. */
export function isTcpPort(port: number): boolean {
  return Number.isInteger(port) && port >= 1 && port <= 65_535;
}

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

/** How long what a `.well-known` said is kept. (DS-04; the floor is ours: a host cannot make us ask it all the time) */
export const wellKnownLifetime = {
  defaultMs: 24 * hourMs,
  maxMs: 48 * hourMs,
  minMs: minuteMs,
  maxFaultMs: hourMs,
} as const;

/**
 * How long a delegation is kept, in ms: as its `Cache-Control` or `Expires` says less its `Age`, 24 hours without
 * either, at least a minute, at most 48 hours. (DS-04; RFC 9111, 4.2)
 */
export function delegationLifetimeMs(headers: CacheHeaders, nowTs: number): number {
  const { defaultMs, minMs, maxMs } = wellKnownLifetime;
  return clamp(freshnessMs(headers, nowTs) ?? defaultMs, minMs, maxMs);
}

/**
 * How long it is remembered that a `.well-known` named no server, in ms: with each failure in a row twice as long from
 * a minute on, longer where the answer's headers say so, never above an hour. `failures` counts this one; `jitter`
 * (0 <= x < 1) takes off up to a quarter of our own wait, so that hosts that failed together are not asked together.
 * (DS-04)
 */
export function faultLifetimeMs(
  failures: number,
  jitter: number,
  headers: CacheHeaders,
  nowTs: number,
): number {
  const { maxFaultMs, minMs } = wellKnownLifetime;
  const backoffMs = backoff(failures, jitter, minMs, maxFaultMs);
  return clamp(freshnessMs(headers, nowTs) ?? 0, backoffMs, maxFaultMs);
}

/** `minMs` doubled with each failure after the first, less up to a quarter by `jitter` (0 <= x < 1), at most `maxMs`. */
export function backoff(failures: number, jitter: number, minMs: number, maxMs: number): number {
  return Math.min(minMs * 2 ** Math.min(failures - 1, 30), maxMs) * (1 - jitter / 4);
}

/** As the headers say, which may be nothing; 0 where they say "do not keep", or what no one can read. */
function freshnessMs({ cacheControl, expires, date, age }: CacheHeaders, nowTs: number): number | undefined {
  const directives = (cacheControl ?? '').split(',').map((directive) => directive.trim().toLowerCase());
  if (directives.some((directive) => /^no-(store|cache)(=|$)/.test(directive))) return 0;
  const maxAges = directives.flatMap((directive) => {
    const [name, value] = splitOnce(directive);
    return name === 'max-age' ? [secondsMs(value.replace(/^"(.*)"$/, '$1')) ?? 0] : [];
  });
  const ageMs = secondsMs((age ?? '').trim()) ?? 0;
  // Of several that contradict each other the shortest holds.
  if (maxAges.length > 0) return Math.max(Math.min(...maxAges) - ageMs, 0);
  if (expires === undefined) return undefined;
  const expiresTs = Date.parse(expires);
  if (Number.isNaN(expiresTs)) return 0;
  const dateTs = Date.parse(date ?? '');
  return Math.max(expiresTs - (Number.isNaN(dateTs) ? nowTs : dateTs) - ageMs, 0);
}

function splitOnce(directive: string): [string, string] {
  const equals = directive.indexOf('=');
  return equals < 0
    ? [directive, '']
    : [directive.slice(0, equals).trim(), directive.slice(equals + 1).trim()];
}

/** Digits only; a number too large to be one is as good as the largest. */
function secondsMs(text: string): number | undefined {
  return /^\d+$/.test(text) ? Math.min(Number(text), 2 ** 31) * 1000 : undefined;
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(Math.max(value, min), max);
}
