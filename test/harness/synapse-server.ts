import { spawn } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findSynapse } from '../../scripts/services/synapse.mjs';
import type { TestCertificateAuthority } from './test-certificate.js';

/**
 * A real Synapse on loopback, with SQLite, that speaks federation to servers whose certificates come from the same test
 * authority.
 *
 * What a test must know of Synapse:
 * - A rejection that the room's server refuses, or that does not reach it, still answers 200 to the user: Synapse makes
 *   up a leave of its own. Memberships look the same then; compare event IDs on both sides.
 * - Before it accepts a server's first request it asks it for `GET /_matrix/key/v2/server`; a failure there is its 401.
 * - It keeps no state of a room whose invite was rejected: `/state` and a second `/leave` answer 500.
 * - Leave handshakes ignore its backoff, transactions and key look-ups do not; here the backoff is one millisecond.
 */
export interface SynapseServer {
  /** `host:port` of federation, which users' IDs end with. */
  readonly serverName: string;
  /** `https://host:port`, with a certificate of the test authority. */
  readonly federationUrl: string;
  /** `http://host:port` of the client API. */
  readonly baseUrl: string;
  /** Synapse's version, such as `1.163.2`. */
  readonly version: string;

  /** Makes a user; the localpart must be new on this server. The helpers below take the access tokens of such users. */
  registerUser(localpart: string): Promise<SynapseUser>;
  /** The client API with that access token, or without. */
  client(accessToken?: string): SynapseClient;
  /** Identifiers of the stable room versions it makes and joins, in its order. */
  supportedRoomVersions(accessToken: string): Promise<string[]>;

  /** Makes a room that only invited users join and gives its ID. */
  createRoom(accessToken: string, options?: { roomVersion?: string; name?: string }): Promise<string>;
  inviteUser(accessToken: string, roomId: string, userId: string): Promise<void>;
  /** Joins a room; `via` names servers in the room when Synapse is not in it itself. */
  joinRoom(accessToken: string, roomId: string, via?: readonly string[]): Promise<void>;
  /**
   * Leaves a room, or rejects the invite to it, and gives the event ID of the leave as Synapse stored it. That is the
   * leave the room's server accepted, or one that Synapse made up because that server did not accept any.
   */
  leaveRoom(accessToken: string, roomId: string, options?: { reason?: string }): Promise<string>;
  /** Invites that wait for the user's answer, by room ID, with the stripped state the inviting server sent. */
  invitesOf(accessToken: string): Promise<Map<string, SynapseClientEvent[]>>;
  /** As {@link invitesOf}, once there is one to that room. Throws after `deadlineMs` (10 seconds). */
  waitForInvite(accessToken: string, roomId: string, deadlineMs?: number): Promise<SynapseClientEvent[]>;
  /**
   * The newest membership event of a user in a room, as seen by a user who is or was in it; `undefined` when there is
   * none or it may not be seen. A user sees their own also where they only ever had an invite, of a pending one without
   * its `event_id`.
   */
  getMembershipEvent(
    accessToken: string,
    roomId: string,
    userId: string,
  ): Promise<SynapseClientEvent | undefined>;

  /** The last lines of its log, for the message of a failed assertion. */
  logTail(lines?: number): string;
  /** Ends it and deletes its files. Later calls do nothing. */
  stop(): Promise<void>;
}

export interface SynapseUser {
  userId: string;
  accessToken: string;
}

/** An event in the client API's format; stripped state has no `event_id`. */
export interface SynapseClientEvent {
  type: string;
  sender: string;
  state_key?: string;
  content: Record<string, unknown>;
  event_id?: string;
  origin_server_ts?: number;
  unsigned?: Record<string, unknown>;
}

/** What Synapse answers: JSON of a shape that only the caller knows. */
// oxlint-disable-next-line typescript/no-explicit-any
type SynapseJson = any;

export interface SynapseResponse {
  status: number;
  body: SynapseJson;
}

