import { describe, expect, it } from 'vitest';
import { readOutboundPdu } from './outbound-pdu.js';

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

  it.each(['', 'null', '[]', '{', '{"a":1,"a":2}'])('that is %j is unreadable', (text) => {
    expect(readOutboundPdu({ headers: { ce_id: 'id' }, value: text })).toHaveProperty('unreadable');
  });
});
