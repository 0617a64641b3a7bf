import { Controller, Get, HttpCode, Inject, Param, Post, Query, UseGuards } from '@nestjs/common';
import { ApiBearerAuth, ApiOperation, ApiQuery, ApiTags } from '@nestjs/swagger';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { FederationSender } from '@exeunt/sending';
import { ServerDiscovery } from '@exeunt/server-discovery';
import { MatrixError } from '../matrix-error/matrix-error.js';
import { pageLimit } from '../platform-request/platform-body.js';
import { PlatformTokenGuard } from '../platform-request/platform-token.guard.js';

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
  async list(@Query('from') from?: string, @Query('limit') limit?: string): Promise<object> {
    const most = pageLimit(limit);
    const destinations = await this.sender.list({
      ...(from === undefined ? {} : { after: serverName(from) }),
      limit: most,
    });
    const last = destinations.at(-1);
    return {
      destinations,
      ...(destinations.length === most && last !== undefined ? { next: last.destination } : {}),
    };
  }

  @Get(':server')
  @ApiOperation({ summary: 'One destination: what is pending, and when it is tried next' })
  async show(@Param('server') server: string): Promise<object> {
    const status = await this.sender.status(serverName(server));
    if (status === undefined) throw new MatrixError(404, 'M_NOT_FOUND', `nothing was ever sent to ${server}`);
    return status;
  }

  @Post(':server/retry')
  @HttpCode(200)
  @ApiOperation({ summary: 'Try a destination now, whatever its backoff' })
  async retry(@Param('server') server: string): Promise<object> {
    // It may have moved: what was found out about it is found out again.
    const name = serverName(server);
    this.discovery.forget(name);
    if (!(await this.sender.retry(name))) {
      throw new MatrixError(404, 'M_NOT_FOUND', `nothing was ever sent to ${server}`);
    }
    return this.show(server);
  }
}

function serverName(text: string): ServerName {
  const name = parseServerName(text);
  if (name === undefined) {
    throw new MatrixError(400, 'M_INVALID_PARAM', 'a destination is a server name', 'ID-01');
  }
  return name;
}
