import type { Socket } from 'node:net';
import { NestFactory } from '@nestjs/core';
import type { DynamicModule, LoggerService } from '@nestjs/common';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { inSpan, SpanKind, type Tracing } from '@exeunt/tracing';
import { MatrixError } from './matrix-error/matrix-error.js';
import { logRefused, MatrixErrorFilter } from './matrix-error/matrix-error.filter.js';
import { OneTextPipe } from './platform-request/one-text.pipe.js';
import { beginTrace, endTrace, inTraceOf, traceHeader } from './request-trace.js';

/** A transaction of 50 PDUs of 64 KiB and 100 EDUs, with room to spare. (HT-05) */
export const maxFederationBodyBytes = 8 * 1024 * 1024;
/** A room of some hundred thousand members. */
export const maxPlatformBodyBytes = 512 * 1024 * 1024;

/** Identifiers of 255 bytes, each byte percent-encoded, fit with room to spare. */
const maxParameterLength = 4096;
const requestTimeoutMs = 60_000;

/** A request that has been answered, or given up by its caller. */
export interface AnsweredRequest {
  /** Method and route pattern, `GET /v1/rooms/:roomId`; `other` for what is no route, so that there are never many. */
  readonly endpoint: string;
  readonly status: number;
  readonly durationMs: number;
}

export interface ListenerOptions {
  readonly module: DynamicModule;
  readonly maxBodyBytes: number;
  readonly tls?: { readonly key: string; readonly cert: string };
  readonly log: Logger;
  /** Where the spans of requests go. */
  readonly tracing: Tracing;
  /**
   * Looks at the head of a request before its body is read; throws {@link MatrixError} to refuse it. Gives whether it
   * knows who asks, whose trace is then gone on with; where it is absent, nobody is known.
   */
  readonly admit?: (request: FastifyRequest) => boolean;
  readonly onAnswered?: (answered: AnsweredRequest) => void;
  /** Called between making the application and its start. */
  readonly prepare?: (app: NestFastifyApplication) => void;
}

/**
 * An HTTP application of one module: bodies stay bytes, because signatures are over what was sent; whatever goes
 * wrong is told as a Matrix error. Not yet listening.
 */
export async function createListener(options: ListenerOptions): Promise<NestFastifyApplication> {
  const { log, tracing, maxBodyBytes, tls } = options;
  const admit = (request: FastifyRequest): boolean | MatrixError => {
    try {
      return options.admit?.(request) ?? false;
    } catch (thrown) {
      if (thrown instanceof MatrixError) return thrown;
      throw thrown;
    }
  };
  const refuse = (request: FastifyRequest, reply: FastifyReply, error: MatrixError): void => {
    inTraceOf(request, () => logRefused(log, request, error));
    void reply.status(error.status).send(error.body());
  };
  const adapter = new FastifyAdapter({
    bodyLimit: maxBodyBytes,
    exposeHeadRoutes: false,
    requestTimeout: requestTimeoutMs,
    routerOptions: { maxParamLength: maxParameterLength, ignoreTrailingSlash: false },
    // Of these no hook hears.
    frameworkErrors: (error: Error, request: FastifyRequest, reply: FastifyReply) => {
      beginTrace(tracing, request, reply, false);
      refuse(request, reply, new MatrixError(400, 'M_INVALID_PARAM', error.message, 'ID-11'));
      endTrace(request, reply);
    },
    clientErrorHandler: (error: NodeJS.ErrnoException, socket: Socket) =>
      answerUnreadable(error, socket, options),
    ...(tls === undefined ? {} : { https: { ...tls, minVersion: 'TLSv1.2' as const } }),
  });
  const fastify = adapter.getInstance() as unknown as FastifyInstance;
  const knownPaths = collectPaths(fastify);
  // What a body calls itself changes nothing, not even where it is no media type at all. (HT-01)
  fastify.addHook('onRequest', (request, reply, done) => {
    delete request.raw.headers['content-type'];
    const admitted = admit(request);
    beginTrace(tracing, request, reply, admitted === true);
    if (admitted instanceof MatrixError) refuse(request, reply, admitted);
    else inTraceOf(request, done);
  });
  // A body comes by the socket, which belongs to no request.
  fastify.addHook('preValidation', (request, _reply, done) => inTraceOf(request, done));
  fastify.addHook('onResponse', (request, reply, done) => {
    endTrace(request, reply);
    const route = request.is404 ? undefined : request.routeOptions.url;
    options.onAnswered?.({
      endpoint: route === undefined ? 'other' : `${request.method} ${route}`,
      status: reply.statusCode,
      durationMs: reply.elapsedTime,
    });
    done();
  });
  fastify.removeAllContentTypeParsers();
  fastify.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));

  const app = await NestFactory.create<NestFastifyApplication>(options.module, adapter, {
    bodyParser: false,
    logger: nestLogger(log),
    abortOnError: false,
  });
  app.useGlobalPipes(new OneTextPipe());
  app.useGlobalFilters(new MatrixErrorFilter(log, knownPaths));
  options.prepare?.(app);
  await app.init();
  await fastify.ready();
  return app;
}

/** Answers what is no HTTP request, or one whose head is too long, in the form of every other error. (HT-04) */
function answerUnreadable(
  error: NodeJS.ErrnoException,
  socket: Socket,
  { log, tracing }: ListenerOptions,
): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, refused] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? ['431 Request Header Fields Too Large', new MatrixError(431, 'M_TOO_LARGE', 'the head is too long')]
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? ['408 Request Timeout', new MatrixError(408, 'M_UNKNOWN', 'the request did not come in time')]
        : ['400 Bad Request', new MatrixError(400, 'M_UNKNOWN', 'this is no HTTP request')];
  const span = tracing.begin('unreadable request', { kind: SpanKind.SERVER, parent: 'none' });
  inSpan(span, () => log.info({ code: error.code, ...refused.body() }, 'request refused'));
  span.end();
  const body = JSON.stringify(refused.body());
  const head = [
    `HTTP/1.1 ${status}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    `${traceHeader}: ${span.spanContext().traceId}`,
    'Connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
}

/** Learns the paths of all routes as they are made; gives whether a request target is one of them. */
function collectPaths(fastify: FastifyInstance): (target: string) => boolean {
  const patterns: (readonly string[])[] = [];
  fastify.addHook('onRoute', ({ url }) => {
    if (!url.includes('*')) patterns.push(url.split('/'));
  });
  return (target) => {
    const segments = (target.split('?')[0] ?? '').split('/');
    return patterns.some(
      (pattern) =>
        pattern.length === segments.length &&
        pattern.every((part, at) => (part.startsWith(':') ? segments[at] !== '' : part === segments[at])),
    );
  };
}

/** Nest's own messages, in our log. */
function nestLogger(log: Logger): LoggerService {
  const nest = log.child({ from: 'nest' });
  return {
    log: (message: unknown) => nest.debug(String(message)),
    warn: (message: unknown) => nest.warn(String(message)),
    error: (message: unknown, ...more: unknown[]) => nest.error({ more }, String(message)),
    fatal: (message: unknown) => nest.fatal(String(message)),
    debug: (message: unknown) => nest.trace(String(message)),
    verbose: (message: unknown) => nest.trace(String(message)),
  };
}
