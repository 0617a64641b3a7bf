import { addSignature, eventIdOf, type ServerName, type UserId } from '@exeunt/pdu';
import { draftEvent } from '@exeunt/room';
import { roomVersion } from '@exeunt/room-version';
import { stringifyJson, withKeys, type JsonObject, type JsonValue } from '@exeunt/signing';
import { federationUri } from './harness/leaving-user.js';
import type { LeaveServer } from './harness/leave-server.js';
import type { PeerResponse, RemoteServer } from './harness/remote-server.js';
import { RoomBuilder } from './harness/room-builder.js';

/** A room on a scripted peer, of which our server knows nothing. */
export interface PeerRoom {
  readonly roomId: string;
  readonly version: string;
  readonly builder: RoomBuilder;
  /** The peer's user who made the room. */
  readonly ian: string;
}

/** A room that the peer's user ian made; invite only, unless told. */
export function roomOf(peer: RemoteServer, version: string, joinRule = 'invite'): PeerRoom {
  const ian = `@ian:${peer.name}`;
  const builder = new RoomBuilder({ version, servers: [peer], creator: ian, joinRule });
  return { roomId: builder.roomId, version, builder, ian };
}

export interface SignedInvite {
  readonly roomId: string;
  readonly version: string;
  readonly eventId: string;
  readonly event: JsonObject;
  readonly inviteRoomState: readonly JsonObject[];
}

/** An invite of the peer's, signed by it alone, with `changes` made before it is signed. */
export function inviteOf(room: PeerRoom, target: string, changes: JsonObject = {}): SignedInvite {
  const { builder, ian, roomId, version } = room;
  const { json, eventId } = builder.make({
    sender: ian,
    type: 'm.room.member',
    stateKey: target,
    content: { membership: 'invite' },
    ts: Date.now(),
    changes,
  });
  const inviteRoomState = builder.pdus
    .filter(({ stateKey }) => stateKey !== undefined)
    .map((pdu) => pdu.json);
  return { roomId, version, eventId, event: json, inviteRoomState };
}

/** The same invite made anew under the peer's key after a change that its maker would not make. */
export function resigned(peer: RemoteServer, invite: SignedInvite, changes: JsonObject): SignedInvite {
  const event = peer.signPdu(withKeys(invite.event, changes), invite.version);
  return { ...invite, event, eventId: eventIdOf(event, roomVersion(invite.version)!) };
}

/** Where our server is reached. */
type OurServer = { readonly name: string; readonly federationUrl: string };

/** `PUT invite` by the peer. */
export function putInvite(
  peer: RemoteServer,
  ours: OurServer,
  invite: SignedInvite,
  api: 'v1' | 'v2' = 'v2',
): Promise<PeerResponse> {
  const { roomId, eventId, event, inviteRoomState, version } = invite;
  return peer.request({
    method: 'PUT',
    uri: federationUri(`${api}/invite`, roomId, eventId),
    destination: ours.name,
    baseUrl: ours.federationUrl,
    body:
      api === 'v2'
        ? { room_version: version, event, invite_room_state: inviteRoomState }
        : withKeys(event, { unsigned: { invite_room_state: inviteRoomState } }),
  });
}

/** Invites a user of ours and, in the peer's own room, makes the invite part of the state. Fails unless taken. */
export async function inviteOurUser(
  peer: RemoteServer,
  ours: OurServer,
  room: PeerRoom,
  target: string,
): Promise<SignedInvite> {
  const invite = inviteOf(room, target);
  const answer = await putInvite(peer, ours, invite);
  if (answer.status !== 200) throw new Error(`invite: ${answer.status} ${answer.body.toString()}`);
  return invite;
}

/** `PUT v1/send/{txnId}` by the peer. */
export function putTransaction(
  peer: RemoteServer,
  ours: OurServer,
  txnId: string,
  body: { readonly pdus: readonly JsonValue[]; readonly edus?: readonly JsonValue[] },
): Promise<PeerResponse> {
  return peer.request({
    method: 'PUT',
    uri: federationUri('v1/send', txnId),
    destination: ours.name,
    baseUrl: ours.federationUrl,
    body: { origin: peer.name, origin_server_ts: Date.now(), ...body },
  });
}

/** The event with our server's signature as well, as a good answer has it. */
export function countersigned(ours: LeaveServer, invite: SignedInvite): JsonObject {
  const { signingKey } = ours.running.platform.side;
  return addSignature(invite.event, roomVersion(invite.version)!, ours.name, signingKey);
}

/** What a good resident of the peer's room answers `make_leave` with. */
export function leaveTemplateOf(
  { builder, version }: PeerRoom,
  server: ServerName,
  userId: string,
): JsonObject {
  const user = userId as UserId;
  const event = draftEvent(
    builder.room,
    {
      type: 'm.room.member',
      sender: user,
      stateKey: user,
      content: { membership: 'leave' },
      originServerTs: 1,
      origin: server,
    },
    { alwaysOrigin: true },
  );
  return { room_version: version, event };
}

/** Compared as text: nothing may have changed, numbers included. */
export function text(value: JsonValue): string {
  return stringifyJson(value);
}

/** `GET /v1/users/{userId}/memberships`. */
export function membershipsOf(ours: LeaveServer, userId: string): Promise<JsonObject> {
  return ours.ok('GET', `/v1/users/${encodeURIComponent(userId)}/memberships`);
}
