import { Catch, HttpException, type ArgumentsHost, type ExceptionFilter } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { DatabaseUnavailable } from '@exeunt/database';
import { JsonSyntaxError } from '@exeunt/signing';
import { RoomContended } from '@exeunt/room-store';
import { inTraceOf } from '../request-trace.js';
import { MatrixError } from './matrix-error.js';

/** Turns whatever a request ends in into a Matrix error; the only place that does. */
@Catch()
export class MatrixErrorFilter implements ExceptionFilter {
  constructor(
    private readonly log: Logger,
    private readonly isKnownPath: (path: string) => boolean,
  ) {}

  catch(thrown: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const reply = http.getResponse<FastifyReply>();
    const error = this.toMatrixError(thrown, request);
    // Also where the body was being read, which is no part of the request's own course.
    inTraceOf(request, () => {
      if (error.status >= 500) {
        this.log.error({ err: thrown, method: request.method, url: request.url }, 'request failed');
      } else {
        logRefused(this.log, request, error);
      }
    });
    if (error.status === 429 || error.status === 503) void reply.header('Retry-After', '1');
    void reply.status(error.status).send(error.body());
  }

  private toMatrixError(thrown: unknown, request: FastifyRequest): MatrixError {
    if (thrown instanceof MatrixError) return thrown;
    if (thrown instanceof JsonSyntaxError) return jsonError(thrown);
    if (thrown instanceof DatabaseUnavailable || thrown instanceof RoomContended) {
      return new MatrixError(503, 'M_UNKNOWN', 'the room log cannot be written now: try again');
    }
    const status = thrown instanceof HttpException ? thrown.getStatus() : statusOfFastify(thrown);
    switch (status) {
      case 404:
        // A known path under another method is told apart: peers fall back to older endpoints by it. (HT-03)
        return this.isKnownPath(request.raw.url ?? '')
          ? new MatrixError(405, 'M_UNRECOGNIZED', `${request.method} is not for this endpoint`, 'HT-03')
          : new MatrixError(404, 'M_UNRECOGNIZED', 'there is no such endpoint', 'HT-03');
      case 405:
        return new MatrixError(405, 'M_UNRECOGNIZED', `${request.method} is not for this endpoint`, 'HT-03');
      case 413:
        return new MatrixError(413, 'M_TOO_LARGE', 'the body is larger than this endpoint takes', 'HT-05');
      case 400:
      case 414:
      case 415:
        return new MatrixError(400, 'M_INVALID_PARAM', messageOf(thrown));
      default:
        return new MatrixError(500, 'M_UNKNOWN', 'something is broken on this server');
    }
  }
}

/** The line that a refused request is found by; its caller has the trace ID from the answer. */
export function logRefused(log: Logger, { method, url }: FastifyRequest, error: MatrixError): void {
  log.info({ method, url, status: error.status, ...error.body() }, 'request refused');
}

/** What a body that is no JSON object is answered with. (HT-04) */
export function jsonError(thrown: JsonSyntaxError): MatrixError {
  return thrown.reason === 'not-json'
    ? new MatrixError(400, 'M_NOT_JSON', thrown.message, 'HT-04')
    : new MatrixError(
        400,
        'M_BAD_JSON',
        thrown.message,
        thrown.reason === 'lone-surrogate' ? 'CJ-08' : 'CJ-07',
      );
}

function statusOfFastify(thrown: unknown): number {
  return typeof thrown === 'object' && thrown !== null && 'statusCode' in thrown
    ? Number(thrown.statusCode)
    : 500;
}

function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : 'the request cannot be read';
}
