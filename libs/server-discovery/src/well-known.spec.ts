import { describe, expect, it } from 'vitest';
import {
  delegationLifetimeMs,
  faultLifetimeMs,
  readWellKnown,
  type CacheHeaders,
  type WellKnownAnswer,
} from './well-known.js';

const nowTs = Date.parse('2026-01-01T00:00:00Z');
const minute = 60_000;
const hour = 60 * minute;

describe('the body of a .well-known', () => {
  it.each([
    ['matrix.example.com'],
    ['matrix.example.com:443'],
    ['1.2.3.4'],
    ['[2606:4700::1]:8448'],
    ['MATRIX.Example.com'],
  ])('delegates to %s', (server) => {
    expect(readWellKnown(ok({ 'm.server': server, more: [1.5] }))).toEqual({ kind: 'delegated', server });
  });

  it.each<[string, string]>([
    ['not-json', ''],
    ['not-json', '<html>'],
    ['not-json', '{"m.server": "a.test"'],
    ['no-server', '[]'],
    ['no-server', 'null'],
    ['no-server', '"matrix.example.com"'],
    ['no-server', '{}'],
    ['no-server', '{"m.server": null}'],
    ['no-server', '{"m.server": 8448}'],
    ['no-server', '{"m.server": ["a.test"]}'],
    ['no-server', '{"m.server": {"host": "a.test"}}'],
    ['no-server', '{"m.server": ""}'],
    ['no-server', '{"m.server": "https://a.test"}'],
    ['no-server', '{"m.server": "a.test/path"}'],
    ['no-server', '{"m.server": " a.test"}'],
    ['no-server', '{"m.server": "a.test:0"}'],
    ['no-server', '{"m.server": "a.test:65536"}'],
    ['no-server', '{"m.server": "a.test:"}'],
    ['no-server', '{"m.server": "a.test:https"}'],
    ['no-server', '{"m.server": "user@a.test"}'],
    ['no-server', '{"m.server": "a.test\\r\\nHost: b.test"}'],
    ['no-server', '{"m.server": "b\\u00fccher.test"}'],
    ['no-server', '{"m.server": "[fe80::1%25eth0]"}'],
    ['no-server', '{"__proto__": {"m.server": "a.test"}}'],
  ])('is %s: %s', (fault, body) => {
    expect(readWellKnown(ok(body))).toEqual({ kind: 'none', fault });
  });

  it.each([201, 204, 304, 404, 500])('does not count with status %i', (status) => {
    expect(readWellKnown({ ...ok({ 'm.server': 'a.test' }), status })).toEqual({
      kind: 'none',
      fault: 'status',
    });
  });
});

describe('a delegation is kept', () => {
  it.each<[string, CacheHeaders, number]>([
    ['a day, where no header says how long', {}, 24 * hour],
    ['as max-age says', { cacheControl: 'public, max-age=7200' }, 2 * hour],
    ['as a quoted one says, in any case', { cacheControl: 'Max-Age="7200"' }, 2 * hour],
    ['for the shortest of several', { cacheControl: 'max-age=7200, max-age=3600' }, hour],
    ['less the time it lay in other caches', { cacheControl: 'max-age=7200', age: '3600' }, hour],
    ['at most 48 hours', { cacheControl: 'max-age=31536000' }, 48 * hour],
    [
      'at most 48 hours for a number beyond numbers',
      { cacheControl: `max-age=${'9'.repeat(400)}` },
      48 * hour,
    ],
    ['at least a minute', { cacheControl: 'max-age=0' }, minute],
    ['a minute, where it is not to be stored', { cacheControl: 'no-store, max-age=7200' }, minute],
    ['a minute, where it is not to be used unasked', { cacheControl: 'no-cache' }, minute],
    ['a minute, where max-age is no number', { cacheControl: 'max-age=soon' }, minute],
    ['a minute, where max-age is negative', { cacheControl: 'max-age=-5' }, minute],
    ['as Expires says', { expires: 'Thu, 01 Jan 2026 03:00:00 GMT' }, 3 * hour],
    [
      'as Expires says by the clock of the host',
      { expires: 'Thu, 01 Jan 2026 03:00:00 GMT', date: 'Thu, 01 Jan 2026 01:00:00 GMT' },
      2 * hour,
    ],
    ['a minute, where Expires is past', { expires: 'Thu, 01 Jan 1970 00:00:00 GMT' }, minute],
    ['a minute, where Expires is no date', { expires: '0x' }, minute],
    ['as max-age says, not Expires', { cacheControl: 'max-age=7200', expires: '0' }, 2 * hour],
    ['a day, where Cache-Control says nothing of it', { cacheControl: 'public, s-maxage=5' }, 24 * hour],
  ])('%s', (_, headers, expected) => expect(delegationLifetimeMs(headers, nowTs)).toBe(expected));
});

describe('that a host delegates nothing is kept', () => {
  it('a minute, and with each failure twice as long, up to an hour', () => {
    const lifetimes = [1, 2, 3, 4, 5, 6, 7, 8, 1000].map((failures) =>
      faultLifetimeMs(failures, 0, {}, nowTs),
    );
    expect(lifetimes.map((ms) => ms / minute)).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60]);
  });

  it('up to a quarter shorter, so that not all are asked at once', () => {
    expect(faultLifetimeMs(1, 0.999999, {}, nowTs)).toBeCloseTo(0.75 * minute, -1);
  });

  it('as its headers say, between our wait and an hour', () => {
    expect(faultLifetimeMs(1, 0, { cacheControl: 'max-age=600' }, nowTs)).toBe(10 * minute);
    expect(faultLifetimeMs(1, 0, { cacheControl: 'max-age=86400' }, nowTs)).toBe(hour);
    expect(faultLifetimeMs(3, 0, { cacheControl: 'no-store' }, nowTs)).toBe(4 * minute);
  });
});

function ok(body: object | string): Extract<WellKnownAnswer, { kind: 'answer' }> {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return { kind: 'answer', status: 200, headers: {}, body: Buffer.from(text) };
}
