import { describe, expect, it } from 'vitest';
import { readOutboundPdu, waitingSince } from './outbound-pdu.js';

const value = {
  room_id: '!a:us.test',
  room_version: '11',
  event_id: '$e:us.test',
  position: 3,
  origin: 'us.test',
  destinations: ['x.test', 'y.test:8448'],
  pdu: { type: 'm.room.member' },
};
const read = (change: object, headers: Record<string, string> = { ce_id: 'id' }) =>
  readOutboundPdu({ headers, value: JSON.stringify({ ...value, ...change }) });

describe('a message of outbound PDUs', () => {
  it('is read', () => {
    expect(read({})).toEqual({
      id: 'id',
      roomId: '!a:us.test',
      eventId: '$e:us.test',
      destinations: ['x.test', 'y.test:8448'],
      pdu: '{"type":"m.room.member"}',
    });
  });

  it('gives the PDU without loss: numbers, order of keys, escapes', () => {
    const pdu = '{"depth":9223372036854775807,"b":1.0,"a":"\\u0000","__proto__":{"x":-0}}';
    const text = JSON.stringify(value).replace('{"type":"m.room.member"}', pdu);
    expect(readOutboundPdu({ headers: { ce_id: 'id' }, value: text })).toMatchObject({ pdu });
  });

  it.each([
    ['no ce_id', {}, {}],
    ['a ce_id with NUL', {}, { ce_id: 'a\0' }],
    ['no room ID', { room_id: 'a' }, undefined],
    ['no event ID', { event_id: null }, undefined],
    ['no PDU', { pdu: [] }, undefined],
    ['no destinations', { destinations: [] }, undefined],
    ['destinations that are no list', { destinations: 'x.test' }, undefined],
    ['a destination that is no server name', { destinations: ['x.test', 'not a server'] }, undefined],
  ] as const)('with %s is unreadable', (_, change, headers) => {
    expect(read(change, headers)).toHaveProperty('unreadable');
  });

  it.each([
    ['2023-11-14T22:13:20.123Z', 1_700_000_000_123],
    ['2023-11-14T22:13:20Z', 1_700_000_000_000],
    ['2023-11-14T23:13:20.5+01:00', 1_700_000_000_500],
    ['1700000000000', undefined],
    ['1', undefined],
    ['yesterday', undefined],
    ['2023-13-45T99:99:99Z', undefined],
    ['2023-11-14 22:13:20', undefined],
    ['', undefined],
  ])('with the ce_time %j was accepted at %o', (ce_time, acceptedAt) => {
    expect(read({}, { ce_id: 'id', ce_time })).toEqual({
      ...read({}),
      ...(acceptedAt === undefined ? {} : { acceptedAt }),
    });
  });

  it.each(['', 'null', '[]', '{', '{"a":1,"a":2}'])('that is %j is unreadable', (text) => {
    expect(readOutboundPdu({ headers: { ce_id: 'id' }, value: text })).toHaveProperty('unreadable');
  });
});

describe('since when a PDU waits', () => {
  const now = 1_700_000_000_000;
  const day = 86_400_000;
  it.each([
    ['unknown', undefined, now],
    ['a second ago', now - 1_000, now - 1_000],
    ['now', now, now],
    ['weeks ago, after a long outage', now - 29 * day, now - 29 * day],
    ['a second from now: the other clock is ahead', now + 1_000, now],
    ['years from now', now + 3_000 * day, now],
    ['at the beginning of time', 0, now],
  ])('where it was accepted at a time that is %s', (_, acceptedAt, since) => {
    expect(waitingSince(acceptedAt, now)).toBe(since);
  });
});
