import { readdirSync, readFileSync } from 'node:fs';
import { InMemoryEventStore } from '@exeunt/event-store';
import {
  cancelLeave,
  evolveLeaving,
  finishRound,
  initialLeaving,
  isFactForTheBus,
  isLeavingRefusal,
  maxRefusedRounds,
  messageOf,
  noteOutcome,
  receiveInvite,
  recordLocalLeave,
  requestLeave,
  retractInvite,
  type Leaving,
  type LeavingDecision,
  type LeavingKey,
} from '@exeunt/leaving';
import {
  INGEST_TOPIC,
  KAFKA_PARTITIONS,
  OUTBOUND_PDUS_TOPIC,
  stableHash,
  type BusMessage,
} from '@exeunt/message-bus';
import { messagesFor } from '@exeunt/outbox-relay';
import type { Pdu, ServerName, UserId } from '@exeunt/pdu';
import type { Broadcast } from '@exeunt/room';
import { RoomStore } from '@exeunt/room-store';
import { roomVersionIds } from '@exeunt/room-version';
import { OutboundPdusConsumer } from '@exeunt/sending';
import {
  encodeUnpaddedBase64,
  JsonNumber,
  selectEd25519,
  signJson,
  stringifyJson,
  type JsonObject,
} from '@exeunt/signing';
import { paperServer, RoomBuilder, type BuilderServer, type Saying } from './room-builder.js';

const hub = paperServer('hub.example');
const away = paperServer('away.example');
const third = paperServer('[2001:db8::3]:8448');
const alice = '@alice:hub.example' as UserId;
const bob = '@bob:away.example' as UserId;
const carol = `@carol:${third.name}` as UserId;
const startTs = 1_700_000_000_000;

/** The same room each time, whoever makes it. */
function builtRoom(version: string, creator: UserId, joinRule = 'public'): RoomBuilder {
  let names = 0;
  return new RoomBuilder({
    version,
    servers: [hub, away, third],
    creator,
    joinRule,
    startTs,
    nextName: () => `room-${version}-${(names += 1)}`,
  });
}

/**
 * What the relay publishes of a room of ours: of state and messages, joins, an invite that is rejected, a leave, a
 * kick; up to version 5 with a depth that no double holds.
 */
export async function messagesOfARoom(version: string): Promise<readonly BusMessage[]> {
  const builder = builtRoom(version, alice);
  const broadcasts: Broadcast[] = [];
  const say = (saying: Saying): Pdu => {
    const pdu = builder.make(saying);
    const { refusal, broadcasts: ofIt } = builder.receive(pdu);
    if (refusal !== undefined) throw new Error(`${refusal.rule}: ${refusal.detail}`);
    broadcasts.push(...ofIt);
    return pdu;
  };
  const member = (userId: UserId, membership: string, sender = userId, reason?: string): Pdu =>
    say({
      sender,
      type: 'm.room.member',
      stateKey: userId,
      content: { membership, ...(reason === undefined ? {} : { reason }) },
    });
  member(bob, 'join');
  member(carol, 'invite', alice);
  member(carol, 'leave', carol, 'not for me');
  member(carol, 'join');
  say({ sender: alice, type: 'm.room.topic', stateKey: '', content: { topic: 'Ü𝄞 "\\ \u0000' } });
  say({ sender: carol, content: { body: 'hello', msgtype: 'm.text' } });
  member(carol, 'leave', alice, 'kicked');
  const depth = builder.version.strictCanonicalJson ? {} : { depth: new JsonNumber('9223372036854775807') };
  say({ sender: bob, content: { body: 'deep' }, changes: depth });
  member(bob, 'leave');
  return await relayed(builder, broadcasts);
}

/** What the relay publishes of a leave that thousands of servers must hear of. */
export async function messagesOfALargeRoom(): Promise<readonly BusMessage[]> {
  const builder = builtRoom('11', alice);
  builder.member(bob, 'join');
  const leave = builder.member(bob, 'leave');
  const buckets = KAFKA_PARTITIONS[OUTBOUND_PDUS_TOPIC] ?? 1;
  const names = Array.from({ length: 5_000 * buckets }, (_, n) => `s${n}.example` as ServerName);
  // Of one bucket so many that they are more than one message holds, and some of every other.
  const destinations = names.filter((name, n) => n < 1_000 || stableHash(name) % buckets === 0);
  return await relayed(builder, [{ eventId: leave.eventId, pdu: leave.json, destinations }]);
}

