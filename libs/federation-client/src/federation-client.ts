import { encodeCanonicalJson, isJsonObject, parseJsonBytes, signRequestWithBody } from '@exeunt/signing';
import type { CanonicalJson, JsonObject, JsonValue, SigningKey } from '@exeunt/signing';
import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import { inSpan, noTracing, SpanKind, SpanStatusCode, type Tracing } from '@exeunt/tracing';
import { resolveWithoutLookups, type Resolution, type Target } from '@exeunt/server-discovery';
import { LRUCache } from 'lru-cache';
import type { Dispatcher } from 'undici';
import { parseNetworks } from './network-policy.js';
import {
  poolFor,
  secureContextWith,
  systemLookup,
  wasNotSent,
  type AddressLookup,
  type PeerPool,
  type PeerPoolOptions,
  type RefusedAddress,
} from './peer-pool.js';
import { httpError, remoteError, remoteErrorOf, type RemoteError } from './remote-error.js';
import { discard, firstOf, isCompressed, readBody } from './response-body.js';
import { TargetHealth } from './target-health.js';

/** A peer's good answer: status 200 and a JSON object of the endpoint's shape, v1's array wrapper taken off. */
export interface Answer {
  readonly ok: true;
  readonly status: number;
  readonly body: JsonObject;
}

/** What became of a request. A peer's fault is never an exception. */
export type FederationResult = Answer | RemoteError;

/** What one call may do otherwise than the client's options say. */
export interface CallOptions {
  /** Everything included: look-up, connection, waiting for a free one, the whole body. */
  readonly timeoutMs?: number;
  /** Most bytes of body an answer may have. */
  readonly maxBodyBytes?: number;
  /** Ends the request; the result is then a `timeout`. */
  readonly signal?: AbortSignal;
}

/** One finished request, for metrics. */
export interface RequestOutcome {
  /** The method of the client, such as `makeLeave`: few values, so fit for a label. */
  readonly endpoint: string;
  readonly server: ServerName;
  readonly outcome: 'ok' | RemoteError['kind'];
  readonly status?: number;
  readonly durationMs: number;
}

export interface FederationClientOptions {
  /** When a request gives up, all included. */
  readonly timeoutMs: number;
  /** False only in test networks: any certificate is taken. */
  readonly verifyTls: boolean;
  /** PEM of further roots, in addition to the system's. (DS-06) */
  readonly ca?: string;
  /** CIDR texts; networks that may be dialled although they are not public. */
  readonly allowNetworks: readonly string[];
  /** Most bytes of body an answer may have; 1 MiB unless told. (DS-07) */
  readonly maxBodyBytes?: number;
  /** Most connections to one peer at a time; further requests wait for one. 6 unless told. */
  readonly maxConnectionsPerPeer?: number;
  /** Most peers whose connections are kept; that of the peer not used for longest is closed. 2,048 unless told. */
  readonly maxPeers?: number;
}

export interface FederationClientDependencies {
  readonly serverName: ServerName;
  readonly signingKey: SigningKey;
  /** Milliseconds since the epoch; reads a `Retry-After` that is a date. Timeouts run on real time. */
  readonly now: () => number;
  readonly options: FederationClientOptions;
  /**
   * Where a server is, in the order to try: `ServerDiscovery`, or `resolveWithoutLookups` unless told. Settles within a
   * bounded time; the request's own time runs meanwhile.
   */
  readonly resolve?: (server: ServerName) => Resolution | Promise<Resolution>;
  /** Addresses of a DNS name; the system's (`getaddrinfo`) unless told. */
  readonly lookup?: AddressLookup;
  /** Told of each request when it has ended. Must not throw. */
  readonly onOutcome?: (outcome: RequestOutcome) => void;
  /** Where the span of each request goes; nowhere unless told. Other servers are not told of traces. */
  readonly tracing?: Tracing;
  /**
   * Told of each address that was not dialled, also where the request went to another address or target and its
   * outcome says nothing of it. Must not throw. (DS-07)
   */
  readonly onRefusedAddress?: (refused: RefusedAddress) => void;
}

const mebibyte = 1024 * 1024;
/** Of an answer that only says no, its first words are enough. */
const maxErrorBodyBytes = 64 * 1024;
/** Fetching keys holds up whoever waits to be authenticated, so it gives up early. */
const keyTimeoutMs = 10_000;
/** A PDU of 64 KiB, written less tightly than canonical JSON. */
const maxEventBytes = 128 * 1024;
const maxJsonDepth = 100;
/** How long a connection may take where there is another target to try. */
const maxConnectMs = 5000;