export interface SynapseClient {
  /** One request; `path` starts with `/_matrix` or `/_synapse` and is encoded already. Any status is an answer. */
  request(method: string, path: string, body?: unknown): Promise<SynapseResponse>;
  /** As {@link request}, and gives the body. Throws unless the status is 200, with Synapse's words and log. */
  expectOk(method: string, path: string, body?: unknown): Promise<SynapseJson>;
}

export interface SynapseOptions {
  /** Signs its certificate, and is the only authority whose certificates it accepts from other servers. */
  certificateAuthority: TestCertificateAuthority;
  /**
   * Where it listens and the first half of its server name: an address of 127.0.0.0/8, or `localhost`. The default
   * differs from 127.0.0.1, so that a server there is another host to rules that ignore ports, such as server ACLs.
   */
  host?: string;
  /** A name other than `host:port`; nobody can reach Synapse by a name that does not lead to `host:port`. */
  serverName?: string;
  /** More homeserver.yaml, over the harness's own settings, key by key. */
  config?: Record<string, unknown>;
}

const START_DEADLINE_MS = 120_000;
const STOP_DEADLINE_MS = 15_000;

export { findSynapse };

/**
 * Starts a Synapse with an empty database and waits until its client API answers, which takes some seconds. It ends
 * with this process, however that ends.
 *
 * @throws when Synapse is not installed, or with its log when it does not come up
 */
export async function startSynapse(options: SynapseOptions): Promise<SynapseServer> {
  const found = findSynapse();
  if (found === undefined) throw new Error('no Synapse here: run scripts/services/install-synapse.sh');
  const deadline = Date.now() + START_DEADLINE_MS;
  // The server name needs the port before Synapse has it, so another process can take it in between.
  for (;;) {
    const outcome = await launch(options, found, deadline);
    if (outcome.kind === 'ready') return outcome.server;
    if (!outcome.log.includes('Address already in use') || Date.now() > deadline) {
      throw new Error(`Synapse did not come up:\n${outcome.log}`);
    }
  }
}

type LaunchOutcome = { kind: 'ready'; server: SynapseServer } | { kind: 'failed'; log: string };

/**
 * Runs Synapse until its standard input ends, which is when this process does, whatever ends it. `os._exit` and not a
 * shutdown: the database is thrown away.
 */
const SUPERVISED_SYNAPSE = `
import os, threading
def end_with_the_test():
    while os.read(0, 4096):
        pass
    os._exit(0)
threading.Thread(target=end_with_the_test, daemon=True).start()
from synapse.app.homeserver import main
main()
`;

