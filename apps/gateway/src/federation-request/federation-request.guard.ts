import {
  createParamDecorator,
  Inject,
  Injectable,
  type CanActivate,
  type ExecutionContext,
} from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { parseEventId, parseRoomId, parseUserId, type EventId, type RoomId, type UserId } from '@exeunt/pdu';
import { currentSpan } from '@exeunt/tracing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { MatrixError } from '../matrix-error/matrix-error.js';
import { authenticateRequest, type AuthenticatedRequest } from './federation-request.js';

const authenticated = new WeakMap<FastifyRequest, AuthenticatedRequest>();

/** Lets a request pass whose X-Matrix signature holds; everything else ends here. (RA-16, RA-17) */
@Injectable()
export class FederationRequestGuard implements CanActivate {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const request = context.switchToHttp().getRequest<FastifyRequest>();
    const known = await authenticateRequest(request, this.side);
    this.side.heardFrom(known.origin);
    currentSpan()?.setAttribute('matrix.origin', known.origin);
    authenticated.set(request, known);
    return true;
  }
}

/** The {@link AuthenticatedRequest}; only behind {@link FederationRequestGuard}. */
export const FromPeer = createParamDecorator(
  (_: unknown, context: ExecutionContext): AuthenticatedRequest => {
    const known = authenticated.get(context.switchToHttp().getRequest<FastifyRequest>());
    if (known === undefined) throw new Error('the route is not behind FederationRequestGuard');
    return known;
  },
);

/** Row 4 of the order of checks: identifiers in the path. (ML-17, ID-05) */
export function roomIdIn(text: string | undefined): RoomId {
  return parameter(parseRoomId(text ?? ''), 'room ID', 'ID-07');
}

/** As {@link roomIdIn}, for a user ID; historical ones are taken. */
export function userIdIn(text: string | undefined): UserId {
  return parameter(parseUserId(text ?? ''), 'user ID', 'ID-05');
}

/** As {@link roomIdIn}, for an event ID of any room version. */
export function eventIdIn(text: string | undefined): EventId {
  return parameter(parseEventId(text ?? ''), 'event ID', 'ID-09');
}

function parameter<T>(parsed: T | undefined, what: string, rule: string): T {
  if (parsed === undefined)
    throw new MatrixError(400, 'M_INVALID_PARAM', `the path holds no valid ${what}`, rule);
  return parsed;
}
