import { Controller, Get, Inject, UseGuards } from '@nestjs/common';
import { QueryBus } from '@nestjs/cqrs';
import { isRefusal } from '@exeunt/room';
import { stringifyJson } from '@exeunt/signing';
import type { AuthenticatedRequest } from '../federation-request/federation-request.js';
import {
  FederationRequestGuard,
  FromPeer,
  roomIdIn,
  userIdIn,
} from '../federation-request/federation-request.guard.js';
import { LosslessJson } from '../federation-request/lossless-json.js';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { GetMemberTemplate } from '../member-handshake/member-template.query.js';

/** `GET make_leave`: a leave template for a user of the asking server. Spec v1.19, Leaving Rooms. (ML-01) */
@Controller('_matrix/federation')
@UseGuards(FederationRequestGuard)
export class MakeLeaveController {
  constructor(
    @Inject(QueryBus) private readonly queries: QueryBus,
    @Inject(FEDERATION_SIDE) private readonly side: FederationSide,
  ) {}

  @Get('v1/make_leave/:roomId/:userId')
  @LosslessJson()
  async makeLeave(@FromPeer() { origin, segments }: AuthenticatedRequest): Promise<string> {
    const roomId = roomIdIn(segments[4]);
    const userId = userIdIn(segments[5]);
    const answer = await this.queries.execute(new GetMemberTemplate('leave', roomId, userId, origin));
    this.side.metrics.leaveTemplate(isRefusal(answer) ? answer.rule : undefined);
    if (isRefusal(answer)) throw refusalToMatrixError(answer);
    return stringifyJson({ room_version: answer.room_version, event: answer.event });
  }
}
