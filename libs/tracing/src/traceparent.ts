import { isSpanContextValid, type SpanContext } from '@opentelemetry/api';

const form = /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/;

/**
 * The span that a `traceparent` names, or undefined where it is none: other than text of the form, an ID of zeroes,
 * version `ff`. Of a later version than 00, what it has in common with 00 counts.
 *
 * W3C Trace Context, traceparent Header.
 */
export function parseTraceparent(text: unknown): SpanContext | undefined {
  const parts = typeof text === 'string' ? form.exec(text) : null;
  if (parts === null) return undefined;
  const [, version = '', traceId = '', spanId = '', flags = '', more] = parts;
  if (version === 'ff' || (version === '00' && more !== undefined)) return undefined;
  // Of the flags only the lowest, "sampled", has a meaning for us to pass on.
  const context = { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & 1, isRemote: true };
  return isSpanContextValid(context) ? context : undefined;
}

/** The `traceparent` that names a span, in version 00: 55 characters. */
export function traceparentOf({ traceId, spanId, traceFlags }: SpanContext): string {
  return `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`;
}

/** The trace ID in a `traceparent`, 32 hexadecimal digits; undefined where there is none to be read. */
export function traceIdIn(text: string | undefined): string | undefined {
  return parseTraceparent(text)?.traceId;
}
