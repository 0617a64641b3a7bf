import { Inject } from '@nestjs/common';
import { Query, QueryHandler, type IQueryHandler } from '@nestjs/cqrs';
import type { RoomId, ServerName, UserId } from '@exeunt/pdu';
import { admitServer, checkIsUserOf, isRefusal, leaveTemplate, type Refusal } from '@exeunt/room';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';

/** What a resident server answers `make_leave` with. (ML-06) */
export interface LeaveTemplate {
  readonly room_version: string;
  readonly event: JsonObject;
}

/** Gives the template for `userId` to leave `roomId`, or why `origin` can't have it. Changes nothing. (ML-14) */
export class GetLeaveTemplate extends Query<LeaveTemplate | Refusal> {
  constructor(
    readonly roomId: RoomId,
    readonly userId: UserId,
    readonly origin: ServerName,
  ) {
    super();
  }
}

@QueryHandler(GetLeaveTemplate)
export class GetLeaveTemplateHandler implements IQueryHandler<GetLeaveTemplate> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute(asked: GetLeaveTemplate): Promise<LeaveTemplate | Refusal> {
    const answer = await this.template(asked);
    const mayBeInvited = isRefusal(answer) && answer.refused === 'not-authorised';
    if (!mayBeInvited || !(await this.side.invitesUnderWay.settled(asked.roomId, asked.userId)))
      return answer;
    return this.template(asked);
  }

  private template({ roomId, userId, origin }: GetLeaveTemplate): Promise<LeaveTemplate | Refusal> {
    const { ourName, rooms } = this.side;
    const now = this.side.now();
    return rooms.query(roomId, (room) => {
      const refusal = admitServer(room, { origin, ourName }) ?? checkIsUserOf(userId, origin);
      if (refusal !== undefined) return refusal;
      const event = leaveTemplate(room, { userId, ourName, now });
      return isRefusal(event) ? event : { room_version: room.version.id, event };
    });
  }
}
