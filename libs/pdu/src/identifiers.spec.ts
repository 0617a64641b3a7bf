import { describe, expect, it } from 'vitest';
import {
  domainOfRoomId,
  eventIdOfReferenceHash,
  hostOf,
  isStrictUserId,
  isWithinIdentifierBytes,
  parseEventId,
  parseRoomId,
  parseServerName,
  parseUserId,
  portOf,
  serverNameOf,
} from './identifiers.js';
import { everyVersion, versionNamed } from './leave.fixture.js';

const hash43 = 'Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg';
const standardHash43 = 'acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk';

describe('server names', () => {
  it.each([
    ['matrix.org', 'matrix.org', undefined],
    ['Matrix.ORG:8448', 'Matrix.ORG', 8448],
    ['1.2.3.4:0', '1.2.3.4', 0],
    ['256.1.1.1', '256.1.1.1', undefined],
    ['a', 'a', undefined],
    ['a:99999', 'a', 99999],
    [`${'a'.repeat(255)}`, 'a'.repeat(255), undefined],
    ['[::]', '[::]', undefined],
    ['[::1]:443', '[::1]', 443],
    ['[1:2:3:4:5:6:7:8]', '[1:2:3:4:5:6:7:8]', undefined],
    ['[1:2:3:4:5:6:7::]', '[1:2:3:4:5:6:7::]', undefined],
    ['[::ffff:1.2.3.4]', '[::ffff:1.2.3.4]', undefined],
    ['[1:2:3:4:5:6:255.255.255.255]', '[1:2:3:4:5:6:255.255.255.255]', undefined],
    ['[ABCD:EF01:2345:6789:ABCD:EF01:2345:6789]:1', '[ABCD:EF01:2345:6789:ABCD:EF01:2345:6789]', 1],
  ])('takes %j', (text, host, port) => {
    const serverName = parseServerName(text);
    expect(serverName).toBe(text);
    if (serverName === undefined) return;
    expect(hostOf(serverName)).toBe(host);
    expect(portOf(serverName)).toBe(port);
  });

  it.each([
    '',
    ':',
    ':8448',
    'a:',
    'a:123456',
    'a:8a',
    'a:-1',
    'a: 1',
    'a:١',
    'a b',
    'a/b',
    'a_b',
    'a\n',
    'a:1\n',
    'é.example',
    'a:1:2',
    'a'.repeat(256),
    '[]',
    '[:]',
    '[:::]',
    '[::1',
    '::1',
    '[::1]8448',
    '[::1]:',
    '[::1]:x',
    '[1:2:3:4:5:6:7]',
    '[1:2:3:4:5:6:7:8:9]',
    '[1:2:3:4:5:6:7:8::]',
    '[1::2::3]',
    '[12345::]',
    '[g::]',
    '[:1::]',
    '[1::2:]',
    '[1.2.3.4]',
    '[1.2.3.4::]',
    '[::1.2.3.4:5]',
    '[::256.1.1.1]',
    '[::1.2.3]',
    '[fe80::1%eth0]',
    '[[::1]]',
  ])('refuses %j', (text) => {
    expect(parseServerName(text)).toBeUndefined();
  });
});

describe('user IDs', () => {
  it.each([
    ['@kim:leaver.test', 'leaver.test', true],
    ['@a.b_c=d-e/f+9:h', 'h', true],
    ['@kim:[::1]:8448', '[::1]:8448', true],
    ['@:h', 'h', false],
    ['@Kim Ng\t@!🦊:h:1', 'h:1', false],
  ])('takes %j', (text, server, isStrict) => {
    const userId = parseUserId(text);
    expect(userId).toBe(text);
    if (userId === undefined) return;
    expect(serverNameOf(userId)).toBe(server);
    expect(isStrictUserId(userId)).toBe(isStrict);
  });

  it.each([
    '',
    '@',
    '@:',
    'kim:h',
    '@kim',
    '@kim:',
    '@kim:h h',
    '@k:i:m:h',
    '@k\0m:h',
    '@k\ud800m:h',
    '$kim:h',
  ])('refuses %j', (text) => {
    expect(parseUserId(text)).toBeUndefined();
  });

  it('counts bytes, not characters', () => {
    expect(parseUserId(`@${'é'.repeat(126)}:h`)).toBeDefined();
    expect(parseUserId(`@${'é'.repeat(127)}:h`)).toBeUndefined();
    expect(isWithinIdentifierBytes('😀'.repeat(63))).toBe(true);
    expect(isWithinIdentifierBytes('😀'.repeat(64))).toBe(false);
    expect(isWithinIdentifierBytes('a'.repeat(255))).toBe(true);
    expect(isWithinIdentifierBytes('a'.repeat(256))).toBe(false);
  });
});