async function launch(
  options: SynapseOptions,
  { python, version }: { python: string; version: string },
  deadline: number,
): Promise<LaunchOutcome> {
  const host = options.host ?? '127.0.0.2';
  const [federationPort, clientPort] = await freePorts(host);
  const serverName = options.serverName ?? `${host}:${federationPort}`;
  const baseUrl = `http://${host}:${clientPort}`;
  const registrationSecret = randomBytes(24).toString('hex');
  const certificate = await options.certificateAuthority.issue([host]);

  const directory = await mkdtemp(join(tmpdir(), 'exeunt-synapse-'));
  const path = (name: string) => join(directory, name);
  await mkdir(path('media'));
  await writeFile(path('signing.key'), `ed25519 harness ${unpaddedBase64(randomBytes(32))}\n`, {
    mode: 0o600,
  });
  await writeFile(path('log.yaml'), JSON.stringify(logSettings(path('homeserver.log'))));
  // JSON is YAML.
  await writeFile(
    path('homeserver.yaml'),
    JSON.stringify(
      {
        ...unlimitedRates,
        server_name: serverName,
        public_baseurl: `${baseUrl}/`,
        pid_file: path('homeserver.pid'),
        signing_key_path: path('signing.key'),
        macaroon_secret_key: randomBytes(24).toString('hex'),
        form_secret: randomBytes(24).toString('hex'),
        registration_shared_secret: registrationSecret,
        report_stats: false,
        log_config: path('log.yaml'),
        media_store_path: path('media'),
        database: { name: 'sqlite3', args: { database: path('homeserver.db') } },
        listeners: [
          {
            port: clientPort,
            bind_addresses: [host],
            type: 'http',
            tls: false,
            resources: [{ names: ['client'] }],
          },
          {
            port: federationPort,
            bind_addresses: [host],
            type: 'http',
            tls: true,
            resources: [{ names: ['federation', 'keys'] }],
          },
        ],
        tls_certificate_path: certificate.certificatePath,
        tls_private_key_path: certificate.privateKeyPath,
        federation_custom_ca_list: [options.certificateAuthority.certificatePath],
        // No notary: keys come from the server whose keys they are.
        trusted_key_servers: [],
        suppress_key_server_warning: true,
        serve_server_wellknown: false,
        // Its default refuses to dial loopback. An option it does not know by name, such as …_blocklist, it ignores.
        ip_range_blacklist: [],
        federation_ip_range_blacklist: [],
        federation: {
          client_timeout: 10_000,
          max_short_retry_delay: 100,
          max_long_retry_delay: 100,
          max_short_retries: 1,
          max_long_retries: 1,
          destination_min_retry_interval: 1,
          destination_max_retry_interval: 1,
        },
        // The harness asks for the whole sync each time, and by default would get the same one for two minutes.
        caches: { sync_response_cache_duration: 0 },
        presence: { enabled: false },
        url_preview_enabled: false,
        ...options.config,
      },
      null,
      2,
    ),
  );

  const output = await open(path('output.log'), 'a');
  const child = spawn(python, ['-c', SUPERVISED_SYNAPSE, '-c', path('homeserver.yaml')], {
    cwd: directory,
    stdio: ['pipe', output.fd, output.fd],
    // Peers on loopback are not reached through a proxy that the environment names.
    env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name))),
    // A process group of its own, so that `kill` reaches whatever it starts.
    detached: true,
  });
  await output.close();
  // Writing to it never happens; its end is the signal.
  child.stdin?.on('error', () => {});
  let hasEnded = false;
  const ended = new Promise<void>((resolve) => {
    const end = () => {
      hasEnded = true;
      resolve();
    };
    child.once('exit', end);
    child.once('error', end);
  });

  const logTail = (lines = 60) =>
    ['output.log', 'homeserver.log']
      .map((name) => (existsSync(path(name)) ? readFileSync(path(name), 'utf8') : ''))
      .join('')
      .split('\n')
      .slice(-lines)
      .join('\n');
  const kill = (signal: NodeJS.Signals) => {
    if (child.pid === undefined || hasEnded) return;
    try {
      process.kill(-child.pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  };
  const stop = async () => {
    child.stdin?.destroy();
    kill('SIGTERM');
    await Promise.race([ended, delay(STOP_DEADLINE_MS, undefined, { ref: false })]);
    kill('SIGKILL');
    await ended;
    await rm(directory, { recursive: true, force: true });
  };

  const answers = () =>
    fetch(`${baseUrl}/_matrix/client/versions`, { signal: AbortSignal.timeout(5_000) }).then(
      (response) => response.ok,
      () => false,
    );
  while (!(await answers())) {
    if (hasEnded || Date.now() > deadline) {
      const log = logTail();
      await stop();
      return { kind: 'failed', log };
    }
    await delay(50);
  }

  const client = (accessToken?: string) => clientOf(baseUrl, accessToken, logTail);
  return {
    kind: 'ready',
    server: {
      serverName,
      federationUrl: `https://${host}:${federationPort}`,
      baseUrl,
      version,
      client,
      ...usersAndRoomsOf(client, registrationSecret),
      logTail,
      stop,
    },
  };
}

function clientOf(baseUrl: string, accessToken: string | undefined, logTail: () => string): SynapseClient {
  const request: SynapseClient['request'] = async (method, path, body) => {
    const response = await fetch(baseUrl + path, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...(accessToken === undefined ? {} : { Authorization: `Bearer ${accessToken}` }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(60_000),
    });
    const text = await response.text();
    try {
      return { status: response.status, body: JSON.parse(text) };
    } catch {
      return { status: response.status, body: text };
    }
  };
  return {
    request,
    async expectOk(method, path, body) {
      const response = await request(method, path, body);
      if (response.status === 200) return response.body;
      throw new Error(
        `Synapse answered ${response.status} ${JSON.stringify(response.body)} to ${method} ${path}\n${logTail()}`,
      );
    },
  };
}

/** Synapse admin API, Shared-Secret Registration: the MAC proves the secret without an access token. */
async function registerUser(
  client: SynapseClient,
  registrationSecret: string,
  localpart: string,
): Promise<SynapseUser> {
  const path = '/_synapse/admin/v1/register';
  const { nonce } = await client.expectOk('GET', path);
  const password = randomBytes(12).toString('hex');
  const mac = createHmac('sha1', registrationSecret)
    .update([nonce, localpart, password, 'notadmin'].join('\0'))
    .digest('hex');
  const user = await client.expectOk('POST', path, {
    nonce,
    username: localpart,
    password,
    admin: false,
    mac,
  });
  return { userId: user.user_id, accessToken: user.access_token };
}

type UsersAndRooms = Pick<
  SynapseServer,
  | 'registerUser'
  | 'supportedRoomVersions'
  | 'createRoom'
  | 'inviteUser'
  | 'joinRoom'
  | 'leaveRoom'
  | 'invitesOf'
  | 'waitForInvite'
  | 'getMembershipEvent'
>;

function usersAndRoomsOf(client: SynapseServer['client'], registrationSecret: string): UsersAndRooms {
  const roomPath = (roomId: string) => `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}`;
  /** By access token: the user, and where their sync stood when they were made. */
  const sessions = new Map<string, { userId: string; since: string }>();
  const sessionOf = (accessToken: string) => {
    const session = sessions.get(accessToken);
    if (session === undefined) throw new Error('not an access token of a user that registerUser made');
    return session;
  };
  const sync = (accessToken: string, since?: string) => {
    const filter = { room: { timeline: { limit: 50 } }, presence: { types: [] } };
    const query = new URLSearchParams({ timeout: '0', filter: JSON.stringify(filter) });
    if (since !== undefined) query.set('since', since);
    return client(accessToken).expectOk('GET', `/_matrix/client/v3/sync?${query}`);
  };
  /** Everything that happened to the user. A sync without `since` leaves out rooms they rejected the invite to. */
  const syncOf = (accessToken: string) => sync(accessToken, sessionOf(accessToken).since);

  const helpers: UsersAndRooms = {
    async registerUser(localpart) {
      const user = await registerUser(client(), registrationSecret, localpart);
      const { next_batch: since } = await sync(user.accessToken);
      sessions.set(user.accessToken, { userId: user.userId, since });
      return user;
    },
    async supportedRoomVersions(accessToken) {
      const { capabilities } = await client(accessToken).expectOk('GET', '/_matrix/client/v3/capabilities');
      const available: Record<string, string> = capabilities['m.room_versions'].available;
      return Object.keys(available).filter((version) => available[version] === 'stable');
    },
    async createRoom(accessToken, options = {}) {
      const body = await client(accessToken).expectOk('POST', '/_matrix/client/v3/createRoom', {
        preset: 'private_chat',
        ...(options.roomVersion === undefined ? {} : { room_version: options.roomVersion }),
        ...(options.name === undefined ? {} : { name: options.name }),
      });
      return body.room_id;
    },
    async inviteUser(accessToken, roomId, userId) {
      await client(accessToken).expectOk('POST', `${roomPath(roomId)}/invite`, { user_id: userId });
    },
    async joinRoom(accessToken, roomId, via = []) {
      const query = via.map((serverName) => `via=${encodeURIComponent(serverName)}`).join('&');
      await client(accessToken).expectOk(
        'POST',
        `/_matrix/client/v3/join/${encodeURIComponent(roomId)}?${query}`,
        {},
      );
    },
    async leaveRoom(accessToken, roomId, options = {}) {
      await client(accessToken).expectOk('POST', `${roomPath(roomId)}/leave`, options);
      // The answer names no event.
      const { userId } = sessionOf(accessToken);
      const leave = await helpers.getMembershipEvent(accessToken, roomId, userId);
      if (leave?.event_id === undefined || leave.content['membership'] !== 'leave') {
        throw new Error(`${userId} left ${roomId}, and Synapse shows ${JSON.stringify(leave)}`);
      }
      return leave.event_id;
    },
    async invitesOf(accessToken) {
      const { rooms } = await syncOf(accessToken);
      const invites: [string, SynapseJson][] = Object.entries(rooms?.invite ?? {});
      return new Map(invites.map(([roomId, invite]) => [roomId, invite.invite_state?.events ?? []]));
    },
    async waitForInvite(accessToken, roomId, deadlineMs = 10_000) {
      const deadline = Date.now() + deadlineMs;
      for (;;) {
        const invite = (await helpers.invitesOf(accessToken)).get(roomId);
        if (invite !== undefined) return invite;
        if (Date.now() > deadline)
          throw new Error(`no invite to ${roomId} reached Synapse in ${deadlineMs} ms`);
        await delay(50);
      }
    },
    async getMembershipEvent(accessToken, roomId, userId) {
      // The own membership from the sync: asked for the state of a room it was never in, Synapse answers 500.
      if (userId === sessionOf(accessToken).userId) {
        const { rooms } = await syncOf(accessToken);
        const room = rooms?.leave?.[roomId] ?? rooms?.join?.[roomId];
        const events: SynapseClientEvent[] = [
          ...(room?.state?.events ?? []),
          ...(room?.timeline?.events ?? []),
          ...(rooms?.invite?.[roomId]?.invite_state?.events ?? []),
        ];
        return events.findLast(({ type, state_key }) => type === 'm.room.member' && state_key === userId);
      }
      const { status, body } = await client(accessToken).request(
        'GET',
        `${roomPath(roomId)}/state/m.room.member/${encodeURIComponent(userId)}?format=event`,
      );
      return status === 200 ? body : undefined;
    },
  };
  return helpers;
}

function unpaddedBase64(bytes: Buffer): string {
  return bytes.toString('base64').replace(/=+$/, '');
}

async function freePorts(host: string): Promise<[number, number]> {
  const probes = await Promise.all([0, 0].map(() => listen(host)));
  const ports = probes.map((probe) => {
    const address = probe.address();
    if (address === null || typeof address === 'string') throw new Error('a TCP server without a port');
    return address.port;
  });
  await Promise.all(probes.map((probe) => new Promise((resolve) => probe.close(resolve))));
  return ports as [number, number];
}

function listen(host: string): Promise<ReturnType<typeof createServer>> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, host, () => resolve(probe));
  });
}

function logSettings(filename: string) {
  return {
    version: 1,
    formatters: { line: { format: '%(asctime)s %(levelname)s %(name)s %(request)s %(message)s' } },
    handlers: { file: { class: 'logging.FileHandler', formatter: 'line', filename } },
    loggers: { 'synapse.storage.SQL': { level: 'WARNING' } },
    root: { level: 'INFO', handlers: ['file'] },
    disable_existing_loggers: false,
  };
}

const unlimited = { per_second: 10_000, burst_count: 10_000 };

/** Synapse's limits are for the internet; a test that fills many rooms at once is nobody's abuse. */
const unlimitedRates = {
  rc_message: unlimited,
  rc_registration: unlimited,
  rc_login: { address: unlimited, account: unlimited, failed_attempts: unlimited },
  rc_admin_redaction: unlimited,
  rc_joins: { local: unlimited, remote: unlimited },
  rc_joins_per_room: unlimited,
  rc_invites: { per_room: unlimited, per_user: unlimited, per_issuer: unlimited },
  rc_room_creation: unlimited,
  rc_federation: {
    window_size: 1000,
    sleep_limit: 10_000,
    sleep_delay: 1,
    reject_limit: 10_000,
    concurrent: 100,
  },
};
