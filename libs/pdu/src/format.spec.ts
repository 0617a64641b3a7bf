import { describe, expect, it } from 'vitest';
import {
  JsonNumber,
  parseJson,
  stringifyJson,
  withKeys,
  withoutKeys,
  type JsonObject,
} from '@exeunt/signing';
import { isPduFault, maxPduBytes, parsePdu, type ParsePduOptions, type PduFault } from './format.js';
import { eventIdOf, roomIdOfCreate } from './hashes.js';
import { everyVersion, leaveIn, referenceIn, versionNamed } from './leave.fixture.js';
import type { Pdu } from './pdu.js';
import type { RoomVersion } from '@exeunt/room-version';

function accepted(json: JsonObject, version: RoomVersion, options?: ParsePduOptions): Pdu {
  const result = parsePdu(json, version, options);
  if (isPduFault(result)) throw new Error(`${result.rule}: ${result.detail}`);
  return result;
}

function refused(json: JsonObject, version: RoomVersion): PduFault {
  const result = parsePdu(json, version);
  if (!isPduFault(result)) throw new Error('accepted');
  return result;
}

/** As it would come over the wire, numbers included. */
function received(text: string): JsonObject {
  return parseJson(text) as JsonObject;
}

describe.each(everyVersion)('a PDU of room version $id', (version) => {
  it('is read', () => {
    const json = leaveIn(version);
    expect(accepted(json, version)).toEqual({
      roomVersion: version,
      eventId: eventIdOf(json, version),
      roomId: json['room_id'],
      type: 'm.room.member',
      sender: '@kim:leaver.test',
      stateKey: '@kim:leaver.test',
      content: { membership: 'leave', reason: 'déjà vu' },
      prevEvents: [[referenceIn(version, 'p')].flat()[0]],
      authEvents: [[referenceIn(version, 'a')].flat()[0], [referenceIn(version, 'b')].flat()[0]],
      depth: 12,
      originServerTs: 1_700_000_000_000,
      json,
    });
  });

  it('has no stateKey unless it is a state event', () => {
    expect('stateKey' in accepted(withoutKeys(leaveIn(version), 'state_key'), version)).toBe(false);
    expect(accepted(leaveIn(version, { state_key: '' }), version).stateKey).toBe('');
  });

  it('is read without unsigned, and else as received', () => {
    const json = leaveIn(version, { junk: { unsigned: 1 }, origin: 'other.test' });
    expect(accepted(withKeys(json, { unsigned: { age: 5 } }), version).json).toEqual(json);
  });

  it.each([
    ['type', 'EV-01'],
    ['sender', 'EV-01'],
    ['content', 'EV-01'],
    ['origin_server_ts', 'EV-11'],
    ['depth', 'EV-06'],
    ['hashes', 'EV-01'],
    ['signatures', 'EV-01'],
    ['prev_events', 'EV-01'],
    ['auth_events', 'EV-01'],
    ['room_id', 'EV-02'],
  ])('needs %s', (field, rule) => {
    expect(refused(withoutKeys(leaveIn(version), field), version)).toMatchObject({ fault: 'format', rule });
    expect(refused(leaveIn(version, { [field]: null }), version)).toMatchObject({ fault: 'format', rule });
  });

  it.each<[string, JsonObject, string]>([
    ['state_key null', { state_key: null }, 'EV-09'],
    ['state_key a number', { state_key: 1 }, 'EV-09'],
    ['content an array', { content: [] }, 'EV-01'],
    ['hashes without sha256', { hashes: { md5: 'x' } }, 'EV-01'],
    ['sha256 a number', { hashes: { sha256: 1 } }, 'EV-01'],
    ['signatures of a server a string', { signatures: { h: 'x' } }, 'EV-01'],
    ['a signature a number', { signatures: { h: { 'ed25519:1': 1 } } }, 'EV-01'],
    ['a negative time', { origin_server_ts: -1 }, 'EV-11'],
    ['a time in a string', { origin_server_ts: '1' }, 'EV-11'],
    ['a negative depth', { depth: -1 }, 'EV-06'],
    ['a depth in a string', { depth: '3' }, 'EV-06'],
    ['a sender without domain', { sender: '@kim' }, 'ID-05'],
    ['a sender of an invalid server', { sender: '@kim:a_b' }, 'ID-05'],
    ['a room_id of no version', { room_id: '!room' }, 'ID-07'],
    ['a reference that is no ID', { prev_events: ['x'] }, 'EV-04'],
    ['a reference that is a number', { auth_events: [1] }, 'EV-04'],
    ['references in an object', { auth_events: {} }, 'EV-01'],
  ])('is refused for %s', (_, changes, rule) => {
    expect(refused(leaveIn(version, changes), version)).toMatchObject({ fault: 'format', rule });
  });

  it('takes the references of its own version only', () => {
    for (const other of everyVersion) {
      const result = parsePdu(leaveIn(version, { prev_events: [referenceIn(other, 'p')] }), version);
      expect(isPduFault(result)).toBe(other.referencesArePairs !== version.referencesArePairs);
    }
  });

  it.each([
    ['auth_events', 10],
    ['prev_events', 20],
  ] as const)('has a bounded number of %s, but for backfill', (field, limit) => {
    const references = Array.from('abcdefghijklmnopqrstu', (letter) => referenceIn(version, letter));
    const most = leaveIn(version, { [field]: references.slice(0, limit) });
    const tooMany = leaveIn(version, { [field]: references.slice(0, limit + 1) });
    accepted(most, version);
    expect(refused(tooMany, version)).toMatchObject({ fault: 'format', rule: 'EV-05' });
    accepted(tooMany, version, { boundReferences: false });
  });

  it.each(['type', 'state_key'])('has at most 255 bytes of %s', (field) => {
    accepted(leaveIn(version, { [field]: `${'é'.repeat(127)}a` }), version);
    const fault = refused(leaveIn(version, { [field]: 'é'.repeat(128) }), version);
    expect(fault).toMatchObject({ fault: 'too-large', rule: 'EV-08' });
  });

  it.each([
    ['sender', '@', ':h'],
    ['room_id', '!', ':h'],
    ['event_id', '$', ':h'],
  ])('has at most 255 bytes of %s', (field, sigil, domain) => {
    const fault = refused(leaveIn(version, { [field]: `${sigil}${'a'.repeat(253)}${domain}` }), version);
    expect(fault).toMatchObject({ fault: 'too-large', rule: 'EV-08' });
  });

  it('has at most 65536 bytes, signatures counted and unsigned not', () => {
    const signatures = { 'leaver.test': { 'ed25519:1': 's'.repeat(86) } };
    const base = leaveIn(version, { signatures, content: { membership: 'leave', reason: '' } });
    // Compact JSON has as many bytes as canonical JSON, in another order.
    const room = maxPduBytes - Buffer.byteLength(stringifyJson(base));
    const withReason = (length: number) =>
      withKeys(base, {
        content: { membership: 'leave', reason: 'x'.repeat(length) },
        unsigned: { a: 'x'.repeat(999) },
      });
    accepted(withReason(room), version);
    expect(refused(withReason(room + 1), version)).toMatchObject({ fault: 'too-large', rule: 'EV-07' });
  });

  it.each(['1.5', '1.0', '1e3', '-0', '9007199254740992', '-9007199254740992'])(
    'holds the number %s in content only where canonical JSON is not enforced',
    (source) => {
      const content = received(`{"membership":"leave","n":[{"deep":${source}}]}`);
      const result = parsePdu(leaveIn(version, { content }), version);
      if (version.strictCanonicalJson)
        expect(result).toMatchObject({ fault: 'canonical-json', rule: 'CJ-05' });
      else expect(isPduFault(result)).toBe(false);
    },
  );

  it('is refused for its numbers before anything else', () => {
    const json = leaveIn(version, { unsigned: { age: new JsonNumber('1.5') }, depth: '3' });
    expect(refused(json, version).fault).toBe(version.strictCanonicalJson ? 'canonical-json' : 'format');
  });

  it('has a depth of zero to the maximum', () => {
    accepted(leaveIn(version, { depth: 0 }), version);
    const { depth: most } = received(`{"depth":${version.maxDepth}}`);
    const { depth: more } = received(`{"depth":${version.maxDepth + 1n}}`);
    expect(accepted(leaveIn(version, { depth: most ?? null }), version).depth).toEqual(most);
    refused(leaveIn(version, { depth: more ?? null }), version);
  });

  it.each(['1.0', '1e3', '-0', '-9007199254740993', '9'.repeat(20)])(
    'is refused for the depth %s',
    (source) => {
      refused(leaveIn(version, { depth: new JsonNumber(source) }), version);
    },
  );

  it('is refused for an origin_server_ts past 2^53-1', () => {
    refused(leaveIn(version, { origin_server_ts: new JsonNumber('9007199254740992') }), version);
  });
});

