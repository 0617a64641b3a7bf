import { Controller, HttpCode, Inject, Put, UseGuards } from '@nestjs/common';
import { CommandBus } from '@nestjs/cqrs';
import { isRefusal } from '@exeunt/room';
import type { AuthenticatedRequest } from '../federation-request/federation-request.js';
import {
  eventIdIn,
  FederationRequestGuard,
  FromPeer,
  roomIdIn,
} from '../federation-request/federation-request.guard.js';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { AcceptMembership } from '../member-handshake/accept-membership.command.js';
import { logLeave } from './leave-log.js';

/**
 * `PUT send_leave`, v2 and the v1 that older peers still call; both for rooms of every version. (TOP-01, SL-01, SL-02)
 *
 * Spec v1.19, server-server-api, Leaving Rooms; v1 as of Spec v1.17.
 */
@Controller('_matrix/federation')
@UseGuards(FederationRequestGuard)
export class SendLeaveController {
  constructor(
    @Inject(CommandBus) private readonly commands: CommandBus,
    @Inject(FEDERATION_SIDE) private readonly side: FederationSide,
  ) {}

  @Put('v2/send_leave/:roomId/:eventId')
  @HttpCode(200)
  async sendLeaveV2(@FromPeer() request: AuthenticatedRequest): Promise<object> {
    await this.accept(request);
    return {};
  }

  @Put('v1/send_leave/:roomId/:eventId')
  @HttpCode(200)
  async sendLeaveV1(@FromPeer() request: AuthenticatedRequest): Promise<readonly [200, object]> {
    await this.accept(request);
    return [200, {}];
  }

  private async accept({ origin, content, segments }: AuthenticatedRequest): Promise<void> {
    const roomId = roomIdIn(segments[4]);
    const eventId = eventIdIn(segments[5]);
    const answer = await this.commands.execute(
      new AcceptMembership('leave', roomId, eventId, origin, content ?? {}),
    );
    const { metrics, log } = this.side;
    const refusal = isRefusal(answer) ? answer : undefined;
    metrics.leave(refusal?.rule);
    logLeave(log, { roomId, eventId, origin }, refusal);
    if (refusal !== undefined) throw refusalToMatrixError(refusal);
  }
}
