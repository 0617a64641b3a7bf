import { Inject } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import {
  addSignature,
  checkPduSignatures,
  contentHashMatches,
  isPduFault,
  parsePdu,
  parseUserId,
  redact,
  serverNameOf,
  type EventId,
  type Pdu,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { acceptPdu, admitServer, type Refusal } from '@exeunt/room';
import type { RoomVersion } from '@exeunt/room-version';
import {
  decodeBase64,
  isJsonObject,
  memberOf,
  signaturesOf,
  signedBytes,
  withoutKeys,
  type JsonObject,
} from '@exeunt/signing';
import { receiveInvite } from '@exeunt/leaving';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { faultRefusal } from '../member-handshake/accept-membership.command.js';
import { checkInviteState, shownState } from './invite-room-state.js';

/** Another server invites a user of ours. */
export class ReceiveInvite extends Command<JsonObject | Refusal> {
  constructor(
    readonly roomId: RoomId,
    readonly eventId: EventId,
    readonly origin: ServerName,
    readonly version: RoomVersion,
    /** False by v1, where the version is 1 or 2. */
    readonly isVersionStated: boolean,
    /** The event as received. */
    readonly event: JsonObject,
    readonly inviteRoomState: readonly unknown[],
  ) {
    super();
  }
}

/**
 * Gives the invite back with our signature on it and nothing else changed, or why not. It is durable before that.
 * What we sign is always an invite of a user of ours, by a user of the server that asks. (IN-01 to IN-12)
 *
 * Where a user of ours is in the room, the invite becomes part of the room if it fits; one whose parents are not
 * known here is signed all the same, for it comes again in a transaction. (IN-10)
 */
@CommandHandler(ReceiveInvite)
export class ReceiveInviteHandler implements ICommandHandler<ReceiveInvite> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute(command: ReceiveInvite): Promise<JsonObject | Refusal> {
    const { ourName, rooms, signingKey } = this.side;
    const { roomId, origin, event } = command;
    const known = await rooms.query(roomId, (room) => admitServer(room, { origin, ourName }) ?? room.version);
    if ('refused' in known && known.refused === 'server-denied') return known;
    const isResident = !('refused' in known);
    // By v1 nobody says which of the two it is; the room itself may know.
    const version = isResident && !command.isVersionStated ? known : command.version;
    if (isResident && known !== version) {
      return { refused: 'wrong-parameter', rule: 'IN-05', detail: `the room is of version ${known.id}` };
    }

    const invite = this.read(command, version);
    if ('refused' in invite) return invite;
    const unsigned = await this.checkSignatures(invite.pdu, origin);
    if (unsigned !== undefined) return unsigned;
    if (!contentHashMatches(invite.pdu.json)) {
      // To go on with the redacted copy would be to sign what nobody sent.
      return { refused: 'wrong-parameter', rule: 'SG-01', detail: 'the content hash is not the event’s' };
    }
    const stateFault = checkInviteState(command.inviteRoomState, roomId, version);
    if (stateFault !== undefined) return stateFault;

    const signed = addSignature(event, version, ourName, signingKey);
    const refusal = isResident
      ? await this.intoRoom(command, version, signed)
      : await this.keep(command, invite.pdu, invite.target, signed);
    return refusal ?? signed;
  }

  /** Format, and that it is an invite of a user of ours in this room under this ID. (IN-04) */
  private read(
    command: ReceiveInvite,
    version: RoomVersion,
  ): { readonly pdu: Pdu; readonly target: UserId } | Refusal {
    const no = (rule: string, detail: string): Refusal => ({ refused: 'wrong-parameter', rule, detail });
    const pdu = parsePdu(command.event, version);
    if (isPduFault(pdu)) return faultRefusal(pdu);
    if (pdu.type !== 'm.room.member') return no('IN-04', `the event is of type ${pdu.type}`);
    if (pdu.content['membership'] !== 'invite') return no('IN-04', 'the membership is not invite');
    if (serverNameOf(pdu.sender) !== command.origin) {
      return no('IN-04', `the sender ${pdu.sender} is not a user of ${command.origin}`);
    }
    const target = parseUserId(pdu.stateKey ?? '');
    if (target === undefined || serverNameOf(target) !== this.side.ourName) {
      return no('IN-04', `the state_key is not a user of ${this.side.ourName}`);
    }
    if (pdu.roomId !== command.roomId) return no('IN-04', `the event's room is ${pdu.roomId}`);
    if (pdu.eventId !== command.eventId) return no('IN-04', `the event's ID is ${pdu.eventId}`);
    const thirdParty = pdu.content['third_party_invite'];
    if (thirdParty !== undefined && !isThirdPartyInviteFor(thirdParty, target)) {
      return no(
        'IN-12',
        'third_party_invite holds no signed object with mxid, token and signatures for the user',
      );
    }
    return { pdu, target };
  }

  /** Every signature that is due but ours; the asking server's own on an invite by third-party ID as well. (SG-08) */
  private async checkSignatures(pdu: Pdu, origin: ServerName): Promise<Refusal | undefined> {
    const { keyRing, ed25519 } = this.side;
    const stage = { awaitsInvitee: true };
    const no = (server: ServerName, detail: string): Refusal => ({
      refused: 'bad-signature',
      rule: 'IN-04',
      detail: `${server}: ${detail}`,
    });
    const checked = await checkPduSignatures(pdu, await keyRing.keysForEvent(pdu, stage), ed25519, stage);
    if (!checked.ok) return no(checked.server, checked.detail);
    if (pdu.content['third_party_invite'] === undefined) return undefined;

    const signatures = signaturesOf(pdu.json, origin);
    const needs = signatures.map(({ keyId }) => ({ server: origin, keyId, atTs: pdu.originServerTs }));
    const keyOf = await keyRing.keysForEvents(needs, pdu.roomVersion);
    const message = signedBytes(redact(pdu.json, pdu.roomVersion));
    for (const { keyId, signature } of signatures) {
      const key = keyOf(origin, keyId);
      if (key?.validAt(pdu.originServerTs, pdu.roomVersion) !== true) continue;
      const bytes = decodeBase64(signature);
      if (bytes !== undefined && (await ed25519.verifyOffThread(key.publicKey, message, bytes)))
        return undefined;
    }
    return no(origin, 'no signature by a known, valid key of the server');
  }

  /** The inviting server tells the others in the room: nothing is broadcast from here. (IN-10) */
  private async intoRoom(
    { roomId, origin }: ReceiveInvite,
    version: RoomVersion,
    signed: JsonObject,
  ): Promise<Refusal | undefined> {
    const { ourName, rooms, now } = this.side;
    const pdu = parsePdu(signed, version);
    if (isPduFault(pdu)) return faultRefusal(pdu);
    const { refusal } = await rooms.execute(roomId, (room) => {
      const decision = acceptPdu(room, { pdu, origin, ourName, now: now(), against: 'current-state' });
      // An invite that the room refuses never was: without our signature nobody can use it.
      return decision.refusal === undefined
        ? { ...decision, broadcasts: [] }
        : { domainEvents: [], broadcasts: [], refusal: decision.refusal };
    });
    return refusal?.refused === 'unknown-reference' ? undefined : refusal;
  }

  private async keep(
    command: ReceiveInvite,
    pdu: Pdu,
    target: UserId,
    signed: JsonObject,
  ): Promise<Refusal | undefined> {
    const { leaving, now } = this.side;
    const { refusal } = await leaving.store.execute({ userId: target, roomId: command.roomId }, (state) =>
      receiveInvite(state, {
        eventId: pdu.eventId,
        sender: pdu.sender,
        origin: command.origin,
        roomVersion: command.version.id,
        isVersionStated: command.isVersionStated,
        pdu: withoutKeys(signed, 'unsigned'),
        inviteRoomState: shownState(command.inviteRoomState),
        at: now(),
      }),
    );
    return refusal && { refused: 'wrong-parameter', rule: 'SL-15', detail: refusal.detail };
  }
}

function isThirdPartyInviteFor(value: unknown, target: UserId): boolean {
  const signed = isJsonObject(value) ? memberOf(value, 'signed') : undefined;
  if (!isJsonObject(signed)) return false;
  const signatures = memberOf(signed, 'signatures');
  return (
    memberOf(signed, 'mxid') === target &&
    typeof memberOf(signed, 'token') === 'string' &&
    isJsonObject(signatures) &&
    Object.keys(signatures).length > 0
  );
}
