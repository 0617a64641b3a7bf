import { randomBytes } from 'node:crypto';
import {
  ROOT_CONTEXT,
  trace,
  TraceFlags,
  type Attributes,
  type Span,
  type SpanContext,
  type SpanKind,
} from '@opentelemetry/api';
import type { SpanExporter } from '@opentelemetry/sdk-trace-base';
import { currentSpan } from './current-span.js';

export interface SpanOptions {
  /**
   * Of another process or an earlier time, or `none` to begin a trace; the {@link currentSpan} unless told, and where
   * there is none, a trace begins as well.
   */
  readonly parent?: SpanContext | 'none' | undefined;
  /** Spans of other traces that this one is about as well. */
  readonly links?: readonly SpanContext[];
  /** `INTERNAL` unless told. */
  readonly kind?: SpanKind;
  /** Never a user ID: spans go where logs don't. */
  readonly attributes?: Attributes;
}

/** Where spans come from. */
export interface Tracing {
  /** Begins a span, whose trace ID is there for logs whether or not anybody records it. The caller ends it. */
  begin(name: string, options?: SpanOptions): Span;
  /** Sends what has not been sent yet, for some seconds at most. Never rejects. */
  close(): Promise<void>;
}

/** Records nothing: a span is the trace that it belongs to, and nothing more. */
export const noTracing: Tracing = {
  begin(_name, options) {
    return trace.wrapSpanContext(parentOf(options) ?? newTrace());
  },
  async close() {},
};

function parentOf({ parent }: SpanOptions = {}): SpanContext | undefined {
  return parent === 'none' ? undefined : (parent ?? currentSpan()?.spanContext());
}

function newTrace(): SpanContext {
  const digits = randomBytes(24).toString('hex');
  return { traceId: digits.slice(0, 32), spanId: digits.slice(32), traceFlags: TraceFlags.NONE };
}

export interface TraceExport {
  /** Where spans are posted to, as OTLP in JSON. */
  readonly url: string;
  readonly serviceName: string;
  readonly serviceVersion: string;
  /** How many of the traces that begin here are recorded, from 0 to 1; others are as their parent says. */
  readonly sampledRatio: number;
  /** Told when spans could not be sent, once a minute at most; they are gone. */
  readonly onProblem: (what: string, cause: unknown) => void;
}

/** Spans that wait to be sent; what comes on top is dropped. A span takes about a kilobyte. */
const maxQueued = 8_192;
/** A batch of the relay links to each of its entries, a transaction to each of its PDUs. */
const maxLinks = 256;
const flushTimeoutMs = 3_000;
const complainEveryMs = 60_000;

/**
 * Records spans and posts them to a collector, in batches, behind everybody's back: what can't be sent is dropped, and
 * nothing waits for it. The libraries are loaded here and not before, so that a process without tracing never does.
 */
export async function openTracing(options: TraceExport): Promise<Tracing> {
  const [sdk, { OTLPTraceExporter }, { resourceFromAttributes }] = await Promise.all([
    import('@opentelemetry/sdk-trace-base'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/resources'),
  ]);
  const exporter = complaining(new OTLPTraceExporter({ url: options.url }), options.onProblem);
  const provider = new sdk.BasicTracerProvider({
    resource: resourceFromAttributes({
      'service.name': options.serviceName,
      'service.version': options.serviceVersion,
    }),
    sampler: new sdk.ParentBasedSampler({ root: new sdk.TraceIdRatioBasedSampler(options.sampledRatio) }),
    spanLimits: { linkCountLimit: maxLinks },
    spanProcessors: [new sdk.BatchSpanProcessor(exporter, { maxQueueSize: maxQueued })],
  });
  const tracer = provider.getTracer('exeunt', options.serviceVersion);
  return {
    begin(name, options = {}) {
      const { links = [], kind, attributes = {} } = options;
      const parent = parentOf(options);
      return tracer.startSpan(
        name,
        {
          attributes,
          links: links.map((context) => ({ context })),
          ...(kind === undefined ? {} : { kind }),
        },
        parent === undefined ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, parent),
      );
    },
    async close() {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, flushTimeoutMs)));
      // The exporter has said already why it could not.
      await Promise.race([provider.shutdown().catch(() => {}), late]);
      clearTimeout(timer);
    },
  };
}

/** The exporter, with somebody told when it fails: by itself it says so to nobody. */
function complaining(exporter: SpanExporter, onProblem: TraceExport['onProblem']): SpanExporter {
  let complainedAt = -Infinity;
  return {
    export(spans, done) {
      exporter.export(spans, (result) => {
        const now = performance.now();
        if (result.error !== undefined && now - complainedAt >= complainEveryMs) {
          complainedAt = now;
          onProblem('send spans to the collector', result.error);
        }
        done(result);
      });
    },
    shutdown: () => exporter.shutdown(),
    forceFlush: async () => exporter.forceFlush?.(),
  };
}