interface FederationRequest {
  readonly endpoint: string;
  readonly method: 'GET' | 'PUT' | 'POST';
  /** The request target as it goes over the wire and is signed. (RA-03) */
  readonly uri: string;
  readonly body?: CanonicalJson;
  readonly isSigned: boolean;
  /** Takes the object out of the answer; undefined where the answer is not of the endpoint's shape. */
  readonly read: (body: JsonValue) => JsonObject | undefined;
}

/**
 * Federation requests to other homeservers, one method an endpoint; the only place that knows what a peer's status
 * means.
 *
 * Requests are signed over the exact request target (RA-02, RA-03), go over verified TLS to an address that was
 * checked when it was dialled (DS-06, DS-07), follow no redirect (DS-08), ask for no compression and take none, and
 * are bounded in time and size.
 *
 * Of several targets (SRV records) the next is tried where no connection to the one before came about: it was
 * unreachable, slow to connect, of a wrong certificate, or at a refused address; those that failed lately go last
 * (DS-09). Once a request may have been sent it is never sent again, though every request here is idempotent (GET, or
 * PUT under a txnId or an event ID): what fails then is the server, which all targets are, and when to try that again is
 * the caller's decision.
 *
 * Connections are kept alive and bounded, a peer and in all. Throws only for what is ours: content that is no JSON,
 * or a client that is closed.
 */
export class FederationClient {
  readonly #dependencies: FederationClientDependencies;
  readonly #poolOptions: PeerPoolOptions;
  readonly #pools: LRUCache<string, PooledPeer>;
  readonly #health: TargetHealth;
  #isClosed = false;

