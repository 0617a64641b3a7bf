import { Inject } from '@nestjs/common';
import { Query, QueryHandler, type IQueryHandler } from '@nestjs/cqrs';
import type { RoomId, ServerName, UserId } from '@exeunt/pdu';
import {
  admitServer,
  checkIsUserOf,
  checkKnowsVersion,
  isRefusal,
  memberTemplate,
  type OwnMembership,
  type Refusal,
} from '@exeunt/room';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';

/** What a resident server answers `make_leave` and `make_knock` with. (ML-06, KN-01) */
export interface MemberTemplate {
  readonly room_version: string;
  readonly event: JsonObject;
}

/**
 * Gives the template for `userId` to leave `roomId` or to knock on it, or why `origin` can't have it. Changes nothing.
 * (ML-14)
 */
export class GetMemberTemplate extends Query<MemberTemplate | Refusal> {
  constructor(
    readonly membership: OwnMembership,
    readonly roomId: RoomId,
    readonly userId: UserId,
    readonly origin: ServerName,
    /** The room versions that `origin` knows, where it has to say so. (ML-15, KN-01) */
    readonly versions?: readonly string[],
  ) {
    super();
  }
}

@QueryHandler(GetMemberTemplate)
export class GetMemberTemplateHandler implements IQueryHandler<GetMemberTemplate> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  /** Who can't leave, for want of an invite that is just being shown to their server, waits for it. */
  async execute(asked: GetMemberTemplate): Promise<MemberTemplate | Refusal> {
    const answer = await this.template(asked);
    const mayBeInvited =
      asked.membership === 'leave' && isRefusal(answer) && answer.refused === 'not-authorised';
    if (!mayBeInvited || !(await this.side.invitesUnderWay.settled(asked.roomId, asked.userId)))
      return answer;
    return this.template(asked);
  }

  private template(asked: GetMemberTemplate): Promise<MemberTemplate | Refusal> {
    const { ourName, rooms } = this.side;
    const { membership, roomId, userId, origin, versions } = asked;
    const now = this.side.now();
    return rooms.query(roomId, (room) => {
      const refusal =
        admitServer(room, { origin, ourName }) ??
        checkIsUserOf(userId, origin) ??
        (versions === undefined ? undefined : checkKnowsVersion(room, versions));
      if (refusal !== undefined) return refusal;
      const event = memberTemplate(room, membership, { userId, ourName, now });
      return isRefusal(event) ? event : { room_version: room.version.id, event };
    });
  }
}