describe.each(['1', '2'])('the event ID in room version %s', (id) => {
  const version = versionNamed(id);

  it.each<[string | null, string]>([
    [null, 'EV-03'],
    ['$leave', 'ID-09'],
    [`$${'a'.repeat(43)}`, 'ID-09'],
  ])('is refused as %j', (eventId, rule) => {
    expect(refused(leaveIn(version, { event_id: eventId }), version)).toMatchObject({
      fault: 'format',
      rule,
    });
  });

  it.each([
    [['$p:h']],
    [['$p:h', { sha256: 'x' }, 1]],
    [['$p:h', []]],
    [['$p:h', { sha256: 1 }]],
    [[`$${'a'.repeat(43)}`, { sha256: 'x' }]],
  ])('is not cited as %j', (reference) => {
    expect(refused(leaveIn(version, { prev_events: [reference] }), version).rule).toBe('EV-04');
  });

  it('is cited without a hash by Synapse, for events that it made in one batch', () => {
    expect(accepted(leaveIn(version, { prev_events: [['$p:h', {}]] }), version).prevEvents).toEqual(['$p:h']);
  });
});

describe('a stray event_id from version 3 on', () => {
  it.each(['3', '11', '12'])('changes the ID in version %s', (id) => {
    const version = versionNamed(id);
    const pdu = accepted(leaveIn(version, { event_id: '$stray:h' }), version);
    expect(pdu.json['event_id']).toBe('$stray:h');
    expect(pdu.eventId).not.toBe(accepted(leaveIn(version), version).eventId);
  });
});

describe('the room ID in the event', () => {
  const hash = `!${'c'.repeat(43)}`;
  it.each(everyVersion)('version $id refuses that of other versions', (version) => {
    const other = version.roomIdFormat === 'domain' ? hash : '!room:resident.test';
    expect(refused(leaveIn(version, { room_id: other }), version).rule).toBe('ID-07');
  });

  const create = { type: 'm.room.create', state_key: '', content: {}, prev_events: [], auth_events: [] };

  it('of a create event is computed in version 12, and must not be there', () => {
    const version = versionNamed('12');
    const json = withoutKeys(leaveIn(version, create), 'room_id');
    const pdu = accepted(json, version);
    expect(pdu.roomId).toBe(roomIdOfCreate(json, version));
    expect(pdu.roomId.slice(1)).toBe(pdu.eventId.slice(1));
    expect(refused(leaveIn(version, create), version).rule).toBe('EV-02');
  });

  it('of a create event is needed up to version 11', () => {
    const version = versionNamed('11');
    accepted(leaveIn(version, create), version);
    expect(refused(withoutKeys(leaveIn(version, create), 'room_id'), version).rule).toBe('EV-02');
  });
});
