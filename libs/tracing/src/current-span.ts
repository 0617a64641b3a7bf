import { AsyncLocalStorage } from 'node:async_hooks';
import type { Span } from '@opentelemetry/api';
import { traceparentOf } from './traceparent.js';

const current = new AsyncLocalStorage<Span>();

/** Does the work, and all that it awaits, on behalf of the span: it is the {@link currentSpan} there. */
export function inSpan<T>(span: Span, work: () => T): T {
  return current.run(span, work);
}

/** The span on whose behalf this runs; undefined outside any. */
export function currentSpan(): Span | undefined {
  return current.getStore();
}

/** The `traceparent` of the {@link currentSpan}. */
export function currentTraceparent(): string | undefined {
  const span = current.getStore();
  return span === undefined ? undefined : traceparentOf(span.spanContext());
}

/** For a logger, which calls it for every line: the trace that the line belongs to, if any. */
export function traceOfLogLine(): { readonly trace_id?: string } {
  const span = current.getStore();
  return span === undefined ? {} : { trace_id: span.spanContext().traceId };
}
