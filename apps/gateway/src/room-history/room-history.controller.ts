import { Controller, Get, HttpCode, Inject, Post, Req, UseGuards, type StreamableFile } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { parseEventId, type EventId } from '@exeunt/pdu';
import { isRefusal } from '@exeunt/room';
import { JsonNumber, memberOf, stringifyJson, type JsonObject } from '@exeunt/signing';
import type { AuthenticatedRequest } from '../federation-request/federation-request.js';
import {
  eventIdIn,
  FederationRequestGuard,
  FromPeer,
  roomIdIn,
} from '../federation-request/federation-request.guard.js';
import { LosslessJson } from '../federation-request/lossless-json.js';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { MatrixError, refusalToMatrixError } from '../matrix-error/matrix-error.js';
import { RoomHistory, type HistoryAnswer } from './room-history.js';

/** As many as Synapse gives, and asks for. */
const maxBackfill = 100;
const maxMissing = 20;
const defaultMissing = 10;
/** Servers name one event or a few; what is named is looked up. */
const maxNamed = 100;
/** A peer that takes nothing of a long answer for so long is given up. */
const stalledMs = 60_000;

/**
 * What a server needs to accept an event whose ancestors it lacks. Spec v1.19, server-server-api, Backfilling and
 * retrieving missing events, Retrieving events, Retrieving event authorisation information. (FE-02 to FE-06)
 */
@Controller('_matrix/federation')
@UseGuards(FederationRequestGuard)
export class RoomHistoryController {
  constructor(
    @Inject(RoomHistory) private readonly history: RoomHistory,
    @Inject(FEDERATION_SIDE) private readonly side: FederationSide,
  ) {}

  @Get('v1/event/:eventId')
  @LosslessJson()
  async event(@FromPeer() { origin, segments }: AuthenticatedRequest): Promise<string> {
    return stringifyJson(this.given('event', await this.history.event(origin, eventIdIn(segments[4]))));
  }

  @Post('v1/get_missing_events/:roomId')
  @HttpCode(200)
  @LosslessJson()
  async missingEvents(@FromPeer() { origin, content, segments }: AuthenticatedRequest): Promise<string> {
    const roomId = roomIdIn(segments[4]);
    const body = content ?? {};
    const asked = {
      latest: eventIdsIn(body, 'latest_events', maxNamed),
      // Only compared with: a server may name all the extremities it has.
      earliest: eventIdsIn(body, 'earliest_events', Infinity),
      limit: Math.min(Number(integerIn(body, 'limit', BigInt(defaultMissing))), maxMissing),
      minDepth: integerIn(body, 'min_depth', 0n),
    };
    return stringifyJson(
      this.given('get_missing_events', await this.history.missingEvents(origin, roomId, asked)),
    );
  }

  @Get('v1/backfill/:roomId')
  @LosslessJson()
  async backfill(@FromPeer() { origin, query, segments }: AuthenticatedRequest): Promise<string> {
    const roomId = roomIdIn(segments[4]);
    const from = query.getAll('v').map((text) => eventIdOf(text, 'v'));
    if (from.length === 0) throw missing('v');
    if (from.length > maxNamed) throw tooMany('v', maxNamed);
    const limit = query.get('limit');
    if (limit === null) throw missing('limit');
    if (!/^[0-9]{1,15}$/.test(limit) || Number(limit) === 0) {
      throw new MatrixError(400, 'M_INVALID_PARAM', 'limit is not a number from 1 on', 'FE-04');
    }
    const most = Math.min(Number(limit), maxBackfill);
    return stringifyJson(this.given('backfill', await this.history.backfill(origin, roomId, from, most)));
  }

  @Get('v1/state/:roomId')
  state(@FromPeer() request: AuthenticatedRequest, @Req() { raw }: FastifyRequest): Promise<StreamableFile> {
    return this.stateIn(request, 'pdus', raw);
  }

