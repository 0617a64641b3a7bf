import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { stableHash } from '@exeunt/message-bus';
import { serverNameOf, type ServerName, type UserId } from '@exeunt/pdu';
import { isRefusal, leaveTemplate } from '@exeunt/room';
import { parseJson, signRequest, stringifyJson, type JsonObject, type JsonValue } from '@exeunt/signing';
import { federationUri, signTemplate } from '../test/harness/leaving-user.js';
import { startRemoteServer, type RemoteServer } from '../test/harness/remote-server.js';
import { RoomBuilder } from '../test/harness/room-builder.js';
import { progress, quantile } from './report.js';

/*
 * The other side of the send-leave benchmark, in a process of its own: a homeserver whose users are joined to rooms of
 * ours. It makes and signs everything beforehand; in the measured time it writes bytes to sockets and looks at statuses.
 */

/** What the load is told once. */
export interface LoadSetup {
  readonly ours: {
    readonly name: ServerName;
    /** Of every gateway; connections are dealt out to them, and rooms too, as a proxy does that keeps each with one. */
    readonly federationUrls: readonly string[];
    readonly platformUrl: string;
    readonly token: string;
    /** Our users are in the rooms too, and their joins are signed. */
    readonly key: { readonly keyId: string; readonly seed: string };
  };
  readonly version: string;
  /** Each leave to any gateway instead. */
  readonly anyGateway?: boolean;
  readonly connections: number;
  /** Servers with a user in each room besides ours and the load's: each gets every leave. */
  readonly observers: number;
}

/** What the load is asked to do, one at a time; each is answered with a message. */
export type LoadRequest =
  | { readonly kind: 'setup'; readonly setup: LoadSetup }
  /** Answered when rooms are imported and leaves are signed. */
  | { readonly kind: 'prepare'; readonly rooms: number; readonly leavesPerRoom: number }
  | { readonly kind: 'run' }
  /** Answered when every membership has been read and compared. */
  | { readonly kind: 'check' };

/** What a run has given. */
export interface LoadRun {
  readonly leaves: number;
  readonly elapsedMs: number;
  /** By status line and body. */
  readonly answers: Readonly<Record<string, number>>;
  readonly latencyMs: { readonly p50: number; readonly p99: number };
  readonly cpuSeconds: number;
}

interface Prepared {
  readonly roomId: string;
  readonly userId: string;
  readonly eventId: string;
  readonly request: Buffer;
}

let setup: LoadSetup;
let peer: RemoteServer;
let observers: readonly RemoteServer[] = [];
let prepared: readonly Prepared[] = [];
let sockets: readonly Socket[] = [];

async function answer(request: LoadRequest): Promise<unknown> {
  switch (request.kind) {
    case 'setup':
      setup = request.setup;
      peer = await startRemoteServer({ host: '127.0.0.2' });
      observers = await Promise.all(
        Array.from({ length: setup.observers }, (_, at) => startRemoteServer({ host: `127.0.0.${3 + at}` })),
      );
      return {};
    case 'prepare':
      prepared = await prepare(request);
      sockets = await Promise.all(Array.from({ length: setup.connections }, (_, at) => openSocket(at)));
      return {};
    case 'run':
      return run();
    case 'check':
      return check();
    default:
      return request satisfies never;
  }
}

async function prepare(plan: { rooms: number; leavesPerRoom: number }): Promise<readonly Prepared[]> {
  const byRoom: Prepared[][] = [];
  for (let room = 0; room < plan.rooms; room++) {
    byRoom.push(await prepareRoom(plan.leavesPerRoom));
    if ((room + 1) % 250 === 0) progress(`${room + 1} rooms imported`);
  }
  // Room by room in turns, as unrelated users would leave.
  return Array.from({ length: plan.leavesPerRoom }, (_, at) => byRoom.map((room) => room[at]!)).flat();
}

async function prepareRoom(leaves: number): Promise<Prepared[]> {
  const { ours, version } = setup;
  const builder = new RoomBuilder({
    version,
    servers: [
      { name: ours.name, key: { keyId: ours.key.keyId, seed: Buffer.from(ours.key.seed, 'base64') } },
      peer,
      ...observers,
    ],
    creator: `@alice:${ours.name}`,
  });
  for (const observer of observers) builder.member(`@olga:${observer.name}`, 'join');
  const users = Array.from({ length: leaves }, (_, at) => `@user-${at}:${peer.name}`);
  for (const user of users) builder.member(user, 'join');
  const report = await platform('POST', '/v1/rooms/import', {
    room_version: version,
    events: builder.pdus.map(({ json }) => json),
    server_keys: [peer, ...observers].map((server) => server.keyResponse()),
  });
  if (report['accepted'] !== builder.pdus.length) throw new Error(`import: ${stringifyJson(report)}`);
  // The whole room takes its templates before the first of them leaves.
  return users.map((userId) => {
    const asked = { userId: userId as UserId, ourName: ours.name, now: Date.now() };
    const template = leaveTemplate(builder.room, asked);
    if (isRefusal(template)) throw new Error(template.detail);
    const { roomId, eventId, event } = signTemplate(peer, version, template);
    return { roomId, userId, eventId, request: wholeRequest(roomId, eventId, event) };
  });
}

