import {
  Controller,
  Get,
  Header,
  HttpCode,
  Inject,
  Param,
  Post,
  Query,
  Req,
  Res,
  UseGuards,
} from '@nestjs/common';
import { CommandBus, QueryBus } from '@nestjs/cqrs';
import { ApiBearerAuth, ApiBody, ApiOperation, ApiQuery, ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  cancelLeave,
  retryLeave,
  type LeaveStatus,
  type LeaveSummary,
  type Leaving,
  type LeavingDecision,
} from '@exeunt/leaving';
import { stringifyJson, type JsonObject } from '@exeunt/signing';
import { userIdIn } from '../federation-request/federation-request.guard.js';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { MatrixError, refusalToMatrixError } from '../matrix-error/matrix-error.js';
import {
  jsonBody,
  optionalString,
  pageLimit,
  requiredRoomId,
  requiredUserId,
  serverNames,
} from '../platform-request/platform-body.js';
import { PlatformTokenGuard } from '../platform-request/platform-token.guard.js';
import { LeaveRoom } from './leave-room.command.js';
import { leaveView } from './leave-view.js';
import { Memberships } from './memberships.query.js';

const json = 'application/json';
const statuses = [
  'retrying',
  'completed',
  'refused',
  'cancelled',
] as const satisfies readonly LeaveStatus['kind'][];

/** Users of ours leave rooms, wherever those are. */
@Controller('v1/leaves')
@UseGuards(PlatformTokenGuard)
@ApiTags('leaves')
@ApiBearerAuth()
export class LeavesController {
  constructor(
    @Inject(CommandBus) private readonly commands: CommandBus,
    @Inject(FEDERATION_SIDE) private readonly side: FederationSide,
  ) {}

  @Post()
  @Header('Content-Type', json)
  @ApiOperation({
    summary: 'Leave a room, reject its invite, retract a knock',
    description:
      'The user is out when this answers. 200: the room knows, or for good need not (`completed`, `refused`); 202: its servers are still being told (`retrying`). Again for the same user and room it is the same leave.',
  })
  @ApiBody({
    schema: {
      type: 'object',
      required: ['user_id', 'room_id'],
      properties: {
        user_id: { type: 'string' },
        room_id: { type: 'string' },
        reason: { type: 'string' },
        via: { type: 'array', items: { type: 'string' } },
      },
    },
  })
  async leave(
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<string> {
    const body = jsonBody(request);
    const userId = requiredUserId(body, 'user_id');
    const roomId = requiredRoomId(body, 'room_id');
    const answer = await this.commands.execute(
      new LeaveRoom(userId, roomId, optionalString(body, 'reason'), serverNames(body, 'via')),
    );
    if (typeof answer !== 'string') throw refusalToMatrixError(answer);
    const view = await this.view(answer);
    void reply.status(view['status'] === 'retrying' ? 202 : 200);
    return stringifyJson(view);
  }

  @Get()
  @Header('Content-Type', json)
  @ApiOperation({ summary: 'Leaves in the order in which they began, a page at a time' })
  @ApiQuery({ name: 'status', required: false, enum: statuses })
  @ApiQuery({ name: 'from', required: false })
  @ApiQuery({ name: 'limit', required: false, type: Number })
  async list(
    @Query('status') status?: string,
    @Query('from') from?: string,
    @Query('limit') limit?: string,
  ): Promise<string> {
    const known = statuses.find((one) => one === status);
    if (status !== undefined && known === undefined) {
      throw new MatrixError(400, 'M_INVALID_PARAM', `status is none of ${statuses.join(', ')}`);
    }
    if (from !== undefined && !/^\d{1,18}$/.test(from)) {
      throw new MatrixError(400, 'M_INVALID_PARAM', 'from is not the next of another page');
    }
    const most = pageLimit(limit);
    const leaves = await this.side.leaving.store.list({ status: known, after: from, limit: most });
    const last = leaves.at(-1);
    return stringifyJson({
      leaves: leaves.map(summaryView),
      ...(leaves.length === most && last !== undefined ? { next: last.seq } : {}),
    });
  }

  @Get(':leaveId')
  @Header('Content-Type', json)
  @ApiOperation({ summary: 'A leave: how it stands, every step, and what each server said' })
  async show(@Param('leaveId') leaveId: string): Promise<string> {
    return stringifyJson(await this.view(leaveId));
  }

  @Post(':leaveId/retry')
  @HttpCode(200)
  @Header('Content-Type', json)
  @ApiOperation({
    summary: 'Try a leave now, whatever its backoff; one that was refused or cancelled goes on',
  })
  retry(@Param('leaveId') leaveId: string): Promise<string> {
    return this.change(leaveId, (state, now) => retryLeave(state, leaveId, now));
  }

  @Post(':leaveId/cancel')
  @HttpCode(200)
  @Header('Content-Type', json)
  @ApiOperation({ summary: 'Tell the room nothing more. The user stays out' })
  cancel(@Param('leaveId') leaveId: string): Promise<string> {
    return this.change(leaveId, (state, now) => cancelLeave(state, leaveId, now));
  }

  private async change(
    leaveId: string,
    decide: (state: Leaving, now: number) => LeavingDecision,
  ): Promise<string> {
    const { leaving, now } = this.side;
    const found = await this.find(leaveId);
    const { refusal } = await leaving.store.execute(found, (state) => decide(state, now()));
    if (refusal !== undefined) throw new MatrixError(400, 'M_INVALID_PARAM', refusal.detail);
    return this.show(leaveId);
  }

  private async view(leaveId: string): Promise<JsonObject> {
    const found = await this.find(leaveId);
    return leaveView(found, leaveId, (await this.side.leaving.store.load(found)).events);
  }

  private async find(leaveId: string): Promise<LeaveSummary> {
    // Ours are of these characters; a database takes none with a NUL.
    const found = /^[\w-]{1,64}$/.test(leaveId) ? await this.side.leaving.store.find(leaveId) : undefined;
    if (found === undefined) throw new MatrixError(404, 'M_NOT_FOUND', 'there is no such leave');
    return found;
  }
}

/** What is known of one user of ours. */
@Controller('v1/users')
@UseGuards(PlatformTokenGuard)
@ApiTags('users')
@ApiBearerAuth()
export class UsersController {
  constructor(@Inject(QueryBus) private readonly queries: QueryBus) {}

  @Get(':userId/memberships')
  @Header('Content-Type', json)
  @ApiOperation({ summary: 'Rooms the user is in, invites and knocks, and leaves under way' })
  async memberships(@Param('userId') userId: string): Promise<string> {
    return stringifyJson(await this.queries.execute(new Memberships(userIdIn(userId))));
  }
}

function summaryView(leave: LeaveSummary): JsonObject {
  return {
    leave_id: leave.leaveId,
    user_id: leave.userId,
    room_id: leave.roomId,
    status: leave.status,
    started_at: leave.startedAt,
    ...(leave.nextAttemptAt === undefined ? {} : { next_attempt_at: leave.nextAttemptAt }),
  };
}