  /** Throws `TypeError` for a network that is not in CIDR form, and for further roots that are no certificates. */
  constructor(dependencies: FederationClientDependencies) {
    const { options } = dependencies;
    this.#dependencies = dependencies;
    this.#poolOptions = {
      timeoutMs: options.timeoutMs,
      verifyTls: options.verifyTls,
      ...(options.ca === undefined ? {} : { secureContext: secureContextWith(options.ca) }),
      allowed: parseNetworks(options.allowNetworks),
      lookup: dependencies.lookup ?? systemLookup,
      connections: options.maxConnectionsPerPeer ?? 6,
      onRefused: (host, address) => dependencies.onRefusedAddress?.({ purpose: 'request', host, address }),
    };
    const maxPeers = options.maxPeers ?? 2048;
    this.#pools = new LRUCache({
      max: maxPeers,
      // Closing waits for the requests under way; they end by their own timeout.
      dispose: ({ pool }) => void pool.close().catch(() => {}),
    });
    this.#health = new TargetHealth(maxPeers, dependencies.now);
  }

  /** `GET /_matrix/key/v2/server`: unauthenticated and unchecked, for the key ring to judge. (KY-01) */
  serverKeys(server: ServerName, call: CallOptions = {}): Promise<FederationResult> {
    const timeoutMs = Math.min(this.#dependencies.options.timeoutMs, keyTimeoutMs);
    return this.#request(
      server,
      {
        endpoint: 'serverKeys',
        method: 'GET',
        uri: '/_matrix/key/v2/server',
        isSigned: false,
        read: wholeObject,
      },
      { timeoutMs, ...call },
    );
  }

  /** `GET /_matrix/federation/v1/version`, unauthenticated: `{server: {name, version}}`. (FE-07) */
  version(server: ServerName, call: CallOptions = {}): Promise<FederationResult> {
    return this.#request(
      server,
      { endpoint: 'version', method: 'GET', uri: path('v1', 'version'), isSigned: false, read: wholeObject },
      call,
    );
  }

  /** `GET v1/make_leave/{roomId}/{userId}`: `{room_version?, event}`, unchecked. (ML-01, LV-04) */
  makeLeave(
    server: ServerName,
    roomId: RoomId,
    userId: UserId,
    call: CallOptions = {},
  ): Promise<FederationResult> {
    return this.#request(
      server,
      {
        endpoint: 'makeLeave',
        method: 'GET',
        uri: path('v1', 'make_leave', roomId, userId),
        isSigned: true,
        read: wholeObject,
      },
      call,
    );
  }

  /** `PUT v2/send_leave/{roomId}/{eventId}`; the answer is `{}`. Where it `lacksEndpoint`, v1 is next. (SV-05) */
  sendLeaveV2(
    server: ServerName,
    roomId: RoomId,
    eventId: EventId,
    leave: JsonObject,
    call: CallOptions = {},
  ): Promise<FederationResult> {
    const uri = path('v2', 'send_leave', roomId, eventId);
    return this.#put('sendLeaveV2', server, uri, leave, wholeObject, call);
  }

  /** `PUT v1/send_leave/{roomId}/{eventId}`; the answer's `[200, {}]` is given as `{}`. (TOP-01) */
  sendLeaveV1(
    server: ServerName,
    roomId: RoomId,
    eventId: EventId,
    leave: JsonObject,
    call: CallOptions = {},
  ): Promise<FederationResult> {
    const uri = path('v1', 'send_leave', roomId, eventId);
    return this.#put('sendLeaveV1', server, uri, leave, arrayWrapped, call);
  }

  /**
   * `PUT v2/invite/{roomId}/{eventId}` with `{room_version, event, invite_room_state}`; the answer is `{event}`,
   * unchecked: that it is the event sent plus a signature is the caller's to see. Where `mayInviteByV1`, v1 is next
   * for rooms of version 1 and 2. (IN-01, IN-03, IN-11)
   */
  inviteV2(
    server: ServerName,
    roomId: RoomId,
    eventId: EventId,
    body: JsonObject,
    call: CallOptions = {},
  ): Promise<FederationResult> {
    const uri = path('v2', 'invite', roomId, eventId);
    return this.#put('inviteV2', server, uri, body, wholeObject, call);
  }

  /**
   * `PUT v1/invite/{roomId}/{eventId}` with the event itself, the room's state in `unsigned.invite_room_state`; the
   * answer's `[200, {event}]` is given as `{event}`, unchecked. (IN-02, IN-11)
   */
  inviteV1(
    server: ServerName,
    roomId: RoomId,
    eventId: EventId,
    invite: JsonObject,
    call: CallOptions = {},
  ): Promise<FederationResult> {
    const uri = path('v1', 'invite', roomId, eventId);
    return this.#put('inviteV1', server, uri, invite, arrayWrapped, call);
  }

  /**
   * `PUT v1/send/{txnId}` with `{origin, origin_server_ts, pdus, edus?}`, which goes out as the bytes given; the
   * answer is `{pdus: {eventId: {} | {error}}}`, unchecked. Repeat it with the same ID and body until the result is
   * ok. (TX-01 to TX-04)
   */
  sendTransaction(
    server: ServerName,
    txnId: string,
    body: CanonicalJson,
    call: CallOptions = {},
  ): Promise<FederationResult> {
    const uri = path('v1', 'send', txnId);
    const endpoint = 'sendTransaction';
    return this.#request(
      server,
      { endpoint, method: 'PUT', uri, body, isSigned: true, read: wholeObject },
      call,
    );
  }

  /**
   * `POST v1/get_missing_events/{roomId}`; the answer is `{events}`, unchecked: what they are, and that they are what
   * was asked for, is the caller's to see. (FE-03, FE-09)
   */
  missingEvents(
    server: ServerName,
    roomId: RoomId,
    asked: {
      readonly latest: readonly EventId[];
      readonly earliest: readonly EventId[];
      readonly limit: number;
    },
    call: CallOptions = {},
  ): Promise<FederationResult> {
    return this.#request(
      server,
      {
        endpoint: 'missingEvents',
        method: 'POST',
        uri: path('v1', 'get_missing_events', roomId),
        body: encodeCanonicalJson({
          latest_events: asked.latest,
          earliest_events: asked.earliest,
          limit: asked.limit,
        }),
        isSigned: true,
        read: wholeObject,
      },
      { maxBodyBytes: asked.limit * maxEventBytes, ...call },
    );
  }

  /** Closes every connection at once; requests under way end as `unreachable`. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all(pools.map(({ pool }) => pool.destroy()));
  }

  async #put(
    endpoint: string,
    server: ServerName,
    uri: string,
    content: JsonObject,
    read: FederationRequest['read'],
    call: CallOptions,
  ): Promise<FederationResult> {
    // Encoded before anything is awaited: what is wrong here is our own fault, and thrown.
    const body = encodeCanonicalJson(content);
    return await this.#request(server, { endpoint, method: 'PUT', uri, body, isSigned: true, read }, call);
  }

  async #request(
    server: ServerName,
    request: FederationRequest,
    call: CallOptions,
  ): Promise<FederationResult> {
    if (this.#isClosed) throw new Error('the federation client is closed');
    const { tracing = noTracing, onOutcome } = this.#dependencies;
    const { endpoint, method } = request;
    const span = tracing.begin(`${method} ${endpoint}`, {
      kind: SpanKind.CLIENT,
      attributes: { 'http.request.method': method, 'matrix.endpoint': endpoint, 'server.address': server },
    });
    const startedAt = performance.now();
    return inSpan(span, async () => {
      try {
        const result = await this.#bounded(server, request, call);
        const outcome = result.ok ? 'ok' : result.kind;
        if (result.status !== undefined) span.setAttribute('http.response.status_code', result.status);
        if (!result.ok) span.setAttribute('error.type', outcome).setStatus({ code: SpanStatusCode.ERROR });
        onOutcome?.({
          endpoint,
          server,
          outcome,
          ...(result.status === undefined ? {} : { status: result.status }),
          durationMs: performance.now() - startedAt,
        });
        return result;
      } finally {
        span.end();
      }
    });
  }

  /** Gives the request its time. The answer to one that is out of time is not waited for. */
  async #bounded(
    server: ServerName,
    request: FederationRequest,
    call: CallOptions,
  ): Promise<FederationResult> {
    const headers = this.#headers(server, request);

    const startedAt = performance.now();
    const { timeoutMs } = { timeoutMs: this.#dependencies.options.timeoutMs, ...call };
    const ending = new AbortController();
    let outOfTime: RemoteError | undefined;
    let end: (error: RemoteError) => void = () => {};
    const ended = new Promise<RemoteError>((resolve) => (end = resolve));
    const giveUp = (why: string) => {
      outOfTime = remoteError('timeout', why);
      end(outOfTime);
      ending.abort();
    };
    const onAbort = () => giveUp('the caller gave up');
    const timer = setTimeout(() => giveUp(`no answer within ${timeoutMs} ms`), timeoutMs);
    call.signal?.addEventListener('abort', onAbort, { once: true });
    if (call.signal?.aborted) onAbort();
    try {
      const outgoing = { ...request, headers, signal: ending.signal, untilTs: startedAt + timeoutMs };
      const exchanged = this.#exchange(server, outgoing, call.maxBodyBytes).catch(
        (thrown: unknown) => outOfTime ?? remoteErrorOf(thrown),
      );
      return await Promise.race([ended, exchanged]);
    } finally {
      clearTimeout(timer);
      call.signal?.removeEventListener('abort', onAbort);
    }
  }

  #headers(server: ServerName, { method, uri, body, isSigned }: FederationRequest): Record<string, string> {
    const { serverName: origin, signingKey } = this.#dependencies;
    const signed = { method, uri, origin, destination: server };
    return {
      accept: 'application/json',
      // A compressed answer may be a thousand times its size; without one the bound is on what comes over the wire.
      'accept-encoding': 'identity',
      'user-agent': 'Exeunt',
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(isSigned
        ? {
            authorization: signRequestWithBody(
              { ...signed, ...(body === undefined ? {} : { body }) },
              signingKey,
            ),
          }
        : {}),
    };
  }

  async #exchange(
    server: ServerName,
    request: OutgoingRequest,
    maxBodyBytes: number | undefined,
  ): Promise<FederationResult> {
    const resolution = await (this.#dependencies.resolve ?? resolveWithoutLookups)(server);
    if (resolution.kind === 'undialable') return remoteError('unreachable', resolution.why);
    request.signal.throwIfAborted();

    const response = await this.#firstAnswer(resolution.targets, request);
    if ('ok' in response) return response;
    const limit = maxBodyBytes ?? this.#dependencies.options.maxBodyBytes ?? mebibyte;
    if (response.statusCode !== 200) {
      const body = await readBody(response, Math.min(limit, maxErrorBodyBytes));
      const retryAfter = firstOf(response.headers, 'retry-after');
      return httpError(response.statusCode, parsed(body), retryAfter, this.#dependencies.now());
    }
    if (isCompressed(response)) {
      discard(response);
      return remoteError('not-json', 'the answer is compressed, which was not asked for');
    }
    const bytes = await readBody(response, limit);
    if (bytes === undefined) return remoteError('too-large', `the answer has more than ${limit} bytes`);
    const value = parsed(bytes);
    if (value === undefined) return remoteError('not-json', 'the answer is not JSON');
    const body = request.read(value);
    return body === undefined
      ? remoteError('not-json', 'the answer is not of the shape of this endpoint')
      : { ok: true, status: response.statusCode, body };
  }

  /** The answer of the first target that a connection can be made to, or why there is none to the last. */
  async #firstAnswer(
    targets: readonly Target[],
    request: OutgoingRequest,
  ): Promise<Dispatcher.ResponseData | RemoteError> {
    const failures: string[] = [];
    let failure = remoteError('unreachable', 'there is no target');
    const ordered = this.#health.lastThoseThatFailed(targets);
    for (const [index, target] of ordered.entries()) {
      const left = ordered.length - index;
      // Each may take its share of the time, and the last all that is left.
      const shareMs = Math.min((request.untilTs - performance.now()) / left, maxConnectMs);
      try {
        const response = await this.#send(target, request, left > 1 ? shareMs : undefined);
        this.#health.connected(target);
        return response;
      } catch (thrown) {
        if (request.signal.aborted || !(thrown instanceof NotConnected)) throw thrown;
        this.#health.failed(target);
        failure = thrown.error;
        failures.push(`${target.host}:${target.port}: ${failure.error}`);
      }
    }
    if (failures.length <= 1) return failure;
    return { ...failure, error: `no target can be reached: ${failures.join('; ')}`.slice(0, 500) };
  }

  /** Throws `NotConnected` where nothing was sent: no connection came about, or none within `connectWithinMs`. */
  async #send(
    target: Target,
    { method, uri, headers, body, signal }: OutgoingRequest,
    connectWithinMs: number | undefined,
  ): Promise<Dispatcher.ResponseData> {
    const key = JSON.stringify([target.host, target.port, target.certificateName, target.hostHeader]);
    const peer = this.#poolOf(key, target);
    peer.requests += 1;
    const leaving = connectWithinMs === undefined ? undefined : new AbortController();
    const sent = peer.pool.request({
      method,
      path: uri,
      headers: { ...headers, host: target.hostHeader },
      ...(body === undefined ? {} : { body }),
      signal: leaving === undefined ? signal : AbortSignal.any([signal, leaving.signal]),
      // The whole request has one time limit, held above.
      headersTimeout: 0,
      bodyTimeout: 0,
    });
    let timer: NodeJS.Timeout | undefined;
    try {
      if (connectWithinMs === undefined) return await sent;
      const left = new Promise<never>((_, reject) => {
        timer = setTimeout(() => {
          // With a connection open the request may be on its way.
          if (peer.isConnected()) return;
          // An aborted request is not sent, but undici says so only when a connection has come about or not.
          leaving?.abort();
          reject(
            new NotConnected(remoteError('timeout', `no connection within ${Math.ceil(connectWithinMs)} ms`)),
          );
        }, connectWithinMs);
      });
      return await Promise.race([sent, left]);
    } catch (thrown) {
      throw wasNotSent(thrown) ? new NotConnected(remoteErrorOf(thrown)) : thrown;
    } finally {
      clearTimeout(timer);
      peer.requests -= 1;
      // Thousands of dead servers must not take the place of connections to live ones.
      const isIdle = peer.requests === 0 && !peer.isConnected();
      if (isIdle && this.#pools.peek(key) === peer) this.#pools.delete(key);
    }
  }

  #poolOf(key: string, target: Target): PooledPeer {
    const known = this.#pools.get(key);
    if (known !== undefined) return known;
    const peer = { ...poolFor(target, this.#poolOptions), requests: 0 };
    this.#pools.set(key, peer);
    return peer;
  }
}

interface PooledPeer extends PeerPool {
  /** Under way, or waiting for a connection. */
  requests: number;
}

/** A request as it goes to whichever target. */
interface OutgoingRequest extends FederationRequest {
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  /** When its time is up, as `performance.now()` counts. */
  readonly untilTs: number;
}

/** Between the attempts of one request only: this target was not connected to, and the next may be tried. */
class NotConnected extends Error {
  constructor(readonly error: RemoteError) {
    super(error.error);
  }
}

function wholeObject(body: JsonValue): JsonObject | undefined {
  return isJsonObject(body) ? body : undefined;
}

/** v1 endpoints of old answer `[200, {…}]`. (TOP-01, IN-02) */
function arrayWrapped(body: JsonValue): JsonObject | undefined {
  if (!Array.isArray(body) || body.length !== 2 || body[0] !== 200) return undefined;
  return wholeObject(body[1] as JsonValue);
}

function path(version: 'v1' | 'v2', endpoint: string, ...parts: readonly string[]): string {
  return ['/_matrix/federation', version, endpoint, ...parts.map(encodePathPart)].join('/');
}

/** Percent-encodes all but RFC 3986's unreserved characters, so that no proxy has anything to normalise. (ID-11) */
function encodePathPart(part: string): string {
  return encodeURIComponent(part).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function parsed(bytes: Uint8Array | undefined): JsonValue | undefined {
  if (bytes === undefined) return undefined;
  try {
    return parseJsonBytes(bytes, { maxDepth: maxJsonDepth });
  } catch {
    // Whatever the reason, to a caller it is an answer without JSON.
    return undefined;
  }
}
