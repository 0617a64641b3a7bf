import { Inject } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import {
  checkPduSignatures,
  contentHashMatches,
  isPduFault,
  parsePdu,
  withRedactedContent,
  type EventId,
  type Pdu,
  type PduFault,
  type RoomId,
  type ServerName,
} from '@exeunt/pdu';
import {
  acceptPdu,
  admitServer,
  checkIsOwnMembership,
  isRefusal,
  strippedState,
  type OwnMembership,
  type Refusal,
  type Room,
} from '@exeunt/room';
import type { RoomVersion } from '@exeunt/room-version';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';

/** That a membership is part of the room, now or since before. */
export interface MembershipAccepted {
  /** What the user's server is shown of the room; of a knock alone. (KN-02) */
  readonly shown: readonly JsonObject[];
}

/** A server hands in a leave or a knock of one of its users, signed. */
export class AcceptMembership extends Command<Refusal | MembershipAccepted> {
  constructor(
    readonly membership: OwnMembership,
    readonly roomId: RoomId,
    readonly eventId: EventId,
    readonly origin: ServerName,
    /** The PDU as received. */
    readonly json: JsonObject,
  ) {
    super();
  }
}

/**
 * Rows 5 to 16 of the order of checks, cheap before costly; the event is durable, and its broadcast with it, before
 * this resolves. Gives why not, or that it is accepted, now or before. (SL-11, SL-14, SL-15, KN-02)
 */
@CommandHandler(AcceptMembership)
export class AcceptMembershipHandler implements ICommandHandler<AcceptMembership> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute(command: AcceptMembership): Promise<Refusal | MembershipAccepted> {
    const { ourName, rooms, keyRing, ed25519 } = this.side;
    const { membership, roomId, origin, json } = command;
    const servers = { origin, ourName };

    const admit = (room: Room): Refusal | RoomVersion => admitServer(room, servers) ?? room.version;
    // A yes is looked at again with the leave itself; a no must not rest on what others may have changed.
    const expected = await rooms.peek(roomId, admit);
    const admitted = isRefusal(expected) ? await rooms.query(roomId, admit) : expected;
    if (isRefusal(admitted)) return admitted;

    const received = readMembership(command, json, admitted);
    if (isRefusal(received)) return received;

    const checked = await checkPduSignatures(received, await keyRing.keysForEvent(received), ed25519);
    if (!checked.ok) {
      return { refused: 'bad-signature', rule: 'PD-02', detail: `${checked.server}: ${checked.detail}` };
    }
    const pdu = contentHashMatches(received.json) ? received : withRedactedContent(received);
    const now = this.side.now();
    let shown: readonly JsonObject[] = [];
    const { refusal } = await rooms.execute(roomId, (room) => {
      const denied = admitServer(room, servers);
      if (denied !== undefined) return { domainEvents: [], broadcasts: [], refusal: denied };
      const decision = acceptPdu(room, { pdu, origin, ourName, now, against: 'current-state' });
      if (membership === 'knock' && decision.refusal === undefined) shown = shownTo(room, pdu);
      return decision;
    });
    return refusal ?? { shown };
  }
}

/** A knock that is repeated shows the room as it was then: who was banned since must not go on watching by it. */
function shownTo(room: Room, knock: Pdu): readonly JsonObject[] {
  return strippedState(room, room.known(knock.eventId)?.stateAfter ?? room.currentState());
}

function readMembership(command: AcceptMembership, json: JsonObject, version: RoomVersion): Pdu | Refusal {
  const pdu = parsePdu(json, version);
  if (isPduFault(pdu)) return faultRefusal(pdu);
  return checkIsOwnMembership(pdu, command) ?? pdu;
}

/** What a PDU that is malformed for its room version is refused as. (rows 7 and 8) */
export function faultRefusal(fault: PduFault): Refusal {
  const refused =
    fault.fault === 'canonical-json'
      ? 'not-canonical'
      : fault.fault === 'too-large'
        ? 'too-large'
        : 'bad-format';
  return { refused, rule: fault.rule, detail: fault.detail };
}
