import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  inSpan,
  noTracing,
  parseTraceparent,
  SpanKind,
  SpanStatusCode,
  type Span,
  type Tracing,
} from '@exeunt/tracing';

/** Names the trace of a request in its answer, whoever asked: what an operator looks for in the logs. */
export const traceHeader = 'X-Exeunt-Trace-Id';

/** Asked every few seconds, for ever: a span of each would hide all others. */
const probes: ReadonlySet<string | undefined> = new Set(['/healthz', '/readyz', '/metrics']);

const spans = new WeakMap<FastifyRequest, Span>();

/**
 * Begins the trace of a request and names it in the answer. A `traceparent` is gone on with where `isTrusted`: one that
 * anybody may send would let strangers choose what we record, and mix their requests into each other's logs.
 */
export function beginTrace(
  tracing: Tracing,
  request: FastifyRequest,
  reply: FastifyReply,
  isTrusted: boolean,
): void {
  const route = request.routeOptions.url;
  const span = (probes.has(route) ? noTracing : tracing).begin(
    route === undefined ? request.method : `${request.method} ${route}`,
    {
      kind: SpanKind.SERVER,
      parent: (isTrusted ? parseTraceparent(request.headers['traceparent']) : undefined) ?? 'none',
      attributes: {
        'http.request.method': request.method,
        ...(route === undefined ? {} : { 'http.route': route }),
      },
    },
  );
  spans.set(request, span);
  void reply.header(traceHeader, span.spanContext().traceId);
}

/** Does the work on behalf of the request, so that its log lines and whatever it begins belong to the trace. */
export function inTraceOf<T>(request: FastifyRequest, work: () => T): T {
  const span = spans.get(request);
  return span === undefined ? work() : inSpan(span, work);
}

/** The request is answered, or its caller gone. */
export function endTrace(request: FastifyRequest, { statusCode }: FastifyReply): void {
  const span = spans.get(request);
  span?.setAttribute('http.response.status_code', statusCode);
  if (statusCode >= 500) span?.setStatus({ code: SpanStatusCode.ERROR });
  span?.end();
}