describe.each(everyVersion)('identifiers of room version $id', (version) => {
  const hasDomain = version.roomIdFormat === 'domain';
  const isOpaque = version.eventIdFormat === 'opaque-in-pdu';

  it.each(['!room:h', '!Ä b:h:1', '!r:[::1]'])('room ID %j', (text) => {
    expect(parseRoomId(text, version)).toBe(hasDomain ? text : undefined);
  });

  it('room ID made from a hash', () => {
    expect(parseRoomId(`!${hash43}`, version)).toBe(hasDomain ? undefined : `!${hash43}`);
  });

  it.each(['', '!', '!:h', '!room', '!room:', '!r\0m:h', `!${standardHash43}`, `!${hash43}x`, `$${hash43}`])(
    'no room ID %j',
    (text) => {
      expect(parseRoomId(text, version)).toBeUndefined();
    },
  );

  it('event ID with a domain', () => {
    expect(parseEventId('$opaque:h:1', version)).toBe(isOpaque ? '$opaque:h:1' : undefined);
  });

  it('event ID of a hash', () => {
    const isStandard = version.eventIdFormat === 'reference-hash';
    expect(parseEventId(`$${hash43}`, version) !== undefined).toBe(!isOpaque && !isStandard);
    expect(parseEventId(`$${standardHash43}`, version) !== undefined).toBe(isStandard);
  });

  it.each([
    '',
    '$',
    '$:h',
    '$e:',
    '$e',
    `$${hash43.slice(1)}`,
    `$${hash43}=`,
    `$${hash43}\n`,
    `!${hash43}`,
    '@e:h',
  ])('no event ID %j', (text) => {
    expect(parseEventId(text, version)).toBeUndefined();
  });

  it('event ID from a hash is one that it parses', () => {
    const make = () => eventIdOfReferenceHash(new Uint8Array(32).fill(0xff), version);
    if (isOpaque) expect(make).toThrow(TypeError);
    else expect(parseEventId(make(), version)).toBe(make());
  });
});

describe('identifiers where the room version is not known', () => {
  it.each(['!room:h', `!${hash43}`])('takes room ID %j', (text) => {
    expect(parseRoomId(text)).toBe(text);
  });

  it.each(['$opaque:h', `$${hash43}`, `$${standardHash43}`])('takes event ID %j', (text) => {
    expect(parseEventId(text)).toBe(text);
  });

  it.each(['', '!x', '!:h'])('refuses room ID %j', (text) => {
    expect(parseRoomId(text)).toBeUndefined();
  });

  it.each(['', '$x', '$:h'])('refuses event ID %j', (text) => {
    expect(parseEventId(text)).toBeUndefined();
  });
});

describe('the domain', () => {
  it('of an event ID of version 1 follows its first colon', () => {
    const eventId = parseEventId('$opaque:[::1]:8448', versionNamed('1'));
    expect(eventId && serverNameOf(eventId)).toBe('[::1]:8448');
  });

  it('is not to be asked of an event ID that is a hash', () => {
    const eventId = parseEventId(`$${hash43}`);
    expect(() => eventId && serverNameOf(eventId)).toThrow(TypeError);
  });

  it('of a room ID is absent since version 12', () => {
    const named = parseRoomId('!room:h:1');
    const hashed = parseRoomId(`!${hash43}`);
    expect(named && domainOfRoomId(named)).toBe('h:1');
    expect(hashed && domainOfRoomId(hashed)).toBeUndefined();
  });
});
