import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer, request as httpsRequest } from 'node:https';
import { randomBytes } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { generate } from 'selfsigned';
import { parseServerName, signPdu, type ServerName } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import {
  encodeUnpaddedBase64,
  parseJsonBytes,
  selectEd25519,
  signJson,
  signRequest,
  stringifyJson,
  type JsonObject,
  type JsonValue,
  type SigningKey,
} from '@exeunt/signing';

/** A certificate and its private key as PEM; a `TestCertificate` fits. */
export interface PeerCertificate {
  readonly certificate: string;
  readonly privateKey: string;
}

export interface RemoteServerOptions {
  /** Loopback address to listen on, e.g. `127.0.0.2`; `127.0.0.1` unless told. */
  readonly host?: string;
  /** Server name; `HOST:PORT` unless told, so that it resolves without any look-up. */
  readonly name?: string;
  /** The `selfSignedCertificate()` unless told. */
  readonly tls?: PeerCertificate;
  /** Version part of the key ID; `peer` unless told. */
  readonly keyVersion?: string;
  /** Milliseconds since the epoch for `valid_until_ts`; the real time unless told. */
  readonly now?: () => number;
}

/** A request as it arrived. */
export interface ReceivedRequest {
  readonly method: string;
  /** The raw request target. */
  readonly url: string;
  readonly headers: IncomingMessage['headers'];
  readonly rawHeaders: readonly string[];
  readonly body: Buffer;
  /** The parsed body; undefined where there is none or it is not JSON. */
  readonly json: JsonValue | undefined;
}

/** Answers a request; what it leaves open stays open until the peer is closed. */
export type PeerHandler = (request: ReceivedRequest, response: ServerResponse) => void | Promise<void>;

export interface PeerRequest {
  readonly method: 'GET' | 'PUT' | 'POST';
  /** Raw request target, already percent-encoded. */
  readonly uri: string;
  /** The server name of the other side. */
  readonly destination: string;
  readonly body?: JsonObject;
  /** Where to connect, e.g. `https://127.0.0.1:8448`; `https://DESTINATION` unless told. */
  readonly baseUrl?: string;
  /** What to do wrong. */
  readonly overrides?: {
    readonly origin?: string;
    readonly key?: SigningKey;
    /** Replaces the header; `null` leaves it out. */
    readonly authorization?: string | readonly string[] | null;
    /** Sent instead of the signed body. */
    readonly rawBody?: string | Uint8Array;
    /** Sent instead of the signed request target. */
    readonly uri?: string;
    readonly headers?: Readonly<Record<string, string>>;
  };
}

export interface PeerResponse {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
  /** The parsed body; undefined where it is not JSON. */
  readonly json: JsonValue | undefined;
}

/** How `GET /_matrix/key/v2/server` is answered: as a good server does, with a 500, never, or by a handler. */
export type KeyBehaviour = 'serve' | 'fail' | 'hang' | PeerHandler;

/** A scripted homeserver on a real HTTPS socket of the loopback interface, with a key of its own. */
export interface RemoteServer {
  readonly name: ServerName;
  readonly host: string;
  readonly port: number;
  readonly key: SigningKey;
  /** Its certificate as PEM, for whoever is to trust it. */
  readonly certificate: string;
  /** Every request so far, in order of their end of body. */
  readonly requests: readonly ReceivedRequest[];
  /** How often its keys were asked for, counted when the request arrives. */
  readonly keyRequests: number;
  keys: KeyBehaviour;
  /** The signed key response it would give. */
  keyResponse(additions?: JsonObject): JsonObject;
  /**
   * Answers requests of a method whose raw URL begins with `urlPrefix`. Later handlers go before earlier ones. Without
   * one `PUT …/send/{txnId}` gets 200 `{}` and everything else 404 `M_UNRECOGNIZED`.
   */
  on(method: string, urlPrefix: string, handler: PeerHandler): void;
  /**
   * The first request, of those so far and those to come, that the predicate takes. Rejects when none has come within
   * `deadlineMs` (5000 unless told), and says which ones did.
   */
  received(predicate: (request: ReceivedRequest) => boolean, deadlineMs?: number): Promise<ReceivedRequest>;
  /** A signed federation request to another server; any certificate is taken. */
  request(request: PeerRequest): Promise<PeerResponse>;
  /** The object with this server's signature added. */
  sign(object: JsonObject): JsonObject;
  /** The event hashed and signed by this server, for a room version such as `"10"`. */
  signPdu(event: JsonObject, version: string): JsonObject;
  /** Ends every connection. */
  close(): Promise<void>;
}

