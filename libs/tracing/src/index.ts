export { SpanKind, SpanStatusCode, type Span, type SpanContext } from '@opentelemetry/api';
export * from './current-span.js';
export * from './traceparent.js';
export * from './tracing.js';
