import type { Database } from '@exeunt/database';
import { eventStoreMigrations, TypeormEventStore } from '@exeunt/event-store';
import { DatabaseServerKeyStore, KeyRing, OwnKeys, ServerKeys1700000000001 } from '@exeunt/key-ring';
import { leavingMigrations, LeavingStore } from '@exeunt/leaving';
import {
  DEAD_LETTER_TOPIC,
  EmbeddedBus1700000000002,
  INGEST_TOPIC,
  type BusMessage,
  type ManualClock,
  type MessageBus,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import type { ServerName } from '@exeunt/pdu';
import { RoomStore } from '@exeunt/room-store';
import {
  encodeUnpaddedBase64,
  nativeEd25519,
  signJson,
  stringifyJson,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import type { FederationSide } from '../../apps/gateway/src/federation-side.js';
import { IngestConsumer, type IngestConsumerOptions } from '../../apps/gateway/src/ingest/ingest-consumer.js';
import {
  IngestWaiting1700000000010,
  WaitingMessages,
} from '../../apps/gateway/src/ingest/waiting-messages.js';
import { GatewayMetrics } from '../../apps/gateway/src/operations/metrics.js';
import { paperServer, RoomBuilder, type BuilderServer } from '../harness/room-builder.js';

export const ingestMigrations = [
  ...eventStoreMigrations,
  ServerKeys1700000000001,
  EmbeddedBus1700000000002,
  ...leavingMigrations,
  IngestWaiting1700000000010,
];

export const us = paperServer('us.test');
export const peer = paperServer('peer.test');
export const alice = '@alice:us.test';
export const pat = '@pat:peer.test';

/** A room of alice's, of version 11, that the peer's users may join. */
export function aRoom(): RoomBuilder {
  return new RoomBuilder({ version: '11', servers: [us, peer], creator: alice });
}

/** What the server answers who asks for its keys. */
export function keysOf({ name, key }: BuilderServer, now: number): JsonObject {
  const publicKey = encodeUnpaddedBase64(nativeEd25519.publicKeyOf(key.seed));
  return signJson(
    {
      server_name: name,
      valid_until_ts: now + 3_600_000,
      verify_keys: { [key.keyId]: { key: publicKey } },
      old_verify_keys: {},
    },
    name,
    key,
  );
}

/** A gateway's consumer on a database; what else a gateway has it does without. */
export interface IngestingGateway {
  readonly consumer: IngestConsumer;
  readonly side: FederationSide;
  readonly problems: unknown[];
  /** Servers that were asked for their keys. */
  readonly asked: ServerName[];
}

/** `keys`: what a server answers who asks for its keys; undefined where it can't be reached. */
export function gatewayOn(
  database: Database,
  bus: Pick<MessageBus, 'consume' | 'publish'>,
  clock: ManualClock,
  keys: (server: ServerName) => JsonObject | undefined | Promise<JsonObject> = () => undefined,
  options: Partial<IngestConsumerOptions> = {},
): IngestingGateway {
  const now = (): number => clock.now();
  const asked: ServerName[] = [];
  const keyLine = `ed25519 ${us.key.keyId.replace('ed25519:', '')} ${encodeUnpaddedBase64(us.key.seed)}`;
  const side = {
    ourName: us.name,
    ed25519: nativeEd25519,
    keyRing: new KeyRing({
      fetchKeys: async (server) => {
        asked.push(server);
        const body = await keys(server);
        return body === undefined ? { ok: false } : { ok: true, body };
      },
      store: new DatabaseServerKeyStore(database),
      own: OwnKeys.parse(us.name, keyLine),
      now,
      random: () => 0,
    }),
    rooms: new RoomStore(new TypeormEventStore(database)),
    leaving: { store: new LeavingStore(database) },
    metrics: new GatewayMetrics(),
    now,
  } as unknown as FederationSide;
  const problems: unknown[] = [];
  const consumer = new IngestConsumer({
    side,
    bus,
    waiting: new WaitingMessages(database),
    clock,
    bounds: { minMs: 10_000, maxMs: 3_600_000 },
    random: () => 0,
    onProblem: (_, cause) => problems.push(cause),
    ...options,
  });
  return { consumer, side, problems, asked };
}

let ids = 0;

/** A message as another service of the platform publishes it. */
export function messageOf(type: string, key: string, value: JsonValue): BusMessage {
  return {
    topic: INGEST_TOPIC,
    key,
    headers: {
      ce_specversion: '1.0',
      ce_id: `message-${++ids}`,
      ce_source: '/platform/rooms',
      ce_type: type,
      'content-type': 'application/json',
    },
    value: stringifyJson(value),
  };
}

export const roomMessage = (builder: RoomBuilder): BusMessage =>
  messageOf('exeunt.ingest-room.v1', builder.roomId, {
    room_version: builder.version.id,
    events: builder.pdus.map(({ json }) => json),
  });

export const pdusMessage = (roomId: string, ...pdus: readonly { readonly json: JsonObject }[]): BusMessage =>
  messageOf('exeunt.ingest-pdus.v1', roomId, { room_id: roomId, pdus: pdus.map(({ json }) => json) });

/** The messages as a consumer gets them, all in one partition. */
export function asReceived(...messages: readonly BusMessage[]): readonly ReceivedMessage[] {
  return messages.map((message) => ({
    ...message,
    partition: 0,
    offset: message.headers['ce_id']!.slice(8),
  }));
}

/** A bus that takes dead letters down. */
export function deadLetterBox(): {
  readonly bus: Pick<MessageBus, 'consume' | 'publish'>;
  /** By `ce_id`: `ID: reason`. */
  readonly letters: Map<string, string>;
} {
  const letters = new Map<string, string>();
  return {
    letters,
    bus: {
      consume: () => Promise.reject(new Error('nothing is consumed here')),
      publish: async (messages) => {
        for (const { topic, headers, value } of messages) {
          if (topic !== DEAD_LETTER_TOPIC) throw new Error(`to ${topic}?`);
          letters.set(headers['ce_id']!, (JSON.parse(value) as { readonly reason: string }).reason);
        }
      },
    },
  };
}

/** The room's log as its event IDs, with what is rejected marked so. */
export async function logOf(database: Database, roomId: string): Promise<readonly string[]> {
  const rows = await database.query<{ type: string; event_id: string }>(
    `SELECT type, event_id FROM room_log WHERE room_id = $1 AND event_id IS NOT NULL ORDER BY position`,
    [roomId],
  );
  return rows.map(({ type, event_id: id }) => (type === 'PduAccepted' ? id : `${type} ${id}`));
}