/** Starts a peer on a free port. */
export async function startRemoteServer(options: RemoteServerOptions = {}): Promise<RemoteServer> {
  const host = options.host ?? '127.0.0.1';
  const tls = options.tls ?? (await selfSignedCertificate());
  const key: SigningKey = { keyId: `ed25519:${options.keyVersion ?? 'peer'}`, seed: randomBytes(32) };
  const publicKey = encodeUnpaddedBase64(selectEd25519().publicKeyOf(key.seed));
  const now = options.now ?? Date.now;

  const requests: ReceivedRequest[] = [];
  const handlers: { method: string; urlPrefix: string; handler: PeerHandler }[] = [];
  const watchers = new Set<(request: ReceivedRequest) => void>();
  let keyRequests = 0;

  const server = createServer({ cert: tls.certificate, key: tls.privateKey }, (incoming, response) => {
    // A test that breaks a connection is not to break the peer.
    response.on('error', () => {});
    if (isKeyRequest(incoming.url)) keyRequests += 1;
    void readAll(incoming).then(
      (body) => {
        const request: ReceivedRequest = {
          method: incoming.method ?? '',
          url: incoming.url ?? '',
          headers: incoming.headers,
          rawHeaders: incoming.rawHeaders,
          body,
          json: parsed(body),
        };
        requests.push(request);
        watchers.forEach((watcher) => watcher(request));
        return answer(request, response);
      },
      () => response.destroy(),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  const name = serverName(options.name ?? `${host.includes(':') ? `[${host}]` : host}:${port}`);

  async function answer(request: ReceivedRequest, response: ServerResponse): Promise<void> {
    const own = handlers.findLast(
      ({ method, urlPrefix }) => method === request.method && request.url.startsWith(urlPrefix),
    );
    if (own !== undefined) return own.handler(request, response);
    if (request.method === 'GET' && isKeyRequest(request.url)) return answerKeys(request, response);
    if (request.method === 'PUT' && request.url.startsWith('/_matrix/federation/v1/send/')) {
      return respond(response, 200, {});
    }
    respond(response, 404, { errcode: 'M_UNRECOGNIZED', error: 'not scripted' });
  }

  function answerKeys(request: ReceivedRequest, response: ServerResponse): void | Promise<void> {
    switch (peer.keys) {
      case 'serve':
        return respond(response, 200, peer.keyResponse());
      case 'fail':
        return respond(response, 500, { errcode: 'M_UNKNOWN', error: 'scripted to fail' });
      case 'hang':
        return;
      default:
        return peer.keys(request, response);
    }
  }

  const peer: RemoteServer = {
    name,
    host,
    port,
    key,
    certificate: tls.certificate,
    requests,
    get keyRequests() {
      return keyRequests;
    },
    keys: 'serve',
    keyResponse: (additions = {}) =>
      signJson(
        {
          server_name: name,
          valid_until_ts: now() + 24 * 3_600_000,
          verify_keys: { [key.keyId]: { key: publicKey } },
          old_verify_keys: {},
          ...additions,
        },
        name,
        key,
      ),
    on(method, urlPrefix, handler) {
      handlers.push({ method, urlPrefix, handler });
    },
    received(predicate, deadlineMs = 5000) {
      const already = requests.find(predicate);
      if (already !== undefined) return Promise.resolve(already);
      return new Promise((resolve, reject) => {
        const deadline = setTimeout(() => {
          watchers.delete(watcher);
          const seen = requests.map(({ method, url }) => `${method} ${url}`).join(', ') || 'none';
          reject(
            new Error(`${name} did not receive the request within ${deadlineMs} ms; it received: ${seen}`),
          );
        }, deadlineMs);
        const watcher = (request: ReceivedRequest) => {
          if (!predicate(request)) return;
          clearTimeout(deadline);
          watchers.delete(watcher);
          resolve(request);
        };
        watchers.add(watcher);
      });
    },
    request: ({ method, uri, destination, body, baseUrl, overrides = {} }) => {
      const authorization =
        overrides.authorization === undefined
          ? signRequest(
              { method, uri, origin: overrides.origin ?? name, destination, content: body },
              overrides.key ?? key,
            )
          : overrides.authorization;
      const payload = overrides.rawBody ?? (body === undefined ? undefined : stringifyJson(body));
      return send(new URL(baseUrl ?? `https://${destination}`), {
        method,
        path: overrides.uri ?? uri,
        headers: {
          ...(payload === undefined
            ? {}
            : { 'content-type': 'application/json', 'content-length': `${Buffer.byteLength(payload)}` }),
          ...(authorization === null ? {} : { authorization }),
          ...overrides.headers,
        },
        payload,
      });
    },
    sign: (object) => signJson(object, name, key),
    signPdu(event, version) {
      const rules = roomVersion(version);
      if (rules === undefined) throw new Error(`no room version ${version}`);
      return signPdu(event, rules, name, key);
    },
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
  return peer;
}

/** Answers with JSON, lossless, and a status. */
export function respond(response: ServerResponse, status: number, body: JsonValue): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(stringifyJson(body));
}

let shared: Promise<PeerCertificate> | undefined;

/**
 * One certificate for every peer of this process: `localhost`, `::1` and 127.0.0.1 to 127.0.0.16. It has signed
 * itself, so a client trusts it by having it among its roots.
 */
export function selfSignedCertificate(): Promise<PeerCertificate> {
  shared ??= generateSelfSigned([
    'localhost',
    '::1',
    ...Array.from({ length: 16 }, (_, index) => `127.0.0.${index + 1}`),
  ]);
  return shared;
}

/** A certificate of its own for the hosts given, names or addresses. */
export async function generateSelfSigned(hosts: readonly string[]): Promise<PeerCertificate> {
  const made = await generate([{ name: 'commonName', value: hosts[0] ?? 'peer' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    notBeforeDate: new Date(Date.now() - 3_600_000),
    notAfterDate: new Date(Date.now() + 365 * 24 * 3_600_000),
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', digitalSignature: true, keyCertSign: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      {
        name: 'subjectAltName',
        altNames: hosts.map((host) =>
          /^[\d.]+$|:/.test(host) ? { type: 7, ip: host } : { type: 2, value: host },
        ),
      },
    ],
  });
  return { certificate: made.cert, privateKey: made.private };
}

interface Outgoing {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
  readonly payload: string | Uint8Array | undefined;
}

function send(base: URL, { method, path, headers, payload }: Outgoing): Promise<PeerResponse> {
  return new Promise((resolve, reject) => {
    const request = (base.protocol === 'http:' ? httpRequest : httpsRequest)(
      {
        host: base.hostname.replace(/^\[|\]$/g, ''),
        port: base.port || (base.protocol === 'http:' ? 80 : 443),
        method,
        path,
        headers: headers as Record<string, string | string[]>,
        rejectUnauthorized: false,
        agent: false,
      },
      (response) => {
        readAll(response).then(
          (body) =>
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              body,
              json: parsed(body),
            }),
          reject,
        );
      },
    );
    request.once('error', reject);
    request.end(payload);
  });
}

async function readAll(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of message as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function parsed(body: Buffer): JsonValue | undefined {
  if (body.length === 0) return undefined;
  try {
    return parseJsonBytes(body);
  } catch {
    // A test sends and gets junk on purpose; the bytes are in `body`.
    return undefined;
  }
}

function isKeyRequest(url: string | undefined): boolean {
  return url?.startsWith('/_matrix/key/v2/server') === true;
}

function serverName(text: string): ServerName {
  const name = parseServerName(text);
  if (name === undefined) throw new Error(`${text} is no server name`);
  return name;
}
