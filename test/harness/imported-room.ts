import { isJsonObject, withoutKeys, type JsonObject } from '@exeunt/signing';
import type { LeaveServer } from './leave-server.js';
import type { ReceivedRequest, RemoteServer } from './remote-server.js';
import { RoomBuilder } from './room-builder.js';

export interface RoomToBuild {
  readonly version: string;
  /** Servers whose users may act in the room. */
  readonly peers?: readonly RemoteServer[];
  /** `public` unless told. */
  readonly joinRule?: string;
  readonly powerLevels?: JsonObject;
  /** More of the room's history; alice is its creator. */
  readonly grow?: (builder: RoomBuilder, alice: string) => void;
}

/** A room that was built on paper and handed to our server, and what one asks about it. */
export interface ImportedRoom {
  readonly roomId: string;
  readonly version: string;
  /** Our user, who made the room and is joined. */
  readonly alice: string;
  readonly builder: RoomBuilder;
  /** Of the room's log. */
  position(): Promise<number>;
  /** The domain events after a position. */
  since(position: number): Promise<readonly JsonObject[]>;
  /** A user's membership in the current state; `none` where there is no member event. */
  membership(userId: string): Promise<string>;
  /** A state event of alice, by the platform API; gives its ID. */
  say(type: string, stateKey: string, content: JsonObject): Promise<string>;
  /** The path of the room in the platform API, with more after it. */
  path(more?: string): string;
}

/** Builds a room with our server and the peers in it and imports it as a graph; every event must be taken. */
export async function importRoom(ours: LeaveServer, room: RoomToBuild): Promise<ImportedRoom> {
  const alice = `@alice:${ours.name}`;
  const peers = room.peers ?? [];
  const builder = new RoomBuilder({
    version: room.version,
    servers: [
      { name: ours.name, key: ours.running.platform.side.signingKey },
      ...peers.map(({ name, key }) => ({ name, key })),
    ],
    creator: alice,
    ...(room.joinRule === undefined ? {} : { joinRule: room.joinRule }),
    ...(room.powerLevels === undefined ? {} : { powerLevels: room.powerLevels }),
  });
  room.grow?.(builder, alice);
  const report = await ours.ok('POST', '/v1/rooms/import', importOf(builder, peers));
  if (report['accepted'] !== builder.pdus.length) throw new Error(JSON.stringify(report));
  return onRoom(ours, builder, alice);
}

/** The body of an import of a built room as a graph. */
export function importOf(builder: RoomBuilder, peers: readonly RemoteServer[]): JsonObject {
  return {
    room_version: builder.version.id,
    events: builder.pdus.map(({ json }) => json),
    server_keys: peers.map((peer) => peer.keyResponse()),
  };
}

function onRoom(ours: LeaveServer, builder: RoomBuilder, alice: string): ImportedRoom {
  const { roomId } = builder;
  const path = (more = ''): string => `/v1/rooms/${encodeURIComponent(roomId)}${more}`;
  return {
    roomId,
    version: builder.version.id,
    alice,
    builder,
    path,
    position: async () => Number((await ours.ok('GET', path()))['position']),
    async since(position) {
      const { events } = await ours.ok('GET', path(`/events?from=${position + 1}&limit=10000`));
      return events as readonly JsonObject[];
    },
    async membership(userId) {
      const content = (await ours.member(roomId, userId))?.['content'];
      return isJsonObject(content) ? String(content['membership']) : 'none';
    },
    async say(type, stateKey, content) {
      const said = await ours.ok('POST', path('/state'), {
        sender: alice,
        type,
        state_key: stateKey,
        content,
      });
      return String(said['event_id']);
    },
  };
}

/** The PDUs of a transaction; none where the request is no transaction. */
export function pdusOf({ method, url, json }: ReceivedRequest): readonly JsonObject[] {
  const isTransaction = method === 'PUT' && url.startsWith('/_matrix/federation/v1/send/');
  return isTransaction && isJsonObject(json) ? (json['pdus'] as readonly JsonObject[]) : [];
}

/** The event as the peer gets it in a transaction, whenever it comes. */
export async function delivered(peer: RemoteServer, event: JsonObject): Promise<JsonObject> {
  const isIt = (pdu: JsonObject) => JSON.stringify(pdu['signatures']) === JSON.stringify(event['signatures']);
  const request = await peer.received((one) => pdusOf(one).some(isIt), 20_000);
  return withoutKeys(pdusOf(request).find(isIt)!, 'unsigned');
}

/** Everything of a room that the peer has been sent up to now. */
export function deliveriesOf(peer: RemoteServer, roomId: string): readonly JsonObject[] {
  return peer.requests.flatMap(pdusOf).filter((pdu) => pdu['room_id'] === roomId);
}
