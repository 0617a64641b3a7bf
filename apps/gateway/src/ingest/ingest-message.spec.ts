import { describe, expect, it } from 'vitest';
import type { ServerName } from '@exeunt/pdu';
import { stringifyJson, withKeys, type JsonObject, type JsonValue } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../../test/harness/room-builder.js';
import { maxPdus, readIngestMessage } from './ingest-message.js';

const us = paperServer('us.test');
const peer = paperServer('peer.test');
const bob = '@bob:us.test';
const builder = new RoomBuilder({
  version: '11',
  servers: [us, peer],
  creator: '@ian:peer.test',
  joinRule: 'knock',
});
const { json: event, eventId } = builder.member(bob, 'knock');
const { roomId } = builder;

const headers = {
  ce_specversion: '1.0',
  ce_id: 'one',
  ce_source: '/platform/knocks',
  'content-type': 'application/json; charset=utf-8',
};
const read = (
  type: string,
  value: JsonValue,
  more: { key?: string; headers?: Record<string, string> } = {},
) =>
  readIngestMessage(
    {
      key: more.key ?? roomId,
      headers: { ...headers, ce_type: `exeunt.ingest-${type}.v1`, ...more.headers },
      value: stringifyJson(value),
    },
    'us.test' as ServerName,
  );
const knock = (more: JsonObject = {}): JsonObject => ({
  user_id: bob,
  room_id: roomId,
  via: ['peer.test'],
  ...more,
});

describe('a knock', () => {
  it('is known by the ID that its event has in its version', () => {
    const state = builder.pdus.map(({ json }) => json);
    const told = knock({ room_version: '11', event, knock_room_state: [...state, 'no event'] });
    expect(read('knock', told)).toEqual({
      type: 'exeunt.ingest-knock.v1',
      roomId,
      userId: bob,
      knock: {
        knockId: eventId,
        eventId,
        roomVersion: '11',
        via: ['peer.test'],
        pdu: event,
        knockRoomState: state,
      },
    });
  });

  it('of which less is told is known by the message that told of it', () => {
    expect(read('knock', knock({ via: ['peer.test', 'q.test', 'peer.test'], event_id: null }))).toMatchObject(
      {
        knock: { knockId: '/platform/knocks one', via: ['peer.test', 'q.test'], knockRoomState: [] },
      },
    );
    expect(read('knock', knock({ event_id: eventId }))).toMatchObject({ knock: { knockId: eventId } });
  });

  it.each<[string, JsonObject, string]>([
    ['another user’s', knock({ user_id: '@ann:us.test', event }), 'KN-02'],
    ['not in the room', knock({ event: withKeys(event, { room_id: '!other:x.test' }) }), 'KN-02'],
    [
      'not well formed in its version',
      knock({ room_version: '11', event: withKeys(event, { depth: -1 }) }),
      'EV-06',
    ],
    [
      'not the one of the stated ID',
      knock({ room_version: '11', event, event_id: `$${'A'.repeat(43)}` }),
      'SG-03',
    ],
    ['larger than an event may be', knock({ event: withKeys(event, { more: 'x'.repeat(70_000) }) }), 'EV-07'],
    ['no object', knock({ event: [] }), 'event is not an object'],
  ])('whose event is %s is refused', (_, value, reason) => {
    expect(read('knock', value)).toEqual({ unreadable: expect.stringContaining(reason) });
  });

  it.each<[string, JsonObject, string]>([
    ['no user', knock({ user_id: 7 }), 'user_id'],
    ['no server', knock({ via: ['not a server'] }), 'ID-01'],
    [
      'more servers than anybody asks',
      knock({ via: Array.from({ length: 101 }, (_, at) => `s${at}.test`) }),
      'via',
    ],
    ['an ID that is none', knock({ event_id: 'knock' }), 'ID-09'],
    ['a version that nobody knows', knock({ room_version: '99' }), 'RV-04'],
    ['state that is no list', knock({ knock_room_state: {} }), 'knock_room_state'],
  ])('with %s is refused', (_, value, reason) => {
    expect(read('knock', value)).toEqual({ unreadable: expect.stringContaining(reason) });
  });
});

describe('PDUs', () => {
  it('come in any number up to the limit, with keys or without', () => {
    expect(read('pdus', { room_id: roomId, pdus: [event], server_keys: [{}] })).toEqual({
      type: 'exeunt.ingest-pdus.v1',
      roomId,
      pdus: [event],
      serverKeys: [{}],
    });
    const many = (count: number) => Array.from({ length: count }, () => ({}));
    expect(read('pdus', { room_id: roomId, pdus: many(maxPdus) })).toMatchObject({ serverKeys: [] });
    expect(read('pdus', { room_id: roomId, pdus: many(maxPdus + 1) })).toMatchObject({
      unreadable: expect.stringContaining('more than'),
    });
    expect(read('pdus', { room_id: roomId, pdus: [], server_keys: many(1_001) })).toMatchObject({
      unreadable: expect.stringContaining('server_keys'),
    });
    expect(read('pdus', { room_id: roomId, pdus: ['no object'] })).toMatchObject({
      unreadable: expect.stringContaining('not a PDU'),
    });
  });

  it('of 100 levels fit into the message', () => {
    const deep = JSON.parse(`${'['.repeat(99)}${']'.repeat(99)}`) as JsonValue;
    expect(read('pdus', { room_id: roomId, pdus: [{ deep }] })).toMatchObject({ pdus: [{ deep }] });
    const deeper = JSON.parse(`${'['.repeat(200)}${']'.repeat(200)}`) as JsonValue;
    expect(read('pdus', { room_id: roomId, pdus: [{ deeper }] })).toMatchObject({
      unreadable: expect.stringContaining('too-deep'),
    });
  });
});

describe('the envelope', () => {
  it.each<[string, Record<string, string>]>([
    ['ce_specversion', { ce_specversion: '0.3' }],
    ['ce_id', { ce_id: '' }],
    ['ce_source', { ce_source: 'a\0b' }],
    ['content-type', { 'content-type': 'application/json5' }],
    ['type', { ce_type: 'toString' }],
  ])('with a wrong %s is refused', (name, wrong) => {
    expect(read('knock', knock(), { headers: wrong })).toEqual({ unreadable: expect.stringContaining(name) });
  });

  it.each(['', 'room', '!room', '@bob:us.test', `!${'x'.repeat(300)}:y`])(
    'with the key %j is refused',
    (key) => {
      expect(read('knock', knock(), { key })).toEqual({ unreadable: 'the key is not a room ID' });
    },
  );

  it('of another room than the value’s is refused, or a room would have no order', () => {
    expect(read('knock', knock(), { key: '!other:x.test' })).toEqual({
      unreadable: 'the key is not the room_id of the value',
    });
  });
});
