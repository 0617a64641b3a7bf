import { Inject } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import {
  addSignature,
  checkPduSignatures,
  isPduFault,
  parsePdu,
  serverNameOf,
  type EventId,
  type Pdu,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { mayInviteByV1, type FederationResult, type RemoteError } from '@exeunt/federation-client';
import { acceptPdu, isRefusal, strippedState, type Refusal } from '@exeunt/room';
import {
  encodeCanonicalJson,
  isJsonObject,
  memberOf,
  withKeys,
  withoutKeys,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { makeLocalEvent, makingOf, type LocalWish } from './local-event.js';
import { checkIsKnown, SendState, SendStateHandler } from './send-state.command.js';

/** A local user invites somebody, of this server or another. */
export class InviteUser extends Command<EventId | Refusal | RemoteError> {
  constructor(
    readonly roomId: RoomId,
    readonly sender: UserId,
    readonly target: UserId,
    readonly reason: string | undefined,
  ) {
    super();
  }
}

@CommandHandler(InviteUser)
export class InviteUserHandler implements ICommandHandler<InviteUser> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute({ roomId, sender, target, reason }: InviteUser): Promise<EventId | Refusal | RemoteError> {
    const content: JsonObject = { membership: 'invite', ...(reason === undefined ? {} : { reason }) };
    const wish = { type: 'm.room.member', sender, stateKey: target, content };
    return serverNameOf(target) === this.side.ourName
      ? new SendStateHandler(this.side).execute(new SendState(roomId, wish))
      : this.inviteRemotely(roomId, wish, target);
  }

  /**
   * The invited server signs the invite before it becomes part of the room. No room is held meanwhile: the answer is
   * judged by what the room is then. (IN-01, IN-10, IN-11)
   */
  private async inviteRemotely(
    roomId: RoomId,
    wish: LocalWish,
    target: UserId,
  ): Promise<EventId | Refusal | RemoteError> {
    const making = makingOf(this.side);
    const prepared = await this.side.rooms.query(roomId, (room) => {
      const absent = checkIsKnown(room, this.side);
      if (absent !== undefined) return absent;
      const invite = makeLocalEvent(room, wish, making, this.side);
      return isRefusal(invite)
        ? invite
        : { invite, shown: strippedState(room, room.currentState(), [wish.sender]) };
    });
    if (isRefusal(prepared)) return prepared;
    const { invite, shown } = prepared;
    // From here on the other side knows of the invite, and may answer it before the room has it.
    const { eventId } = invite;
    return this.side.invitesUnderWay.during({ roomId, userId: target, eventId }, () =>
      this.show(serverNameOf(target), invite, shown),
    );
  }

  /** The invited server signs the invite, and the room takes it. */
  private async show(
    server: ServerName,
    invite: Pdu,
    shown: readonly JsonObject[],
  ): Promise<EventId | Refusal | RemoteError> {
    const { ourName, rooms } = this.side;
    const answer = await this.send(server, invite, shown);
    if (!answer.ok) return answer;
    const signed = await this.readAnswer(answer.body, invite, server);
    if (isRefusal(signed)) return signed;

    const { refusal } = await rooms.execute(invite.roomId, (room) =>
      acceptPdu(room, {
        pdu: signed,
        origin: ourName,
        ourName,
        now: this.side.now(),
        against: 'current-state',
      }),
    );
    return refusal ?? signed.eventId;
  }

  private async send(
    server: ServerName,
    invite: Pdu,
    shown: readonly JsonObject[],
  ): Promise<FederationResult> {
    const { client } = this.side;
    const byV2 = await client.inviteV2(server, invite.roomId, invite.eventId, {
      event: invite.json,
      invite_room_state: shown,
      room_version: invite.roomVersion.id,
    });
    if (byV2.ok || !mayInviteByV1(byV2) || invite.roomVersion.eventIdFormat !== 'opaque-in-pdu') return byV2;
    return client.inviteV1(
      server,
      invite.roomId,
      invite.eventId,
      withKeys(invite.json, { unsigned: { invite_room_state: shown } }),
    );
  }

  /** The event that was sent, and nothing else, with a signature of the invited server on it. (IN-11) */
  private async readAnswer(body: JsonValue, invite: Pdu, server: ServerName): Promise<Pdu | Refusal> {
    const { keyRing, ed25519, ourName, signingKey } = this.side;
    const no = (detail: string): Refusal => ({ refused: 'bad-signature', rule: 'IN-11', detail });
    const event = isJsonObject(body) ? memberOf(body, 'event') : undefined;
    if (!isJsonObject(event)) return no(`${server} gave no event back`);
    const bare = (json: JsonObject): string =>
      encodeCanonicalJson(withoutKeys(json, 'signatures', 'unsigned'));
    const pdu = parsePdu(event, invite.roomVersion);
    if (isPduFault(pdu) || bare(event) !== bare(invite.json)) return no(`${server} gave another event back`);
    const theirs = memberOf(isJsonObject(pdu.json['signatures']) ? pdu.json['signatures'] : {}, server);
    if (theirs === undefined) return no(`${server} did not sign the invite`);
    // Signatures of ours and theirs alone: whatever else was added is no business of the room's.
    const both = parsePdu(
      addSignature(
        withKeys(invite.json, { signatures: { [server]: theirs } }),
        invite.roomVersion,
        ourName,
        signingKey,
      ),
      invite.roomVersion,
    );
    if (isPduFault(both)) return no(both.detail);
    const checked = await checkPduSignatures(both, await keyRing.keysForEvent(both), ed25519);
    return checked.ok ? both : no(`${checked.server}: ${checked.detail}`);
  }
}
