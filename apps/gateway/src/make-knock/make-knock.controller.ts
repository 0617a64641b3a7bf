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
import { MatrixError, refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { GetMemberTemplate } from '../member-handshake/member-template.query.js';

/**
 * `GET make_knock`: a template for a user of the asking server who wants to be invited. Spec v1.19, Knocking upon a
 * room. (KN-01)
 */
@Controller('_matrix/federation')
@UseGuards(FederationRequestGuard)
export class MakeKnockController {
  constructor(
    @Inject(QueryBus) private readonly queries: QueryBus,
    @Inject(FEDERATION_SIDE) private readonly side: FederationSide,
  ) {}

  @Get('v1/make_knock/:roomId/:userId')
  @LosslessJson()
  async makeKnock(@FromPeer() { origin, segments, query }: AuthenticatedRequest): Promise<string> {
    const roomId = roomIdIn(segments[4]);
    const userId = userIdIn(segments[5]);
    const versions = versionsIn(query);
    const answer = await this.queries.execute(
      new GetMemberTemplate('knock', roomId, userId, origin, versions),
    );
    this.side.metrics.knockTemplate(isRefusal(answer) ? answer.rule : undefined);
    if (isRefusal(answer)) throw refusalToMatrixError(answer);
    return stringifyJson({ room_version: answer.room_version, event: answer.event });
  }
}

/**
 * The room versions that the asking server knows: `ver` repeated, as servers send it, or with commas, as the API's
 * description has it. No version has a comma in its name. (RV-01)
 */
function versionsIn(query: URLSearchParams): readonly string[] {
  const versions = query
    .getAll('ver')
    .flatMap((text) => text.split(','))
    .filter((id) => id !== '');
  if (versions.length === 0) {
    throw new MatrixError(400, 'M_MISSING_PARAM', 'ver does not say which room versions are known', 'KN-01');
  }
  return versions;
}
