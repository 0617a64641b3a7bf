import type { Database } from '@exeunt/database';
import type { FederationResult, RemoteError } from '@exeunt/federation-client';
import {
  HandshakeRunner,
  LeavingStore,
  receiveInvite,
  requestLeave,
  type LeaveClient,
  type LeavingEvent,
  type LeavingKey,
  type HandshakeRunnerOptions,
} from '@exeunt/leaving';
import { ManualClock } from '@exeunt/message-bus';
import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import type { JsonObject, JsonValue } from '@exeunt/signing';
import { settle, ticking, until } from './harness/settle.js';

export const ourName = 'ours.example' as ServerName;
export const signingKey = { keyId: 'ed25519:ours', seed: new Uint8Array(32).fill(5) };

/** One request as a resident got it. */
export interface Asked {
  readonly what: 'make_leave' | 'send_leave v1' | 'send_leave v2';
  readonly server: ServerName;
  readonly leave?: JsonObject;
}

type Reply<T extends readonly unknown[]> = (...args: T) => FederationResult | Promise<FederationResult>;

/** Residents that answer as a test says; what they were asked, and every event that was signed and got out. */
export class ScriptedResidents implements LeaveClient {
  readonly asked: Asked[] = [];
  /** Called as (server, key). */
  onMakeLeave: Reply<[ServerName, LeavingKey]> = () => notFound;
  onSendLeave: Reply<[ServerName, 'v1' | 'v2', JsonObject]> = () => taken;

  async makeLeave(
    server: ServerName,
    roomId: RoomId,
    userId: UserId,
    { signal }: { readonly signal?: AbortSignal },
  ): Promise<FederationResult> {
    this.asked.push({ what: 'make_leave', server });
    return untilAborted(this.onMakeLeave(server, { userId, roomId }), signal);
  }

  sendLeaveV2(...args: Parameters<LeaveClient['sendLeaveV2']>): Promise<FederationResult> {
    return this.#send('v2', ...args);
  }

  sendLeaveV1(...args: Parameters<LeaveClient['sendLeaveV1']>): Promise<FederationResult> {
    return this.#send('v1', ...args);
  }

  /** What was asked, as `what server` lines. */
  get log(): readonly string[] {
    return this.asked.map(({ what, server }) => `${what} ${server}`);
  }

  /** The IDs under which leaves were sent, each once; versions from 3 on. */
  get sent(): readonly JsonObject[] {
    return [
      ...new Map(
        this.asked.flatMap(({ leave }) => (leave === undefined ? [] : [[JSON.stringify(leave), leave]])),
      ).values(),
    ];
  }

  async #send(
    version: 'v1' | 'v2',
    server: ServerName,
    _roomId: RoomId,
    _eventId: EventId,
    leave: JsonObject,
    { signal }: { readonly signal?: AbortSignal },
  ): Promise<FederationResult> {
    this.asked.push({ what: `send_leave ${version}`, server, leave });
    return untilAborted(this.onSendLeave(server, version, leave), signal);
  }
}

export const taken: FederationResult = { ok: true, status: 200, body: {} };
export const http = (status: number, errcode?: string): RemoteError => ({
  ok: false,
  kind: 'http',
  status,
  ...(errcode === undefined ? {} : { errcode }),
  error: 'scripted',
  retry: errcode !== undefined && status >= 400 && status < 500 && status !== 429 ? 'no' : 'later',
});
export const notFound = http(404, 'M_NOT_FOUND');
export const unreachable: RemoteError = { ok: false, kind: 'unreachable', error: 'scripted', retry: 'later' };
export const timedOut: RemoteError = { ok: false, kind: 'timeout', error: 'scripted', retry: 'later' };
/** Until it is called off. */
export const never = (): Promise<FederationResult> => new Promise(() => {});

async function untilAborted(
  result: FederationResult | Promise<FederationResult>,
  signal: AbortSignal | undefined,
): Promise<FederationResult> {
  return Promise.race([
    Promise.resolve(result),
    new Promise<FederationResult>((resolve) =>
      signal?.addEventListener('abort', () => resolve(timedOut), { once: true }),
    ),
  ]);
}