/** By way of the store and its outbox, as the gateway does. */
async function relayed(
  builder: RoomBuilder,
  broadcasts: readonly Broadcast[],
): Promise<readonly BusMessage[]> {
  const store = new InMemoryEventStore();
  await new RoomStore(store).executeAll(
    builder.roomId,
    builder.domainEvents.map((domainEvent) => () => ({
      domainEvents: [domainEvent],
      broadcasts: broadcasts.filter(
        ({ eventId }) => domainEvent.type === 'PduAccepted' && domainEvent.eventId === eventId,
      ),
    })),
  );
  const entries = await store.take(10_000);
  return entries.flatMap((entry) => messagesFor(entry, (topic) => KAFKA_PARTITIONS[topic] ?? 1));
}

/** What the leaving side tells: of each fact, in every form that it has. */
export function messagesOfLeaves(): readonly BusMessage[] {
  const bounds = { minMs: 1_000, maxMs: 60_000 };
  const ourName = away.name;
  const wish = { reason: undefined, via: [], ourName, now: startTs + 20_000 };
  const refusal = { kind: 'refused', server: hub.name, step: 'make_leave', detail: '403' } as const;
  const first = { ...wish, leaveId: 'leave-1' };
  return roomVersionIds.flatMap((version) => {
    const builder = builtRoom(version, alice);
    const invite = builder.member(bob, 'invite', alice);
    const kick = builder.member(bob, 'leave', alice);
    const second = builder.member(bob, 'invite', alice);
    const key: LeavingKey = { userId: bob, roomId: builder.roomId };
    const fact = ({ eventId, sender, json }: Pdu) => ({
      eventId,
      sender,
      origin: hub.name,
      pdu: json,
      at: startTs + 10_000,
    });
    const invitedBy = (pdu: Pdu) => (state: Leaving) =>
      receiveInvite(state, {
        ...fact(pdu),
        roomVersion: version,
        isVersionStated: true,
        inviteRoomState: [],
      });
    const invited = invitedBy(invite);
    const retracted = (state: Leaving) =>
      retractInvite(state, { ...fact(kick), authEvents: kick.authEvents });
    const left = (state: Leaving) => requestLeave(state, first);
    const refused = (state: Leaving) => noteOutcome(state, 'leave-1', refusal, startTs + 30_000);
    const roundOver = (state: Leaving) =>
      finishRound(state, 'leave-1', { now: startTs + 40_000, random: 0, bounds });
    const accepted = (state: Leaving) =>
      noteOutcome(
        state,
        'leave-1',
        { kind: 'accepted', server: hub.name, eventId: kick.eventId },
        startTs + 50_000,
      );
    const stories: readonly (readonly ((state: Leaving) => LeavingDecision)[])[] = [
      [invited, (state) => requestLeave(state, { ...first, reason: 'not for me' }), accepted],
      [invited, retracted],
      [invited, left, retracted],
      [invited, left, invitedBy(second)],
      [invited, left, (state) => cancelLeave(state, 'leave-1', startTs + 60_000)],
      [invited, left, ...Array.from({ length: maxRefusedRounds }, () => [refused, roundOver]).flat()],
      [left],
      [
        left,
        (state) => recordLocalLeave(state, { ...wish, leaveId: 'leave-2', ourName, eventId: kick.eventId }),
      ],
    ];
    return stories.flatMap((story) => told(key, story));
  });
}

function told(key: LeavingKey, story: readonly ((state: Leaving) => LeavingDecision)[]): BusMessage[] {
  const messages: BusMessage[] = [];
  let state = initialLeaving;
  let position = 0;
  for (const step of story) {
    const decision = step(state);
    if (isLeavingRefusal(decision)) throw new Error(decision.detail);
    for (const event of decision) {
      position += 1;
      if (isFactForTheBus(event)) messages.push(messageOf(key, position, event));
    }
    state = decision.reduce(evolveLeaving, state);
  }
  return messages;
}

