import { serverNameOf, type Pdu, type RoomId, type ServerName, type UserId } from '@exeunt/pdu';
import type { Refusal } from './refusal.js';
import type { Room } from './room.js';
import { isServerAllowed } from './server-acl.js';
import { stateKeyOf } from './state-resolution/state-key.js';

/**
 * Whether `server` may ask us about the room: somebody here is joined to it, and the room's server ACL allows it.
 * Rows 5 and 6 of the order of checks; both before anything of the request is looked at. (ML-16, AC-05)
 */
export function admitServer(
  room: Room,
  servers: { readonly origin: ServerName; readonly ourName: ServerName },
): Refusal | undefined {
  if (room.isKnown) {
    room.require({ residents: [servers.ourName], state: [stateKeyOf('m.room.server_acl', '')] });
  }
  if (!room.isKnown || room.joinedMembersOf(servers.ourName) === 0) {
    return { refused: 'not-resident', rule: 'ML-16', detail: 'no user of this server is joined to the room' };
  }
  return checkServerAcl(room, servers.origin);
}

/** Whether the room's current ACL allows a server. (AC-01, AC-05) */
export function checkServerAcl(room: Room, origin: ServerName): Refusal | undefined {
  const acl = room.statePdu(room.currentState(), 'm.room.server_acl', '');
  if (isServerAllowed(acl?.content, origin)) return undefined;
  return {
    refused: 'server-denied',
    rule: 'AC-05',
    detail: `the room's server ACL denies ${origin}`,
    ...(acl === undefined ? {} : { events: [acl.eventId] }),
    state: 'current-state',
  };
}

/** What users of other servers hand in by a handshake with us: `make_leave` and `send_leave`, or `…_knock`. */
export type OwnMembership = 'leave' | 'knock';

/** The requirements that a PDU of each handshake is held to: for what it is, and for where it was put. */
const handshakeRules: Readonly<Record<OwnMembership, { readonly event: string; readonly path: string }>> = {
  leave: { event: 'SL-03', path: 'SL-07' },
  knock: { event: 'KN-02', path: 'KN-02' },
};

/**
 * Whether a PDU is what `send_leave` or `send_knock` takes: a membership of that kind that the asking server's own user
 * gave themselves, for this room and under this ID. Rows 9 and 10 of the order of checks. (SL-03, SL-07, SL-10, KN-02)
 */
export function checkIsOwnMembership(
  pdu: Pdu,
  request: {
    readonly membership: OwnMembership;
    readonly roomId: RoomId;
    readonly eventId: string;
    readonly origin: ServerName;
  },
): Refusal | undefined {
  const { membership } = request;
  const rules = handshakeRules[membership];
  const no = (rule: string, detail: string): Refusal => ({ refused: 'wrong-parameter', rule, detail });
  if (pdu.type !== 'm.room.member')
    return no(rules.event, `the event is of type ${pdu.type}, not m.room.member`);
  if (pdu.stateKey === undefined) return no(rules.event, 'the event has no state_key');
  if (pdu.content['membership'] !== membership) return no(rules.event, `the membership is not ${membership}`);
  if (serverNameOf(pdu.sender) !== request.origin) {
    return no(rules.event, `the sender ${pdu.sender} is not a user of ${request.origin}`);
  }
  if (pdu.stateKey !== pdu.sender) return no(rules.event, 'the state_key is not the sender');
  if (pdu.roomId !== request.roomId) return no(rules.path, `the event's room is ${pdu.roomId}`);
  if (pdu.eventId !== request.eventId) return no(rules.path, `the event's ID is ${pdu.eventId}`);
  return undefined;
}

/** Whether the asking server, which named the room versions that it knows, can take part in the room. (KN-01) */
export function checkKnowsVersion(room: Room, versions: readonly string[]): Refusal | undefined {
  const { id } = room.version;
  if (versions.includes(id)) return undefined;
  return {
    refused: 'incompatible-room-version',
    rule: 'KN-01',
    detail: `the room is of version ${id}, which is not among those that the asking server knows`,
    roomVersion: id,
  };
}

/** Whether a user may be asked about by `origin`: only its own. (ML-02) */
export function checkIsUserOf(userId: UserId, origin: ServerName): Refusal | undefined {
  if (serverNameOf(userId) === origin) return undefined;
  return { refused: 'user-not-of-origin', rule: 'ML-02', detail: `${userId} is not a user of ${origin}` };
}
