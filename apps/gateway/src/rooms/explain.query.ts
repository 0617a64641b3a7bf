import { Inject } from '@nestjs/common';
import { Query, QueryHandler, type IQueryHandler } from '@nestjs/cqrs';
import {
  checkPduSignatures,
  contentHashMatches,
  isPduFault,
  parsePdu,
  serverNameOf,
  withRedactedContent,
  type RoomId,
  type UserId,
} from '@exeunt/pdu';
import { admitServer, explainLeave, explainPdu, isRefusal, type Refusal } from '@exeunt/room';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { faultRefusal } from '../member-handshake/accept-membership.command.js';

/** Whether something would be accepted now, by which rule, and what was looked at. */
export interface Explanation {
  readonly accepted: boolean;
  readonly refusal?: Refusal;
  /** The entries of the current state that decide, as IDs. */
  readonly state: readonly { readonly type: string; readonly state_key: string; readonly event_id: string }[];
  readonly content_hash_matches?: boolean;
  readonly known?: string;
}

/** Explains what would become of a PDU, or of a user's wish to leave. Changes nothing. */
export class Explain extends Query<Explanation | Refusal> {
  constructor(
    readonly roomId: RoomId,
    readonly what: { readonly pdu: JsonObject } | { readonly userId: UserId },
  ) {
    super();
  }
}

@QueryHandler(Explain)
export class ExplainHandler implements IQueryHandler<Explain> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute({ roomId, what }: Explain): Promise<Explanation | Refusal> {
    const { rooms, ourName, keyRing, ed25519 } = this.side;
    const version = await rooms.query(roomId, (room) => (room.isKnown ? room.version : undefined));
    if (version === undefined)
      return { refused: 'not-resident', rule: 'ML-16', detail: 'the room is not known here' };
    if ('userId' in what) {
      const { userId } = what;
      return rooms.query(roomId, (room) => {
        const denied = admitServer(room, { origin: serverNameOf(userId), ourName });
        const explained = explainLeave(room, { userId, ourName, now: this.side.now() });
        return denied === undefined ? explained : { ...explained, accepted: false, refusal: denied };
      });
    }
    const parsed = parsePdu(what.pdu, version);
    if (isPduFault(parsed)) return { accepted: false, refusal: faultRefusal(parsed), state: [] };
    // As a PDU from a transaction is checked: SG-08 asks for the sender's server.
    const stage = { awaitsInvitee: true };
    const keyOf = await keyRing.keysForEvent(parsed, stage);
    const signed = await checkPduSignatures(parsed, keyOf, ed25519, stage);
    if (!signed.ok) {
      const refusal: Refusal = {
        refused: 'bad-signature',
        rule: 'PD-02',
        detail: `${signed.server}: ${signed.detail}`,
      };
      return { accepted: false, refusal, state: [] };
    }
    const matches = contentHashMatches(parsed.json);
    const explained = await rooms.query(roomId, (room) =>
      explainPdu(room, matches ? parsed : withRedactedContent(parsed)),
    );
    return isRefusal(explained) ? explained : { ...explained, content_hash_matches: matches };
  }
}
