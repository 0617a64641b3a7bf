import { isJsonObject, memberOf, type JsonValue } from '@exeunt/signing';

/**
 * What went wrong on the way to a peer, or there.
 *
 * - `unreachable`: no whole HTTP answer came: no such name, connection refused or broken, not HTTP.
 * - `timeout`: the time for the request ran out, or the caller gave up. The peer may have acted on it.
 * - `tls`: no secure connection, most often a certificate that is not the server's. Nothing was sent. (RA-15)
 * - `refused-network`: the name leads only to addresses we do not dial. Nothing was sent. (DS-07)
 * - `too-large`: the answer has more bytes than the call takes.
 * - `not-json`: a good status, but the answer is compressed, no JSON, or not of the endpoint's shape. (HT-02)
 * - `http`: an answer with another status than 200, redirects included. (DS-08)
 */
export type RemoteErrorKind =
  'unreachable' | 'timeout' | 'tls' | 'refused-network' | 'too-large' | 'not-json' | 'http';

/** How a peer or the network let us down: a value, never thrown. */
export interface RemoteError {
  readonly ok: false;
  readonly kind: RemoteErrorKind;
  /** With `http`. */
  readonly status?: number;
  /** With `http`, where the answer is a Matrix error. */
  readonly errcode?: string;
  /** For people: the peer's own words or ours, at most 500 characters. Not to be trusted with markup. */
  readonly error: string;
  /** How long the peer asks to be left alone; 0 to a day. */
  readonly retryAfterMs?: number;
  /** `no`: the peer has understood and refused, the same request will not fare better. */
  readonly retry: 'later' | 'no';
}

const maxErrorText = 500;
const maxRetryAfterMs = 24 * 3_600_000;

/** Statuses below 500 that say something about now and not about the request. */
const passingStatuses = new Set([401, 408, 425, 429]);

/** A `RemoteError` of a kind without a status. */
export function remoteError(kind: Exclude<RemoteErrorKind, 'http'>, error: string): RemoteError {
  return { ok: false, kind, error: error.slice(0, maxErrorText), retry: 'later' };
}

/**
 * A status other than 200, in the words of the peer. `body` is undefined where there was no JSON; such a 4xx comes
 * from a proxy or the wrong server, not from Matrix, and may pass. A 401 may too: the peer could not get our keys.
 * `retryAfter` is the header, in seconds or as a date. (HT-04, HT-06)
 */
export function httpError(
  status: number,
  body: JsonValue | undefined,
  retryAfter: string | undefined,
  nowTs: number,
): RemoteError {
  const object = isJsonObject(body) ? body : {};
  const errcode = memberOf(object, 'errcode');
  const error = memberOf(object, 'error');
  const isFinal =
    status >= 400 && status < 500 && typeof errcode === 'string' && !passingStatuses.has(status);
  const retryAfterMs = boundedWait(memberOf(object, 'retry_after_ms')) ?? waitOf(retryAfter, nowTs);
  return {
    ok: false,
    kind: 'http',
    status,
    ...(typeof errcode === 'string' ? { errcode: errcode.slice(0, 255) } : {}),
    error: (typeof error === 'string' ? error : `HTTP status ${status}`).slice(0, maxErrorText),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    retry: isFinal ? 'no' : 'later',
  };
}

function waitOf(retryAfter: string | undefined, nowTs: number): number | undefined {
  if (retryAfter === undefined) return undefined;
  if (/^\s*\d{1,9}\s*$/.test(retryAfter)) return boundedWait(Number(retryAfter) * 1000);
  const at = Date.parse(retryAfter);
  return Number.isNaN(at) ? undefined : boundedWait(at - nowTs);
}

function boundedWait(ms: JsonValue | undefined): number | undefined {
  return typeof ms === 'number' ? Math.min(Math.max(ms, 0), maxRetryAfterMs) : undefined;
}

/**
 * True where the answer says that the peer does not have the endpoint, so that an older one may be tried:
 * `M_UNRECOGNIZED` with 400, 404 or 405, or a 404 or 405 that is no Matrix error. A 404 `M_NOT_FOUND` is an answer.
 * (TOP-01, HT-03)
 */
export function lacksEndpoint({ status, errcode }: RemoteError): boolean {
  if (status === 404 || status === 405) return errcode === undefined || errcode === 'M_UNRECOGNIZED';
  return status === 400 && errcode === 'M_UNRECOGNIZED';
}

/** True where an invite refused by v2 may go by v1, if the room is of version 1 or 2. (IN-03) */
export function mayInviteByV1({ status, errcode }: RemoteError): boolean {
  return status === 400 || status === 404 || (status === 405 && errcode !== 'M_FORBIDDEN');
}

/** What an exception of the HTTP client stands for. */
export function remoteErrorOf(thrown: unknown): RemoteError {
  const code = codeOf(thrown);
  const text = thrown instanceof Error ? thrown.message || code : String(thrown);
  if (code === refusedNetworkCode) return remoteError('refused-network', text);
  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') return remoteError('timeout', text);
  if (code === 'UND_ERR_HEADERS_OVERFLOW') return remoteError('too-large', text);
  if (code === 'EPROTO' || tlsCodes.test(code)) return remoteError('tls', `${code}: ${text}`);
  return remoteError('unreachable', text === '' ? 'no connection' : text);
}

/** The `code` of an error that says an address was not dialled. */
export const refusedNetworkCode = 'ERR_REFUSED_NETWORK';

/** Codes of Node's TLS layer and of OpenSSL's certificate checks. */
const tlsCodes =
  /^ERR_TLS|^ERR_SSL|CERT|^UNABLE_TO_|^HOSTNAME_MISMATCH$|^INVALID_(CA|PURPOSE)$|_CHAIN_TOO_LONG$|^PATH_LENGTH_EXCEEDED$|^CRL_/;

function codeOf(thrown: unknown): string {
  if (typeof thrown !== 'object' || thrown === null || !('code' in thrown)) return '';
  return typeof thrown.code === 'string' ? thrown.code : '';
}
