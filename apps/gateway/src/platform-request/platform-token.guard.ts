import { createHash, timingSafeEqual } from 'node:crypto';
import { Inject, Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { MatrixError } from '../matrix-error/matrix-error.js';

/** The injection token of the platform API's bearer token. */
export const PLATFORM_TOKEN = Symbol('PlatformToken');

/** Lets a request of the platform pass that bears the token, compared in constant time. */
@Injectable()
export class PlatformTokenGuard implements CanActivate {
  private readonly expected: Buffer;

  constructor(@Inject(PLATFORM_TOKEN) token: string) {
    this.expected = digest(token);
  }

  canActivate(context: ExecutionContext): boolean {
    this.check(context.switchToHttp().getRequest<FastifyRequest>());
    return true;
  }

  /** Throws {@link MatrixError} unless the request bears the token. Reads the head alone. */
  check(request: FastifyRequest): void {
    const bearer = /^bearer +(\S+)$/i.exec(request.headers.authorization ?? '')?.[1];
    if (bearer === undefined) throw new MatrixError(401, 'M_MISSING_TOKEN', 'the request bears no token');
    if (!timingSafeEqual(digest(bearer), this.expected)) {
      throw new MatrixError(401, 'M_UNKNOWN_TOKEN', 'the token is not the one of this server');
    }
  }
}

/**
 * For a listener, before a body is read: lets the platform API's routes be asked by those who bear the token alone, and
 * gives whether it was such a request.
 */
export function admitPlatform(guard: PlatformTokenGuard): (request: FastifyRequest) => boolean {
  return (request) => {
    if (!request.url.startsWith('/v1/') || request.is404) return false;
    guard.check(request);
    return true;
  };
}

/** Digests are of one length, which the comparison needs, and tell nothing of the token's. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