  @Get('v1/state_ids/:roomId')
  stateIds(
    @FromPeer() request: AuthenticatedRequest,
    @Req() { raw }: FastifyRequest,
  ): Promise<StreamableFile> {
    return this.stateIn(request, 'ids', raw);
  }

  @Get('v1/event_auth/:roomId/:eventId')
  async eventAuth(
    @FromPeer() { origin, segments }: AuthenticatedRequest,
    @Req() { raw }: FastifyRequest,
  ): Promise<StreamableFile> {
    const roomId = roomIdIn(segments[4]);
    const eventId = eventIdIn(segments[5]);
    return unlessStalled(
      raw,
      this.given('event_auth', await this.history.eventAuth(origin, roomId, eventId)),
    );
  }

  private async stateIn(
    { origin, query, segments }: AuthenticatedRequest,
    form: 'pdus' | 'ids',
    raw: FastifyRequest['raw'],
  ): Promise<StreamableFile> {
    const roomId = roomIdIn(segments[4]);
    const text = query.get('event_id');
    if (text === null) throw missing('event_id');
    const eventId = eventIdOf(text, 'event_id');
    return unlessStalled(
      raw,
      this.given(
        form === 'ids' ? 'state_ids' : 'state',
        await this.history.state(origin, roomId, eventId, form),
      ),
    );
  }

  private given<T extends object>(endpoint: string, answer: HistoryAnswer<T>): T {
    const { metrics } = this.side;
    if (answer === 'busy') {
      metrics.historyAnswer(endpoint, 'busy');
      throw new MatrixError(429, 'M_LIMIT_EXCEEDED', 'too many ask for the past of rooms', 'HT-06');
    }
    if (isRefusal(answer)) {
      metrics.historyAnswer(endpoint, 'refused', answer.rule);
      throw refusalToMatrixError(answer);
    }
    metrics.historyAnswer(endpoint, 'given');
    return answer;
  }
}

/** A connection without progress ends, and the answer with it; the next request on it has a time of its own. */
function unlessStalled(request: FastifyRequest['raw'], answer: StreamableFile): StreamableFile {
  request.socket.setTimeout(stalledMs);
  // Whoever has gone while the answer was made never takes it.
  if (request.socket.destroyed) answer.getStream().destroy();
  return answer;
}

function eventIdsIn(body: JsonObject, key: string, most: number): readonly EventId[] {
  const value = memberOf(body, key);
  if (value === undefined) throw missing(key);
  if (!Array.isArray(value)) throw new MatrixError(400, 'M_INVALID_PARAM', `${key} is not a list`, 'FE-03');
  if (value.length > most) throw tooMany(key, most);
  return value.map((one: unknown) => eventIdOf(one, key));
}

function eventIdOf(text: unknown, key: string): EventId {
  const eventId = typeof text === 'string' ? parseEventId(text) : undefined;
  if (eventId === undefined) {
    throw new MatrixError(400, 'M_INVALID_PARAM', `${key} holds no valid event ID`, 'ID-09');
  }
  return eventId;
}

/** An integer from 0 on; a depth may exceed 2^53. */
function integerIn(body: JsonObject, key: string, otherwise: bigint): bigint {
  const value = memberOf(body, key);
  if (value === undefined) return otherwise;
  const source = value instanceof JsonNumber ? value.source : typeof value === 'number' ? String(value) : '';
  if (!/^[0-9]{1,20}$/.test(source)) {
    throw new MatrixError(400, 'M_INVALID_PARAM', `${key} is not an integer from 0 on`, 'FE-03');
  }
  return BigInt(source);
}

function missing(key: string): MatrixError {
  return new MatrixError(400, 'M_MISSING_PARAM', `${key} is missing`);
}

function tooMany(key: string, most: number): MatrixError {
  return new MatrixError(400, 'M_INVALID_PARAM', `${key} names more than ${most} events`, 'FE-03');
}
