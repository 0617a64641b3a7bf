import { addSignature, eventIdOf } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { stringifyJson, withKeys, withoutKeys, type JsonObject } from '@exeunt/signing';
import type { LeaveServer } from './leave-server.js';
import { respond, type PeerResponse, type RemoteServer } from './remote-server.js';

/** Path parts, each percent-encoded, under `/_matrix/federation/`. */
export function federationUri(endpoint: string, ...parts: readonly string[]): string {
  return `/_matrix/federation/${[endpoint, ...parts.map(encodeURIComponent)].join('/')}`;
}

/** `GET make_leave` by a peer. */
export function makeLeave(
  peer: RemoteServer,
  ours: LeaveServer,
  roomId: string,
  userId: string,
): Promise<PeerResponse> {
  return peer.request({
    method: 'GET',
    uri: federationUri('v1/make_leave', roomId, userId),
    destination: ours.name,
    baseUrl: ours.federationUrl,
  });
}

/** `PUT send_leave` by a peer. */
export function sendLeave(
  peer: RemoteServer,
  ours: LeaveServer,
  leave: { readonly roomId: string; readonly eventId: string; readonly event: JsonObject },
  endpoint: 'v1' | 'v2' = 'v2',
): Promise<PeerResponse> {
  return peer.request({
    method: 'PUT',
    uri: federationUri(`${endpoint}/send_leave`, leave.roomId, leave.eventId),
    destination: ours.name,
    baseUrl: ours.federationUrl,
    body: leave.event,
  });
}

/** `GET make_knock` by a peer that knows these room versions. */
export function makeKnock(
  peer: RemoteServer,
  ours: LeaveServer,
  roomId: string,
  userId: string,
  versions: readonly string[],
): Promise<PeerResponse> {
  const query = versions.map((version) => `ver=${encodeURIComponent(version)}`).join('&');
  return peer.request({
    method: 'GET',
    uri: `${federationUri('v1/make_knock', roomId, userId)}${query === '' ? '' : `?${query}`}`,
    destination: ours.name,
    baseUrl: ours.federationUrl,
  });
}

/** `PUT send_knock` by a peer. */
export function sendKnock(
  peer: RemoteServer,
  ours: LeaveServer,
  knock: { readonly roomId: string; readonly eventId: string; readonly event: JsonObject },
): Promise<PeerResponse> {
  return peer.request({
    method: 'PUT',
    uri: federationUri('v1/send_knock', knock.roomId, knock.eventId),
    destination: ours.name,
    baseUrl: ours.federationUrl,
    body: knock.event,
  });
}

let opaque = 0;

/** A signed event of the peer's out of a template, with what it changes in it, and its ID. */
export function signTemplate(
  peer: RemoteServer,
  version: string,
  template: JsonObject,
  changes: JsonObject = {},
): { readonly roomId: string; readonly eventId: string; readonly event: JsonObject } {
  const rules = roomVersion(version)!;
  const ownId =
    rules.eventIdFormat === 'opaque-in-pdu'
      ? { event_id: `$leave${++opaque}${Date.now()}:${peer.name}` }
      : {};
  const bare = withoutKeys(
    template,
    'unsigned',
    'hashes',
    'signatures',
    'event_id',
    ...(rules.redactsInContent ? ['origin'] : []),
  );
  const event = peer.signPdu(
    withKeys(bare, {
      ...(rules.redactsInContent ? {} : { origin: peer.name }),
      origin_server_ts: Date.now(),
      ...ownId,
      ...changes,
    }),
    version,
  );
  return { roomId: String(template['room_id']), eventId: eventIdOf(event, rules), event };
}

/** The whole handshake of a user of the peer: template, signature, submission. Fails unless all of it is taken. */
export async function leaveRoom(
  peer: RemoteServer,
  ours: LeaveServer,
  roomId: string,
  userId: string,
  endpoint: 'v1' | 'v2' = 'v2',
): Promise<{ readonly eventId: string; readonly event: JsonObject }> {
  const made = await makeLeave(peer, ours, roomId, userId);
  const body = made.json as JsonObject;
  if (made.status !== 200) throw new Error(`make_leave: ${made.status} ${stringifyJson(body)}`);
  const leave = signTemplate(peer, String(body['room_version']), body['event'] as JsonObject);
  const sent = await sendLeave(peer, ours, leave, endpoint);
  if (sent.status !== 200) throw new Error(`send_leave: ${sent.status} ${sent.body.toString()}`);
  return leave;
}

/** Makes the peer answer invites as a good server does: with its signature added. */
export function acceptInvites(peer: RemoteServer): void {
  peer.on('PUT', '/_matrix/federation/v2/invite/', (request, response) => {
    const body = request.json as JsonObject;
    const event = body['event'] as JsonObject;
    const rules = roomVersion(String(body['room_version']))!;
    respond(response, 200, { event: addSignature(event, rules, peer.name, peer.key) });
  });
}
