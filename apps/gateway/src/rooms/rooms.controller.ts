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
import { parseUserId, type RoomId, type UserId } from '@exeunt/pdu';
import { isRefusal } from '@exeunt/room';
import { defaultRoomVersion, roomVersion, type RoomVersion } from '@exeunt/room-version';
import { isJsonObject, memberOf, stringifyJson, type JsonObject, type JsonValue } from '@exeunt/signing';
import { roomIdIn } from '../federation-request/federation-request.guard.js';
import { MatrixError, refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { PlatformTokenGuard } from '../platform-request/platform-token.guard.js';
import {
  jsonBody,
  optionalObject,
  optionalString,
  pageLimit,
  requiredString,
  requiredUserId,
  userIds,
} from '../platform-request/platform-body.js';
import { CreateRoom } from './create-room.command.js';
import { Explain } from './explain.query.js';
import { ImportRoom, readImport } from './import-room.command.js';
import { InviteUser } from './invite-user.command.js';
import { remoteErrorToMatrixError } from './remote-matrix-error.js';
import { RoomReads } from './room-reads.js';
import { SendState } from './send-state.command.js';

const json = 'application/json';

/** The platform's view of rooms: making, importing, changing and reading them. */
@Controller('v1/rooms')
@UseGuards(PlatformTokenGuard)
@ApiTags('rooms')
@ApiBearerAuth()
export class RoomsController {
  constructor(
    @Inject(CommandBus) private readonly commands: CommandBus,
    @Inject(QueryBus) private readonly queries: QueryBus,
    @Inject(RoomReads) private readonly reads: RoomReads,
  ) {}

  @Post('import')
  @HttpCode(201)
  @Header('Content-Type', json)
  @ApiOperation({
    summary: 'Import a room',
    description:
      'A whole graph from its create event, `{room_version, events}`, or a snapshot, `{room_version, state, auth_chain, forward_extremities, depth}`. Repeating it changes nothing. Keys of other servers may be given as `server_keys`.',
  })
  @ApiBody({
    schema: {
      type: 'object',
      required: ['room_version'],
      properties: {
        room_version: { type: 'string', example: '11' },
        events: { type: 'array', items: { type: 'object' } },
        state: { type: 'array', items: { type: 'object' } },
        auth_chain: { type: 'array', items: { type: 'object' } },
        forward_extremities: { type: 'array', items: { type: 'string' } },
        depth: { type: 'integer' },
        server_keys: { type: 'array', items: { type: 'object' } },
      },
    },
  })
  async importRoom(@Req() request: FastifyRequest): Promise<string> {
    const answer = await this.commands.execute(new ImportRoom(readImport(jsonBody(request))));
    if (isRefusal(answer)) throw refusalToMatrixError(answer);
    return JSON.stringify(answer);
  }

  @Post()
  @HttpCode(201)
  @ApiOperation({ summary: 'Create a room for a local user' })
  @ApiBody({
    schema: {
      type: 'object',
      required: ['creator'],
      properties: {
        room_version: { type: 'string', example: '11' },
        creator: { type: 'string', example: '@alice:localhost:8448' },
        join_rule: { type: 'string', example: 'invite' },
        power_levels: { type: 'object' },
        server_acl: { type: 'object' },
        invite: { type: 'array', items: { type: 'string' } },
      },
    },
  })
  async createRoom(@Req() request: FastifyRequest): Promise<{ readonly room_id: string }> {
    const body = jsonBody(request);
    const creator = requiredUserId(body, 'creator');
    const invited = userIds(body, 'invite');
    const roomId = await this.commands.execute(
      new CreateRoom(versionIn(body), creator, {
        joinRule: optionalString(body, 'join_rule') ?? 'invite',
        powerLevels: optionalObject(body, 'power_levels'),
        serverAcl: optionalObject(body, 'server_acl'),
      }),
    );
    if (typeof roomId !== 'string') throw refusalToMatrixError(roomId);
    for (const target of invited) await this.inviteOne(roomId, creator, target, undefined);
    return { room_id: roomId };
  }

  @Get()
  @ApiOperation({ summary: 'List rooms, a page at a time' })
  @ApiQuery({ name: 'from', required: false })
  @ApiQuery({ name: 'limit', required: false, type: Number })
  listRooms(@Query('from') from?: string, @Query('limit') limit?: string): Promise<object> {
    return this.reads.rooms(from, pageLimit(limit));
  }

  @Get(':roomId')
  @ApiOperation({ summary: 'A room: version, extremities, member counts, resident servers, position' })
  showRoom(@Param('roomId') roomId: string): Promise<object> {
    return this.reads.room(roomIdIn(roomId));
  }

  @Get(':roomId/state')
  @Header('Content-Type', json)
  @ApiOperation({ summary: 'State events as signed; now, or at an earlier position of the log' })
  @ApiQuery({ name: 'type', required: false })
  @ApiQuery({ name: 'state_key', required: false })
  @ApiQuery({ name: 'at', required: false, type: Number })
  @ApiQuery({ name: 'from', required: false })
  @ApiQuery({ name: 'limit', required: false, type: Number })
  async showState(
    @Param('roomId') roomId: string,
    @Query('type') type?: string,
    @Query('state_key') stateKey?: string,
    @Query('at') at?: string,
    @Query('from') from?: string,
    @Query('limit') limit?: string,
  ): Promise<string> {
    return stringifyJson(
      await this.reads.state(roomIdIn(roomId), { type, stateKey, at, from, limit: pageLimit(limit, 10_000) }),
    );
  }

  @Get(':roomId/events')
  @Header('Content-Type', json)
  @ApiOperation({ summary: "The room's domain events in order, refused PDUs with their rule" })
  @ApiQuery({ name: 'from', required: false, type: Number })
  @ApiQuery({ name: 'limit', required: false, type: Number })
  async showEvents(
    @Param('roomId') roomId: string,
    @Query('from') from?: string,
    @Query('limit') limit?: string,
  ): Promise<string> {
    return stringifyJson(await this.reads.events(roomIdIn(roomId), from, pageLimit(limit)));
  }

  @Post(':roomId/invites')
  @HttpCode(200)
  @ApiOperation({ summary: 'Invite a user, local or remote, in the name of a local one' })
  @ApiBody({
    schema: {
      type: 'object',
      required: ['sender', 'target'],
      properties: { sender: { type: 'string' }, target: { type: 'string' }, reason: { type: 'string' } },
    },
  })
  async invite(
    @Param('roomId') roomId: string,
    @Req() request: FastifyRequest,
  ): Promise<{ readonly event_id: string }> {
    const body = jsonBody(request);
    const sender = requiredUserId(body, 'sender');
    const target = requiredUserId(body, 'target');
    return {
      event_id: await this.inviteOne(roomIdIn(roomId), sender, target, optionalString(body, 'reason')),
    };
  }

  @Post(':roomId/state')
  @HttpCode(200)
  @ApiOperation({ summary: 'Send a state event in the name of a local user: settings, kick, ban, unban' })
  @ApiBody({
    schema: {
      type: 'object',
      required: ['sender', 'type', 'state_key', 'content'],
      properties: {
        sender: { type: 'string' },
        type: { type: 'string', example: 'm.room.member' },
        state_key: { type: 'string' },
        content: { type: 'object', example: { membership: 'leave', reason: 'spam' } },
      },
    },
  })
  async sendState(
    @Param('roomId') roomId: string,
    @Req() request: FastifyRequest,
  ): Promise<{ readonly event_id: string }> {
    const body = jsonBody(request);
    const content = optionalObject(body, 'content');
    if (content === undefined) throw new MatrixError(400, 'M_MISSING_PARAM', 'content is missing');
    const eventId = await this.commands.execute(
      new SendState(roomIdIn(roomId), {
        sender: requiredUserId(body, 'sender'),
        type: requiredString(body, 'type'),
        stateKey: requiredString(body, 'state_key'),
        content,
      }),
    );
    if (typeof eventId !== 'string') throw refusalToMatrixError(eventId);
    return { event_id: eventId };
  }

  @Post(':roomId/explain')
  @HttpCode(200)
  @ApiOperation({ summary: 'Would a PDU be accepted, or may a user leave; by which rule. Changes nothing' })
  @ApiBody({
    schema: { type: 'object', properties: { pdu: { type: 'object' }, user_id: { type: 'string' } } },
  })
  async explain(@Param('roomId') roomId: string, @Req() request: FastifyRequest): Promise<object> {
    const answer = await this.queries.execute(
      new Explain(roomIdIn(roomId), whatToExplain(jsonBody(request))),
    );
    if (isRefusal(answer)) throw refusalToMatrixError(answer);
    return answer;
  }

  @Post(':roomId/replay-check')
  @HttpCode(200)
  @ApiOperation({ summary: 'Replay the whole log and compare it with the stored state. Changes nothing' })
  async replayCheck(@Param('roomId') roomId: string): Promise<object> {
    return this.reads.replayCheck(roomIdIn(roomId));
  }

  private async inviteOne(
    roomId: RoomId,
    sender: UserId,
    target: UserId,
    reason: string | undefined,
  ): Promise<string> {
    const answer = await this.commands.execute(new InviteUser(roomId, sender, target, reason));
    if (typeof answer === 'string') return answer;
    throw 'refused' in answer ? refusalToMatrixError(answer) : remoteErrorToMatrixError(answer);
  }
}

function versionIn(body: JsonObject): RoomVersion {
  const id = optionalString(body, 'room_version');
  const version = id === undefined ? defaultRoomVersion : roomVersion(id);
  if (version === undefined) {
    throw new MatrixError(
      400,
      'M_INCOMPATIBLE_ROOM_VERSION',
      `room version ${id} is not known here`,
      'RV-04',
    );
  }
  return version;
}

function whatToExplain(body: JsonObject): { readonly pdu: JsonObject } | { readonly userId: UserId } {
  const pdu: JsonValue | undefined = memberOf(body, 'pdu');
  if (pdu !== undefined) {
    if (!isJsonObject(pdu)) throw new MatrixError(400, 'M_INVALID_PARAM', 'pdu is not an object');
    return { pdu };
  }
  const userId = parseUserId(requiredString(body, 'user_id'));
  if (userId === undefined) throw new MatrixError(400, 'M_INVALID_PARAM', 'user_id is no user ID', 'ID-05');
  return { userId };
}