/** A good template, with `changes` to its event and `more` beside it. */
export function template(
  { userId, roomId }: LeavingKey,
  version = '11',
  changes: JsonObject = {},
  more: JsonObject = {},
): FederationResult {
  const rules = roomVersion(version);
  const hash = 'A'.repeat(43);
  const ref = (name: string): JsonValue =>
    rules?.referencesArePairs === true
      ? [`$${name}:x.example`, { sha256: hash }]
      : `$${name}${hash.slice(name.length)}`;
  const event: JsonObject = {
    type: 'm.room.member',
    room_id: roomId,
    sender: userId,
    state_key: userId,
    content: { membership: 'leave' },
    origin: 'x.example',
    origin_server_ts: 1,
    depth: 7,
    prev_events: [ref('p')],
    auth_events: [ref('a'), ref('b')],
    ...changes,
  };
  return { ok: true, status: 200, body: { room_version: version, event, ...more } };
}

export interface LeavingStage {
  readonly store: LeavingStore;
  readonly clock: ManualClock;
  readonly residents: ScriptedResidents;
  readonly runner: HandshakeRunner;
  readonly key: LeavingKey;
  /** The user is invited by a user of `servers[0]`; users of the others are shown with the invite. */
  invite(servers: readonly string[], version?: string, isVersionStated?: boolean): Promise<void>;
  /** The user wants out. */
  leave(leaveId?: string, traceparent?: string): Promise<void>;
  events(): Promise<readonly LeavingEvent[]>;
  /** The status of the newest leave. */
  status(): Promise<string | undefined>;
  /** A runner like this one, on other parts. Not started. */
  another(parts: Partial<HandshakeRunnerOptions>): HandshakeRunner;
}

let rooms = 0;

/** A leaving side on a database, with a room of its own; its runner is started. */
export function onStage(database: Database, parts: Partial<HandshakeRunnerOptions> = {}): LeavingStage {
  const store = new LeavingStore(database);
  const clock = new ManualClock();
  const residents = new ScriptedResidents();
  const key: LeavingKey = {
    userId: `@bob${++rooms}:${ourName}` as UserId,
    roomId: `!r${rooms}:y.example` as RoomId,
  };
  let opaque = 0;
  const another = (more: Partial<HandshakeRunnerOptions>): HandshakeRunner =>
    new HandshakeRunner({
      store,
      client: residents,
      ourName,
      signingKey,
      bounds: { minMs: 1_000, maxMs: 21_600_000 },
      isAlone: true,
      clock,
      random: () => 0,
      randomId: () => `opaque${rooms}x${++opaque}`,
      ...parts,
      ...more,
    });
  const runner = another({});
  runner.start();
  return {
    store,
    clock,
    residents,
    runner,
    key,
    another,
    async invite(servers, version = '11', isVersionStated = true) {
      const [inviter, ...others] = servers;
      await store.execute(key, (state) =>
        receiveInvite(state, {
          eventId: `$invite${rooms}` as EventId,
          sender: `@i:${inviter}` as UserId,
          origin: inviter as ServerName,
          roomVersion: version,
          isVersionStated,
          pdu: { hashes: { sha256: 'x' } },
          inviteRoomState: others.map((server) => ({
            type: 'm.room.member',
            sender: `@u:${server}`,
            state_key: `@u:${server}`,
            content: { membership: 'join' },
          })),
          at: clock.now(),
        }),
      );
    },
    async leave(leaveId = `leave-${key.roomId}`, traceparent?: string) {
      await store.execute(key, (state) =>
        requestLeave(state, { leaveId, reason: undefined, via: [], ourName, now: clock.now(), traceparent }),
      );
    },
    events: async () => (await store.load(key)).events,
    status: async () => (await store.load(key)).state.leave?.status.kind,
  };
}

/** Waits for the newest event of the stream to be of a type. */
export function lastEvent(stage: LeavingStage, type: LeavingEvent['type']): Promise<LeavingEvent> {
  return settle(type, async () => {
    const event = (await stage.events()).at(-1);
    return event?.type === type ? event : undefined;
  });
}

/** Moves the stage's clock to `at`, when something of the leave is due, and waits for the first event of that. */
export async function goOnAt(stage: LeavingStage, at: number): Promise<void> {
  const before = (await stage.events()).length;
  stage.clock.advance(at - stage.clock.now());
  await until(
    'the next step',
    async () => (await stage.events()).length > before,
    undefined,
    ticking(stage.clock),
  );
}
