import { setImmediate } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { currentSpan, currentTraceparent, inSpan, traceOfLogLine } from './current-span.js';
import { parseTraceparent, traceparentOf } from './traceparent.js';
import { noTracing } from './tracing.js';

describe('without a collector', () => {
  it('a trace begins with each span that has no parent', () => {
    const [one, other] = [noTracing.begin('one').spanContext(), noTracing.begin('other').spanContext()];
    for (const { traceId, spanId, traceFlags } of [one, other]) {
      expect(traceId).toMatch(/^[\da-f]{32}$/);
      expect(spanId).toMatch(/^[\da-f]{16}$/);
      expect(traceFlags).toBe(0);
    }
    expect(one.traceId).not.toBe(other.traceId);
  });

  it('a span with a parent is the parent, so that whoever comes after has one that is recorded', () => {
    const parent = parseTraceparent('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01')!;
    const span = noTracing.begin('one', { parent });
    expect(span.isRecording()).toBe(false);
    expect(traceparentOf(span.spanContext())).toBe(traceparentOf(parent));
    expect(inSpan(span, () => noTracing.begin('child').spanContext())).toEqual(parent);
    const { traceId } = inSpan(span, () => noTracing.begin('another', { parent: 'none' }).spanContext());
    expect(traceId).not.toBe(parent.traceId);
  });
});

describe('the current span', () => {
  it('is there for all that is awaited, and for nobody else', async () => {
    const [one, other] = [noTracing.begin('one'), noTracing.begin('other')];
    const seen = await Promise.all(
      [one, other].map((span) =>
        inSpan(span, async () => {
          await setImmediate();
          return [currentSpan(), currentTraceparent(), traceOfLogLine()];
        }),
      ),
    );
    expect(seen).toEqual(
      [one, other].map((span) => [
        span,
        traceparentOf(span.spanContext()),
        { trace_id: span.spanContext().traceId },
      ]),
    );
    expect([currentSpan(), currentTraceparent(), traceOfLogLine()]).toEqual([undefined, undefined, {}]);
  });
});
