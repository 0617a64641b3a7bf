import 'reflect-metadata';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DestinationStream } from 'pino';
import { readConfiguration } from '@exeunt/configuration';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { parseJson, stringifyJson, type JsonObject, type JsonValue } from '@exeunt/signing';
import { openLog } from '../../apps/gateway/src/process.js';
import { startStandalone, type Standalone } from '../../apps/gateway/src/standalone.js';

export interface LeaveServerOptions {
  /** Loopback address to listen on; `127.0.0.1` unless told. */
  readonly host?: string;
  /** `memory://` unless told: a PGlite that ends with the server. A directory survives a restart. */
  readonly databaseUrl?: string;
  /** Where key, certificate and database are; a fresh one, removed at the end, unless told. */
  readonly dataDirectory?: string;
  /** More environment. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Where its log goes; standard output unless told. */
  readonly logTo?: DestinationStream;
}

/** An answer of the platform API. */
export interface PlatformAnswer {
  readonly status: number;
  readonly body: JsonObject;
}

/** Our own server, whole, on loopback. */
export interface LeaveServer {
  readonly name: ServerName;
  readonly federationUrl: string;
  readonly platformUrl: string;
  readonly token: string;
  readonly running: Standalone;
  /** A request of the platform, with the token. */
  platform(method: 'GET' | 'POST', path: string, body?: JsonValue): Promise<PlatformAnswer>;
  /** As {@link platform}; fails unless the status is good. */
  ok(method: 'GET' | 'POST', path: string, body?: JsonValue): Promise<JsonObject>;
  /** The membership event of a user in the current state, with its ID; undefined where there is none. */
  member(roomId: string, userId: string): Promise<JsonObject | undefined>;
  stop(): Promise<void>;
}

/** A port that nobody listens on now. */
export async function freePort(host: string): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, host, resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** Starts our server on free ports; its name is `HOST:PORT`, so that peers find it without a look-up. */
export async function startLeaveServer(options: LeaveServerOptions = {}): Promise<LeaveServer> {
  const host = options.host ?? '127.0.0.1';
  const directory = options.dataDirectory ?? (await mkdtemp(join(tmpdir(), 'exeunt-test-')));
  const port = await freePort(host);
  const configuration = readConfiguration({
    EXEUNT_SERVER_NAME: `${host}:${port}`,
    EXEUNT_FEDERATION_HOST: host,
    EXEUNT_FEDERATION_PORT: String(port),
    EXEUNT_PLATFORM_HOST: host,
    EXEUNT_PLATFORM_PORT: '0',
    EXEUNT_DATA_DIR: directory,
    EXEUNT_FEDERATION_VERIFY_TLS: 'false',
    EXEUNT_FEDERATION_ALLOW_NETWORKS: '127.0.0.0/8,::1/128',
    EXEUNT_SENDER_BACKOFF_MIN_MS: '50',
    EXEUNT_LOG_LEVEL: process.env['EXEUNT_TEST_LOG_LEVEL'] ?? 'silent',
    ...(options.databaseUrl === undefined ? {} : { EXEUNT_DATABASE_URL: options.databaseUrl }),
    ...options.environment,
  });
  const running = await startStandalone(configuration, openLog(configuration, options.logTo));
  const name = parseServerName(configuration.serverName)!;
  const { platformUrl, federationUrl, token } = running;

  const platform: LeaveServer['platform'] = async (method, path, body) => {
    const response = await fetch(`${platformUrl}${path}`, {
      method,
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      ...(body === undefined ? {} : { body: stringifyJson(body) }),
    });
    return { status: response.status, body: parseJson(await response.text()) as JsonObject };
  };
  const ok: LeaveServer['ok'] = async (method, path, body) => {
    const answer = await platform(method, path, body);
    if (answer.status >= 300) {
      throw new Error(`${method} ${path}: ${answer.status} ${stringifyJson(answer.body)}`);
    }
    return answer.body;
  };
  return {
    name,
    federationUrl,
    platformUrl,
    token,
    running,
    platform,
    ok,
    async member(roomId, userId) {
      const query = new URLSearchParams({ type: 'm.room.member', state_key: userId });
      const { events } = await ok('GET', `/v1/rooms/${encodeURIComponent(roomId)}/state?${query}`);
      return (events as readonly JsonObject[])[0];
    },
    async stop() {
      await running.stop();
      if (options.dataDirectory === undefined) await rm(directory, { recursive: true, force: true });
    },
  };
}