function wholeRequest(roomId: string, eventId: string, event: JsonObject): Buffer {
  const { ours } = setup;
  const uri = federationUri('v2/send_leave', roomId, eventId);
  const authorization = signRequest(
    {
      method: 'PUT',
      uri,
      origin: serverNameOf(event['sender'] as UserId),
      destination: ours.name,
      content: event,
    },
    peer.key,
  );
  const body = stringifyJson(event);
  return Buffer.from(
    [
      `PUT ${uri} HTTP/1.1`,
      `Host: ${ours.name}`,
      `Authorization: ${authorization}`,
      'Content-Type: application/json',
      `Content-Length: ${Buffer.byteLength(body)}`,
      '',
      body,
    ].join('\r\n'),
  );
}

function openSocket(at: number): Promise<Socket> {
  const urls = setup.ours.federationUrls;
  const { protocol, hostname, port } = new URL(urls[at % urls.length]!);
  const where = { host: hostname, port: Number(port) };
  return new Promise((resolve, reject) => {
    const socket =
      protocol === 'https:'
        ? connectTls({ ...where, rejectUnauthorized: false }, () => resolve(socket))
        : connect({ ...where, noDelay: true }, () => resolve(socket));
    socket.once('error', reject);
  });
}

async function run(): Promise<LoadRun> {
  // Queues of leaves, one a gateway, or one for all.
  const count = setup.anyGateway === true ? 1 : setup.ours.federationUrls.length;
  const waiting = Array.from({ length: count }, (_, at) =>
    prepared.filter(({ roomId }) => stableHash(roomId) % count === at).values(),
  );
  const latencies: number[] = [];
  const answers: Record<string, number> = {};
  const cpu = process.cpuUsage();
  const start = performance.now();
  await Promise.all(sockets.map((socket, at) => sendAll(socket, waiting[at % count]!, latencies, answers)));
  const elapsedMs = performance.now() - start;
  const { user, system } = process.cpuUsage(cpu);
  for (const socket of sockets) socket.destroy();
  return {
    leaves: prepared.length,
    elapsedMs,
    answers,
    latencyMs: { p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99) },
    cpuSeconds: (user + system) / 1e6,
  };
}

/** One request after the other over one connection, until there are none left. */
function sendAll(
  socket: Socket,
  waiting: Iterator<Prepared>,
  latencies: number[],
  answers: Record<string, number>,
): Promise<void> {
  return new Promise((resolve, reject) => {
    let sentAt = 0;
    let received = '';
    const next = (): void => {
      const one = waiting.next();
      if (one.done === true) return resolve();
      sentAt = performance.now();
      socket.write(one.value.request);
    };
    socket.on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1');
      const head = received.indexOf('\r\n\r\n');
      if (head < 0) return;
      const length = Number(/\r\ncontent-length: (\d+)/i.exec(received)?.[1]);
      if (received.length < head + 4 + length) return;
      latencies.push(performance.now() - sentAt);
      const said = `${received.slice(9, 12)} ${received.slice(head + 4)}`;
      answers[said] = (answers[said] ?? 0) + 1;
      received = '';
      next();
    });
    socket.once('close', () => reject(new Error('the connection was closed')));
    socket.once('error', reject);
    next();
  });
}

/** Every user of the plan has left by the event that was sent for them, and our own is still joined. */
async function check(): Promise<{ readonly left: number }> {
  const expected = new Map<string, Map<string, string>>();
  for (const { roomId, userId, eventId } of prepared) {
    const ofRoom = expected.get(roomId) ?? new Map<string, string>();
    expected.set(roomId, ofRoom.set(userId, eventId));
  }
  let left = 0;
  for (const [roomId, leaves] of expected) {
    const members = await membersOf(roomId);
    for (const [userId, eventId] of leaves) {
      const member = members.get(userId);
      const content = member?.['content'] as JsonObject | undefined;
      if (member?.['event_id'] !== eventId || content?.['membership'] !== 'leave') {
        throw new Error(`${userId} has not left ${roomId}: ${stringifyJson(member ?? null)}`);
      }
      left++;
    }
    const { members: counts } = await platform('GET', `/v1/rooms/${encodeURIComponent(roomId)}`);
    const { join, leave } = counts as { join: number; leave: number };
    if (join !== 1 + observers.length || leave !== leaves.size)
      throw new Error(`${roomId}: ${stringifyJson(counts!)}`);
  }
  return { left };
}

async function membersOf(roomId: string): Promise<ReadonlyMap<string, JsonObject>> {
  const members = new Map<string, JsonObject>();
  for (let from: string | undefined; ;) {
    const query = new URLSearchParams({
      type: 'm.room.member',
      limit: '5000',
      ...(from === undefined ? {} : { from }),
    });
    const page = await platform('GET', `/v1/rooms/${encodeURIComponent(roomId)}/state?${query}`);
    for (const event of page['events'] as readonly JsonObject[])
      members.set(String(event['state_key']), event);
    if (page['next'] === undefined) return members;
    from = String(page['next']);
  }
}

async function platform(method: 'GET' | 'POST', path: string, body?: JsonValue): Promise<JsonObject> {
  const response = await fetch(`${setup.ours.platformUrl}${path}`, {
    method,
    headers: { Authorization: `Bearer ${setup.ours.token}`, 'Content-Type': 'application/json' },
    ...(body === undefined ? {} : { body: stringifyJson(body) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return parseJson(text) as JsonObject;
}

process.on('message', (request: LoadRequest) => {
  answer(request).then(
    (result) => process.send?.({ result }),
    (cause: unknown) => process.send?.({ failed: cause instanceof Error ? cause.stack : String(cause) }),
  );
});
process.on('disconnect', () => process.exit(0));