/** What the sender parks: messages that are nothing, and one that is almost one. */
export async function deadLetters(): Promise<readonly BusMessage[]> {
  const parked: BusMessage[] = [];
  const consumer = new OutboundPdusConsumer({
    bus: {
      consume: () => Promise.reject(new Error('nothing is consumed')),
      publish: async (messages) => void parked.push(...messages),
    },
    queue: { enqueue: async () => 0 },
    clock: { now: () => startTs, after: () => () => {} },
  });
  const at = { topic: OUTBOUND_PDUS_TOPIC, partition: 3, key: '3' };
  const headers = { ce_id: 'some/1', ce_traceparent: `00-${'0af7'.repeat(8)}-${'b7ad'.repeat(4)}-01` };
  await consumer.handle([
    { ...at, offset: '0', headers: {}, value: '' },
    { ...at, offset: '9223372036854775807', headers, value: 'no JSON \0' },
    {
      ...at,
      offset: '8',
      key: '',
      headers,
      value: '{"room_id":"!a:hub.example","destinations":["not a server"]}',
    },
  ]);
  return parked;
}

/** A message of every type that this service publishes, in many forms; the same ones each time. */
export async function publishedMessages(): Promise<readonly BusMessage[]> {
  const ofRooms = await Promise.all(roomVersionIds.map(messagesOfARoom));
  return [
    ...ofRooms.flat(),
    ...(await messagesOfALargeRoom()),
    ...messagesOfLeaves(),
    ...(await deadLetters()),
  ];
}

/** What other services hand over: each type in its smallest form and its largest; the same ones each time. */
export function handedOverMessages(): readonly BusMessage[] {
  const builder = builtRoom('11', alice);
  builder.member(bob, 'join');
  const knock = builtRoom('11', carol, 'knock');
  const { json: event, eventId } = knock.member(bob, 'knock');
  const pdus = builder.pdus.map(({ json }) => json);
  const state = pdus.filter(({ state_key: stateKey }) => stateKey !== undefined);
  const place = { forward_extremities: [builder.pdus.at(-1)!.eventId], depth: builder.pdus.length };
  const keys = { server_keys: [hub, away].map(keysOf) };
  const stripped = {
    type: 'm.room.join_rules',
    state_key: '',
    sender: carol,
    content: { join_rule: 'knock' },
  };
  const who = { user_id: bob, room_id: knock.roomId, via: [third.name] };
  const values: readonly (readonly [type: string, key: string, value: JsonObject])[] = [
    ['room', builder.roomId, { room_version: '11', events: pdus }],
    ['room', builder.roomId, { room_version: '11', events: pdus, ...keys }],
    ['room', builder.roomId, { room_version: '11', state, auth_chain: [], ...place, ...keys }],
    ['pdus', builder.roomId, { room_id: builder.roomId, pdus: pdus.slice(-1) }],
    ['pdus', builder.roomId, { room_id: builder.roomId, pdus: pdus.slice(-2), ...keys }],
    ['knock', knock.roomId, who],
    [
      'knock',
      knock.roomId,
      { ...who, room_version: '11', event_id: eventId, event, knock_room_state: [stripped] },
    ],
  ];
  return values.map(([type, key, value], at) => ({
    topic: INGEST_TOPIC,
    key,
    headers: {
      ce_specversion: '1.0',
      ce_id: `handed-over/${at}`,
      ce_source: '/platform/rooms',
      ce_type: `exeunt.ingest-${type}.v1`,
      ce_time: new Date(startTs).toISOString(),
      'content-type': 'application/json',
    },
    value: stringifyJson(value),
  }));
}

/** What the server answers who asks it for its keys. */
function keysOf({ name, key }: BuilderServer): JsonObject {
  const publicKey = encodeUnpaddedBase64(selectEd25519().publicKeyOf(key.seed));
  return signJson(
    {
      server_name: name,
      valid_until_ts: startTs + 86_400_000,
      verify_keys: { [key.keyId]: { key: publicKey } },
      old_verify_keys: {},
    },
    name,
    key,
  );
}

/** Where {@link storedMessages} are: a file a type, named for it. */
export const storedIn = new URL('../conformance/bus-messages/', import.meta.url);

/**
 * Messages as they were published by the release that came first with their type, and by each that added a field. Never
 * edited.
 */
export function storedMessages(): readonly BusMessage[] {
  return readdirSync(storedIn).flatMap(
    (file) => JSON.parse(readFileSync(new URL(file, storedIn), 'utf8')) as readonly BusMessage[],
  );
}
