import { Controller, Get, HttpCode, Inject, Param, Post, Query, UseGuards } from '@nestjs/common';
import { ApiBearerAuth, ApiOperation, ApiQuery, ApiTags } from '@nestjs/swagger';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { FederationSender, type DestinationState } from '@exeunt/sending';
import { ServerDiscovery } from '@exeunt/server-discovery';
import { MatrixError } from '../matrix-error/matrix-error.js';
import { pageLimit } from '../platform-request/platform-body.js';
import { PlatformTokenGuard } from '../platform-request/platform-token.guard.js';

const destinationStates = [
  'idle',
  'sending',
  'backing-off',
  'parked',
] as const satisfies readonly DestinationState['kind'][];

/** How delivery to each server stands. */
@Controller('v1/destinations')
@UseGuards(PlatformTokenGuard)
@ApiTags('destinations')
@ApiBearerAuth()
export class DestinationsController {
  constructor(
    @Inject(FederationSender) private readonly sender: FederationSender,
    @Inject(ServerDiscovery) private readonly discovery: ServerDiscovery,
  ) {}

  @Get()
  @ApiOperation({ summary: 'Destinations in order of their names' })
  @ApiQuery({ name: 'from', required: false })
  @ApiQuery({ name: 'limit', required: false, type: Number })
  @ApiQuery({ name: 'state', required: false, enum: destinationStates })
  @ApiQuery({
    name: 'pending',
    required: false,
    enum: ['true', 'false'],
    description: 'true: those alone that something waits for',
  })
  async list(
    @Query('from') from?: string,
    @Query('limit') limit?: string,
    @Query('state') state?: string,
    @Query('pending') pending?: string,
  ): Promise<object> {
    const most = pageLimit(limit);
    const destinations = await this.sender.list({
      ...(from === undefined ? {} : { after: serverName(from) }),
      ...(state === undefined ? {} : { state: oneOf('state', destinationStates, state) }),
      pendingOnly: pending !== undefined && oneOf('pending', ['true', 'false'], pending) === 'true',
      limit: most,
    });
    const last = destinations.at(-1);
    return {
      destinations,
      ...(destinations.length === most && last !== undefined ? { next: last.destination } : {}),
    };
  }

  @Get(':server')
  @ApiOperation({
    summary: 'One destination: what is pending, when it is tried next, and what it could not take',
  })
  async show(@Param('server') server: string): Promise<object> {
    const details = await this.sender.details(serverName(server));
    if (details === undefined) throw neverSentTo(server);
    return details;
  }

  @Post(':server/retry')
  @HttpCode(200)
  @ApiOperation({ summary: 'Try a destination now, whatever its backoff, and also if it is parked' })
  async retry(@Param('server') server: string): Promise<object> {
    // It may have moved: what was found out about it is found out again.
    const name = serverName(server);
    this.discovery.forget(name);
    if (!(await this.sender.retry(name))) throw neverSentTo(server);
    return this.show(server);
  }

  @Post(':server/park')
  @HttpCode(200)
  @ApiOperation({
    summary: 'Send nothing to a destination until it is unparked or retried, or makes contact; drops nothing',
  })
  async park(@Param('server') server: string): Promise<object> {
    if (!(await this.sender.park(serverName(server)))) throw neverSentTo(server);
    return this.show(server);
  }

  @Post(':server/unpark')
  @HttpCode(200)
  @ApiOperation({ summary: 'Try a parked destination now; any other stays as it is' })
  async unpark(@Param('server') server: string): Promise<object> {
    const name = serverName(server);
    this.discovery.forget(name);
    if (!(await this.sender.unpark(name))) throw neverSentTo(server);
    return this.show(server);
  }
}

function neverSentTo(server: string): MatrixError {
  return new MatrixError(404, 'M_NOT_FOUND', `nothing was ever sent to ${server}`);
}

function oneOf<const Choice extends string>(name: string, choices: readonly Choice[], text: string): Choice {
  const choice = choices.find((one) => one === text);
  if (choice === undefined) {
    throw new MatrixError(400, 'M_INVALID_PARAM', `${name} is none of ${choices.join(', ')}`);
  }
  return choice;
}

function serverName(text: string): ServerName {
  const name = parseServerName(text);
  if (name === undefined) {
    throw new MatrixError(400, 'M_INVALID_PARAM', 'a destination is a server name', 'ID-01');
  }
  return name;
}
