import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseTraceparent, traceIdIn, traceparentOf } from './traceparent.js';

const traceId = '0af7651916cd43dd8448eb211c80319c';
const spanId = 'b7ad6b7169203331';

describe('a traceparent', () => {
  it.each([
    ['of a sampled trace', `00-${traceId}-${spanId}-01`, 1],
    ['of one that is not', `00-${traceId}-${spanId}-00`, 0],
    ['with flags that we do not know', `00-${traceId}-${spanId}-ff`, 1],
    ['of a later version', `01-${traceId}-${spanId}-01`, 1],
    ['of a later version that holds more', `cc-${traceId}-${spanId}-01-what-will-be`, 1],
  ])('%s is read', (_, text, traceFlags) => {
    expect(parseTraceparent(text)).toEqual({ traceId, spanId, traceFlags, isRemote: true });
    expect(traceIdIn(text)).toBe(traceId);
  });

  it.each([
    ['nothing', undefined],
    ['several headers', [`00-${traceId}-${spanId}-01`]],
    ['empty', ''],
    ['of version ff', `ff-${traceId}-${spanId}-01`],
    ['with more than version 00 has', `00-${traceId}-${spanId}-01-more`],
    ['in upper case', `00-${traceId.toUpperCase()}-${spanId}-01`],
    ['of a trace ID of zeroes', `00-${'0'.repeat(32)}-${spanId}-01`],
    ['of a span ID of zeroes', `00-${traceId}-${'0'.repeat(16)}-01`],
    ['too short', `00-${traceId.slice(1)}-${spanId}-01`],
    ['with a line break', `00-${traceId}-${spanId}-01\n`],
  ])('that is %s is none', (_, text) => {
    expect(parseTraceparent(text)).toBeUndefined();
  });

  it('that we write is read as it was meant', () => {
    const hex = (digits: number) =>
      fc
        .array(fc.constantFrom(...'0123456789abcdef'), { minLength: digits, maxLength: digits })
        .map((all) => all.join(''))
        .filter((text) => !/^0+$/.test(text));
    fc.assert(
      fc.property(hex(32), hex(16), fc.constantFrom(0, 1), (trace, span, traceFlags) => {
        const written = traceparentOf({ traceId: trace, spanId: span, traceFlags });
        expect(written).toHaveLength(55);
        expect(parseTraceparent(written)).toEqual({
          traceId: trace,
          spanId: span,
          traceFlags,
          isRemote: true,
        });
      }),
    );
  });
});
