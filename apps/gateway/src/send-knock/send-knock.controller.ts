import { Controller, HttpCode, Inject, Put, UseGuards } from '@nestjs/common';
import { CommandBus } from '@nestjs/cqrs';
import { isRefusal } from '@exeunt/room';
import { stringifyJson } from '@exeunt/signing';
import type { AuthenticatedRequest } from '../federation-request/federation-request.js';
import {
  eventIdIn,
  FederationRequestGuard,
  FromPeer,
  roomIdIn,
} from '../federation-request/federation-request.guard.js';
import { LosslessJson } from '../federation-request/lossless-json.js';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { AcceptMembership } from '../member-handshake/accept-membership.command.js';

/**
 * `PUT send_knock`: takes the knock into the room, tells the room's servers, and shows the knocking one which room it
 * is. Spec v1.19, Knocking upon a room. (KN-02)
 */
@Controller('_matrix/federation')
@UseGuards(FederationRequestGuard)
export class SendKnockController {
  constructor(
    @Inject(CommandBus) private readonly commands: CommandBus,
    @Inject(FEDERATION_SIDE) private readonly side: FederationSide,
  ) {}

  @Put('v1/send_knock/:roomId/:eventId')
  @HttpCode(200)
  @LosslessJson()
  async sendKnock(@FromPeer() { origin, content, segments }: AuthenticatedRequest): Promise<string> {
    const roomId = roomIdIn(segments[4]);
    const eventId = eventIdIn(segments[5]);
    const answer = await this.commands.execute(
      new AcceptMembership('knock', roomId, eventId, origin, content ?? {}),
    );
    this.side.metrics.knock(isRefusal(answer) ? answer.rule : undefined);
    if (isRefusal(answer)) throw refusalToMatrixError(answer);
    return stringifyJson({ knock_room_state: answer.shown });
  }
}
