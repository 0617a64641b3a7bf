import { Controller, HttpCode, Inject, Param, Post, Req, UseGuards } from '@nestjs/common';
import { CommandBus } from '@nestjs/cqrs';
import { ApiBearerAuth, ApiBody, ApiOperation, ApiTags } from '@nestjs/swagger';
import type { FastifyRequest } from 'fastify';
import { roomIdIn } from '../federation-request/federation-request.guard.js';
import { refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { jsonBody, requiredUserId } from '../platform-request/platform-body.js';
import { PlatformTokenGuard } from '../platform-request/platform-token.guard.js';
import { SendState } from '../rooms/send-state.command.js';

/** A user of ours joins a room that other users of ours are in. A room elsewhere is the platform's to join. */
@Controller('v1/rooms')
@UseGuards(PlatformTokenGuard)
@ApiTags('rooms')
@ApiBearerAuth()
export class JoinsController {
  constructor(@Inject(CommandBus) private readonly commands: CommandBus) {}

  @Post(':roomId/joins')
  @HttpCode(200)
  @ApiOperation({ summary: 'Join a local user to a room that this server is in' })
  @ApiBody({
    schema: { type: 'object', required: ['user_id'], properties: { user_id: { type: 'string' } } },
  })
  async join(
    @Param('roomId') roomId: string,
    @Req() request: FastifyRequest,
  ): Promise<{ readonly event_id: string }> {
    const userId = requiredUserId(jsonBody(request), 'user_id');
    const eventId = await this.commands.execute(
      new SendState(roomIdIn(roomId), {
        type: 'm.room.member',
        sender: userId,
        stateKey: userId,
        content: { membership: 'join' },
      }),
    );
    if (typeof eventId !== 'string') throw refusalToMatrixError(eventId);
    return { event_id: eventId };
  }
}
