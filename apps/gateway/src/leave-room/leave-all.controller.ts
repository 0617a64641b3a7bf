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
  UseGuards,
} from '@nestjs/common';
import { CommandBus, QueryBus } from '@nestjs/cqrs';
import { ApiBearerAuth, ApiBody, ApiOperation, ApiQuery, ApiTags } from '@nestjs/swagger';
import type { FastifyRequest } from 'fastify';
import { memberships, type MembershipToLeave } from '@exeunt/leaving';
import { parseRoomId, type RoomId } from '@exeunt/pdu';
import { isRefusal } from '@exeunt/room';
import { memberOf, stringifyJson, type JsonObject } from '@exeunt/signing';
import { userIdIn } from '../federation-request/federation-request.guard.js';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { MatrixError, refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { jsonBody, optionalString, pageLimit } from '../platform-request/platform-body.js';
import { PlatformTokenGuard } from '../platform-request/platform-token.guard.js';
import { LeaveAll } from './leave-all.command.js';
import { LeaveAllStanding, runView } from './leave-all.query.js';

const json = 'application/json';
/** Each room of a page costs a look at its leave. */
const mostRooms = 500;

/** A user of ours leaves every room. */
@Controller('v1/users')
@UseGuards(PlatformTokenGuard)
@ApiTags('users')
@ApiBearerAuth()
export class LeaveAllController {
  constructor(
    @Inject(CommandBus) private readonly commands: CommandBus,
    @Inject(QueryBus) private readonly queries: QueryBus,
    @Inject(FEDERATION_SIDE) private readonly side: FederationSide,
  ) {}

  @Post(':userId/leave-all')
  @HttpCode(202)
  @Header('Content-Type', json)
  @ApiOperation({
    summary: 'Take a user out of every room',
    description:
      'Leaves all rooms, rejects all invites, retracts all knocks; goes on by itself, across restarts. `left`: the user is out; of those, `retrying`: the room’s servers do not know yet; `waiting`: still in; `refused`: this server or all of the room’s say no. Again while it is running it is the same run. Rooms that the user gets into meanwhile are left as well.',
  })
  @ApiBody({
    required: false,
    schema: {
      type: 'object',
      properties: {
        reason: { type: 'string' },
        include: { type: 'array', items: { type: 'string', enum: [...memberships] } },
      },
    },
  })
  async leaveAll(@Param('userId') userId: string, @Req() request: FastifyRequest): Promise<string> {
    const body = hasBody(request) ? jsonBody(request) : {};
    const run = await this.commands.execute(
      new LeaveAll(userIdIn(userId), optionalString(body, 'reason'), membershipsIn(body)),
    );
    if (isRefusal(run)) throw refusalToMatrixError(run);
    return stringifyJson(runView(run, await this.side.leaveAll.store.countsOf(run)));
  }

  @Get(':userId/leave-all')
  @Header('Content-Type', json)
  @ApiOperation({
    summary:
      'How the newest leave-all of a user stands, with a page of the rooms that are waiting, retrying or refused',
  })
  @ApiQuery({ name: 'from', required: false })
  @ApiQuery({ name: 'limit', required: false, type: Number })
  async show(
    @Param('userId') userId: string,
    @Query('from') from?: string,
    @Query('limit') limit?: string,
  ): Promise<string> {
    const page = { after: roomIdFrom(from), limit: pageLimit(limit, 100, mostRooms) };
    const standing = await this.queries.execute(new LeaveAllStanding(userIdIn(userId), page));
    if (standing === undefined) {
      throw new MatrixError(404, 'M_NOT_FOUND', 'the user was never told to leave every room');
    }
    return stringifyJson(standing);
  }
}

function hasBody({ body }: FastifyRequest): boolean {
  return Buffer.isBuffer(body) && body.length > 0;
}

/** All unless told. */
function membershipsIn(body: JsonObject): readonly MembershipToLeave[] {
  const value = memberOf(body, 'include');
  if (value === undefined || value === null) return memberships;
  if (!Array.isArray(value) || value.length === 0) {
    throw new MatrixError(400, 'M_INVALID_PARAM', 'include is no list of memberships');
  }
  const known = memberships.filter((one) => value.includes(one));
  if (value.some((one: unknown) => !memberships.some((membership) => membership === one))) {
    throw new MatrixError(400, 'M_INVALID_PARAM', `include holds another than ${memberships.join(', ')}`);
  }
  return known;
}

function roomIdFrom(from: string | undefined): RoomId | undefined {
  if (from === undefined) return undefined;
  const roomId = parseRoomId(from);
  if (roomId === undefined) {
    throw new MatrixError(400, 'M_INVALID_PARAM', 'from is not the next of another page', 'ID-07');
  }
  return roomId;
}
