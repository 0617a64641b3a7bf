import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventIdOf, serverNameOf, type UserId } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import {
  encodeCanonicalJson,
  isJsonObject,
  JsonNumber,
  parseJson,
  signRequest,
  stringifyJson,
  withKeys,
  withoutKeys,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import { asking } from '../harness/asking-history.js';
import { citing } from '../harness/citing.js';
import { importOf, importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { jsonMutations, mutated, type JsonMutation } from '../harness/json-mutations.js';
import { federationUri, makeLeave, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { sendRaw } from '../harness/raw-request.js';
import { startRemoteServer, type PeerResponse, type RemoteServer } from '../harness/remote-server.js';

let ours: LeaveServer;
let leaver: RemoteServer;

beforeAll(async () => {
  // A mutated name may lead anywhere: nobody waits long for it.
  ours = await startLeaveServer({ environment: { EXEUNT_FEDERATION_TIMEOUT_MS: '500' } });
  leaver = await startRemoteServer({ host: '127.0.0.2' });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), leaver?.close()]);
});

const user = (at: number): string => `@user${at}:${leaver.name}`;

function invitedRoom(version: string, users = 1): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [leaver],
    grow(builder, alice) {
      for (let at = 0; at < users; at++) builder.member(user(at), 'invite', alice);
    },
  });
}

async function templateOf(room: ImportedRoom, who = user(0)): Promise<JsonObject> {
  const made = await makeLeave(leaver, ours, room.roomId, who);
  expect(made.status, made.body.toString()).toBe(200);
  return (made.json as JsonObject)['event'] as JsonObject;
}

const error = (errcode: string, rule?: string): unknown =>
  rule === undefined
    ? expect.objectContaining({ errcode, error: expect.any(String) })
    : { errcode, error: expect.any(String), rule };

/** What is signed, as text, and then sent as other bytes. */
function putBytes(room: ImportedRoom, rawBody: string | Uint8Array, eventId = `$${'a'.repeat(43)}`) {
  return leaver.request({
    method: 'PUT',
    uri: federationUri('v2/send_leave', room.roomId, eventId),
    destination: ours.name,
    baseUrl: ours.federationUrl,
    body: {},
    overrides: { rawBody },
  });
}

describe('a body', () => {
  let room: ImportedRoom;
  beforeAll(async () => {
    room = await invitedRoom('11');
  });

  const nested = (depth: number): string => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`;
  it.each(
    citing<[string, string | Uint8Array, string, string]>(3, [
      ['that is empty', '', 'M_NOT_JSON', 'HT-04'],
      ['of blanks', ' \n', 'M_NOT_JSON', 'HT-04'],
      ['that is cut off', '{"a":', 'M_NOT_JSON', 'HT-04'],
      ['with something after it', '{} {}', 'M_NOT_JSON', 'HT-04'],
      ['that is a list', '[]', 'M_BAD_JSON', 'HT-01'],
      ['that is a text', '"{}"', 'M_BAD_JSON', 'HT-01'],
      ['that is a number', '1', 'M_BAD_JSON', 'HT-01'],
      ['that is null', 'null', 'M_BAD_JSON', 'HT-01'],
      ['with single quotes', "{'a':1}", 'M_NOT_JSON', 'HT-04'],
      ['with a comma too many', '{"a":1,}', 'M_NOT_JSON', 'HT-04'],
      ['with a comment', '{/**/}', 'M_NOT_JSON', 'HT-04'],
      ['with NaN', '{"a":NaN}', 'M_NOT_JSON', 'HT-04'],
      ['with a leading zero', '{"a":01}', 'M_NOT_JSON', 'HT-04'],
      ['with a raw NUL in a text', '{"a":"\0"}', 'M_NOT_JSON', 'HT-04'],
      ['in UTF-16', Buffer.from('{"a":1}', 'utf16le'), 'M_NOT_JSON', 'HT-04'],
      ['with a byte order mark', '\ufeff{}', 'M_NOT_JSON', 'HT-04'],
      ['that is not UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), 'M_NOT_JSON', 'HT-04'],
      ['with a surrogate in UTF-8', Buffer.from('7b2261223a22eda080227d', 'hex'), 'M_NOT_JSON', 'HT-04'],
      ['with half a surrogate pair, escaped', '{"a":"\\ud800"}', 'M_BAD_JSON', 'CJ-08'],
      ['with half a surrogate pair in a key', '{"\\udfff":1}', 'M_BAD_JSON', 'CJ-08'],
      ['with a key given twice', '{"a":1,"a":1}', 'M_BAD_JSON', 'CJ-07'],
      ['with a key given twice, once escaped', '{"a":1,"\\u0061":2}', 'M_BAD_JSON', 'CJ-07'],
      ['with __proto__ given twice', '{"__proto__":1,"__proto__":2}', 'M_BAD_JSON', 'CJ-07'],
      ['nested 200 deep', nested(200), 'M_BAD_JSON', 'CJ-07'],
      ['nested 10,000 deep', nested(10_000), 'M_BAD_JSON', 'CJ-07'],
      ['nested a million deep', '['.repeat(1_000_000), 'M_BAD_JSON', 'CJ-07'],
    ]),
  )('%s is refused (HT-01, HT-04)', async (_, bytes, errcode, rule) => {
    const before = await room.position();
    const answer = await putBytes(room, bytes);
    expect([answer.status, answer.json]).toEqual([400, error(errcode, rule)]);
    expect(answer.headers['content-type']).toMatch(/^application\/json/);
    expect(await room.position()).toBe(before);
  });

  const mebibyte = 1024 * 1024;
  const tooLarge = { errcode: 'M_TOO_LARGE', error: expect.any(String), rule: 'HT-05' };

  it('of 7 MB is read, as a transaction may be that long, and one of 9 MB is not (HT-05)', async () => {
    const text = (megabytes: number): string => `{"a":"${'x'.repeat(megabytes * mebibyte)}"}`;
    const before = await room.position();
    const fits = await putBytes(room, text(7));
    expect([fits.status, fits.json]).toEqual([401, error('M_UNAUTHORIZED', 'RA-02')]);
    const uri = federationUri('v2/send_leave', room.roomId, `$${'a'.repeat(43)}`);
    const head = `PUT ${uri} HTTP/1.1\r\nHost: ${ours.name}\r\n`;
    const declared = await sendRaw(ours.federationUrl, [
      `${head}Content-Length: ${9 * mebibyte}\r\n\r\n{"a":`,
    ]);
    expect([declared.status, declared.json]).toEqual([413, tooLarge]);
    expect(await room.position()).toBe(before);
  });

  it('in chunks, 9 MB of them and nothing said before, is cut off (HT-05)', async () => {
    const uri = federationUri('v2/send_leave', room.roomId, `$${'a'.repeat(43)}`);
    const head = `PUT ${uri} HTTP/1.1\r\nHost: ${ours.name}\r\nTransfer-Encoding: chunked\r\n\r\n`;
    const chunk = `${(64 * 1024).toString(16)}\r\n${'x'.repeat(64 * 1024)}\r\n`;
    const answer = await sendRaw(ours.federationUrl, [head, ...Array.from({ length: 144 }, () => chunk)]);
    expect([answer.status, answer.json]).toEqual([413, tooLarge]);
  });
});

describe('what is no proper request', () => {
  const get = (target: string, headers = ''): string =>
    `GET ${target} HTTP/1.1\r\nHost: ${ours.name}\r\nConnection: close\r\n${headers}\r\n`;
  const version = '/_matrix/federation/v1/version';

  it.each<[string, () => string | Buffer, number, string]>([
    ['no HTTP', () => 'hello\r\n\r\n', 400, 'M_UNKNOWN'],
    ['an unknown method', () => get(version).replace('GET', 'FROB'), 400, 'M_UNKNOWN'],
    ['a header with a NUL', () => get(version, 'X: a\0b\r\n'), 400, 'M_UNKNOWN'],
    ['a header without a colon', () => get(version, 'nonsense\r\n'), 400, 'M_UNKNOWN'],
    ['two lengths', () => get(version, 'Content-Length: 1\r\nContent-Length: 2\r\n'), 400, 'M_UNKNOWN'],
    ['a length that is no number', () => get(version, 'Content-Length: x\r\n'), 400, 'M_UNKNOWN'],
    ['100 kB of headers', () => get(version, `X: ${'x'.repeat(100_000)}\r\n`), 431, 'M_TOO_LARGE'],
    ['a target of 100 kB', () => get(`/${'a'.repeat(100_000)}`), 431, 'M_TOO_LARGE'],
    [
      'a target in absolute form for nothing',
      () => get(`https://${ours.name}/nothing`),
      404,
      'M_UNRECOGNIZED',
    ],
    ['a target that is no path', () => get('nothing'), 400, 'M_UNKNOWN'],
    ['a target of raw bytes', () => Buffer.from(get('/_matrix/\xff\xfe'), 'latin1'), 400, 'M_UNKNOWN'],
    ['two slashes', () => get('//_matrix/federation/v1/version'), 404, 'M_UNRECOGNIZED'],
    ['a slash at the end', () => get(`${version}/`), 404, 'M_UNRECOGNIZED'],
    ['a way out of the path', () => get('/_matrix/../etc/passwd'), 404, 'M_UNRECOGNIZED'],
    ['a path in capitals', () => get(version.toUpperCase()), 404, 'M_UNRECOGNIZED'],
    ['another API', () => get('/_matrix/client/versions'), 404, 'M_UNRECOGNIZED'],
    ['the platform API', () => get('/v1/rooms'), 404, 'M_UNRECOGNIZED'],
    ['DELETE', () => get(version).replace('GET', 'DELETE'), 405, 'M_UNRECOGNIZED'],
    ['PATCH', () => get(version).replace('GET', 'PATCH'), 405, 'M_UNRECOGNIZED'],
    ['OPTIONS', () => get(version).replace('GET', 'OPTIONS'), 405, 'M_UNRECOGNIZED'],
    ['PROPFIND', () => get(version).replace('GET', 'PROPFIND'), 405, 'M_UNRECOGNIZED'],
    ['a bad escape', () => get('/_matrix/federation/v1/make_leave/%/%40a%3Ab'), 400, 'M_INVALID_PARAM'],
    ['a bad escape of an unknown path', () => get('/_matrix/%'), 400, 'M_INVALID_PARAM'],
  ])('%s is answered with a Matrix error (HT-02, HT-03, HT-04)', async (_, make, status, errcode) => {
    const answer = await sendRaw(ours.federationUrl, [make()]);
    expect([answer.status, answer.json], answer.head).toEqual([status, error(errcode)]);
    expect(answer.head).toMatch(/\r\ncontent-type: application\/json/i);
  });

  it('and everything else is answered after it', async () => {
    const answer = await sendRaw(ours.federationUrl, [get(version)]);
    expect([answer.status, answer.json]).toMatchObject([200, { server: { name: 'Exeunt' } }]);
  });
});

describe('a path', () => {
  let room: ImportedRoom;
  beforeAll(async () => {
    room = await invitedRoom('11');
  });
  const long = (bytes: number, sigil: string): string => {
    const domain = `:${leaver.name}`;
    return `${sigil}${'a'.repeat(bytes - 1 - domain.length)}${domain}`;
  };

  it.each<[string, () => string, string, number]>([
    ['no sigil', () => 'user', 'ID-05', 400],
    ['no domain', () => '@user', 'ID-05', 400],
    ['another sigil', () => `#user:${leaver.name}`, 'ID-05', 400],
    ['a bad server name', () => '@user:exa mple', 'ID-05', 400],
    ['a bad port', () => '@user:127.0.0.2:http', 'ID-05', 400],
    ['an IPv6 address without brackets', () => '@user:::1', 'ID-05', 400],
    ['a NUL', () => `@us\0er:${leaver.name}`, 'ID-05', 400],
    ['256 bytes', () => long(256, '@'), 'ID-05', 400],
    ['256 bytes of two each', () => `@${'é'.repeat(125)}:${leaver.name}`, 'ID-05', 400],
    ['255 bytes, which nobody has', () => long(255, '@'), 'AU-20', 403],
    ['a historical localpart, which nobody has', () => `@A b\u0001/é:${leaver.name}`, 'AU-20', 403],
    ['an empty localpart, which nobody has', () => `@:${leaver.name}`, 'AU-20', 403],
    ['dots alone', () => '..', 'ID-05', 400],
    ['__proto__', () => '__proto__', 'ID-05', 400],
  ])('with a user ID of %s (ID-05, ML-17)', async (_, userId, rule, status) => {
    const answer = await makeLeave(leaver, ours, room.roomId, userId());
    expect([answer.status, answer.json]).toEqual([
      status,
      error(status === 400 ? 'M_INVALID_PARAM' : 'M_FORBIDDEN', rule),
    ]);
  });

  it.each<[string, () => string, number]>([
    ['no sigil', () => 'room', 400],
    ['a user ID', () => user(0), 400],
    ['an empty localpart', () => `!:${ours.name}`, 400],
    ['a NUL', () => `!ro\0om:${ours.name}`, 400],
    ['256 bytes', () => long(256, '!'), 400],
    ['42 characters of base64', () => `!${'a'.repeat(42)}`, 400],
    ['43 characters of base64, that nobody knows', () => `!${'a'.repeat(43)}`, 404],
    ['a name that nobody knows', () => `!${'é'.repeat(50)}:${ours.name}`, 404],
  ])('with a room ID of %s (ID-07, ID-08, ML-17)', async (_, roomId, status) => {
    for (const answer of [
      await makeLeave(leaver, ours, roomId(), user(0)),
      await sendLeave(leaver, ours, { roomId: roomId(), eventId: `$${'a'.repeat(43)}`, event: {} }),
    ]) {
      expect([answer.status, answer.json]).toEqual([
        status,
        status === 400 ? error('M_INVALID_PARAM', 'ID-07') : error('M_NOT_FOUND', 'ML-16'),
      ]);
    }
  });

  it.each<[string, () => string]>([
    ['nothing of one', () => 'event'],
    ['no domain and no hash', () => '$event'],
    ['an empty name', () => `$:${leaver.name}`],
    ['a NUL', () => `$e\0:${leaver.name}`],
    ['256 bytes', () => long(256, '$')],
    ['44 characters of base64', () => `$${'a'.repeat(44)}`],
  ])('with an event ID of %s (ID-09)', async (_, eventId) => {
    const leave = signTemplate(leaver, '11', await templateOf(room));
    const answer = await sendLeave(leaver, ours, { ...leave, eventId: eventId() });
    expect([answer.status, answer.json]).toEqual([400, error('M_INVALID_PARAM', 'ID-09')]);
  });

  it('with an ID of 10,000 bytes is refused (ID-12)', async () => {
    const answer = await makeLeave(leaver, ours, room.roomId, `@${'a'.repeat(10_000)}:x`);
    expect([answer.status, answer.json]).toEqual([400, error('M_INVALID_PARAM')]);
  });

  it('with an empty part is no endpoint (HT-03)', async () => {
    const answer = await makeLeave(leaver, ours, '', user(0));
    expect([answer.status, answer.json]).toMatchObject([404, { errcode: 'M_UNRECOGNIZED' }]);
  });
});

describe('a question about the past', () => {
  let room: ImportedRoom;
  let known: string;
  beforeAll(async () => {
    room = await importRoom(ours, {
      version: '11',
      peers: [leaver],
      grow: (builder) => void builder.member(user(0), 'join'),
    });
    known = room.builder.pdus.at(-1)!.eventId;
  });
  const get = (endpoint: string, query: string) =>
    leaver.request({
      method: 'GET',
      uri: `${federationUri(`v1/${endpoint}`, room.roomId)}${query}`,
      destination: ours.name,
      baseUrl: ours.federationUrl,
    });
  const many = (count: number): string[] =>
    Array.from({ length: count }, (_, at) => `$${String(at).padStart(43, 'a')}`);
  const invalid = 'M_INVALID_PARAM';
  const missing = 'M_MISSING_PARAM';

  it.each<[string, () => string, string]>([
    ['nothing', () => '', missing],
    ['no limit', () => `?v=${known}`, missing],
    ['no event', () => '?limit=10', missing],
    ['an empty event', () => '?v=&limit=10', invalid],
    ['what is no event ID', () => '?v=event&limit=10', invalid],
    ['what is none beside one', () => `?v=${known}&v=%00&limit=10`, invalid],
    [
      '101 events',
      () =>
        `?${many(101)
          .map((id) => `v=${id}&`)
          .join('')}limit=10`,
      invalid,
    ],
    ...['0', '-1', '1.5', '1e3', 'ten', '', '%2B1', '9'.repeat(16)].map(
      (limit): [string, () => string, string] => [
        `the limit ${limit}`,
        () => `?v=${known}&limit=${limit}`,
        invalid,
      ],
    ),
  ])('is refused for backfill with %s (FE-04)', async (_, query, errcode) => {
    const answer = await get('backfill', query());
    expect([answer.status, answer.json]).toMatchObject([400, { errcode }]);
  });

  it.each(['state', 'state_ids'])(
    'is refused for %s without an event ID, or with none (FE-05)',
    async (endpoint) => {
      for (const [query, errcode] of [
        ['', missing],
        ['?event_id', invalid],
        ['?event_id=', invalid],
        ['?event_id=event', invalid],
        [`?event_id=${known}%00`, invalid],
      ] as const) {
        const answer = await get(endpoint, query);
        expect([query, answer.status, answer.json]).toMatchObject([query, 400, { errcode }]);
      }
    },
  );

  it.each<[string, JsonObject, string]>([
    ['no latest_events', { earliest_events: [] }, missing],
    ['no earliest_events', { latest_events: [] }, missing],
    ['latest_events that are no list', { latest_events: '$a', earliest_events: [] }, invalid],
    ['earliest_events that are no list', { latest_events: [], earliest_events: {} }, invalid],
    ['a latest event that is no text', { latest_events: [1], earliest_events: [] }, invalid],
    ['a latest event that is no event ID', { latest_events: ['x'], earliest_events: [] }, invalid],
    ['an earliest event that is none', { latest_events: [], earliest_events: [null] }, invalid],
    ['101 latest events', { latest_events: many(101), earliest_events: [] }, invalid],
    ...[-1, '10', null, [], {}, true, parseJson('1.5'), parseJson('1e3'), parseJson('-0')].flatMap(
      (value): [string, JsonObject, string][] =>
        ['limit', 'min_depth'].map((key) => [
          `the ${key} ${stringifyJson(value)}`,
          { latest_events: [], earliest_events: [], [key]: value },
          invalid,
        ]),
    ),
  ])('is refused for get_missing_events with %s (FE-03)', async (_, body, errcode) => {
    const answer = await leaver.request({
      method: 'POST',
      uri: federationUri('v1/get_missing_events', room.roomId),
      destination: ours.name,
      baseUrl: ours.federationUrl,
      body,
    });
    expect([answer.status, answer.json]).toMatchObject([400, { errcode }]);
  });

  it('may name more than there is, and of other rooms, and gets what there is of this room (FE-03, FE-04)', async () => {
    const other = await invitedRoom('11');
    const foreign = other.builder.pdus.at(-1)!.eventId;
    const ask = asking(leaver, ours, room.roomId);
    for (const from of [[foreign], many(100)]) {
      expect((await ask.backfill(from, '999999999999999')).json).toMatchObject({ pdus: [] });
      expect((await ask.missing(from, { limit: Number.MAX_SAFE_INTEGER })).json).toEqual({ events: [] });
    }
    const earliest_events = [...many(5_000), known];
    expect((await ask.missing([known], { earliest_events })).json).toEqual({ events: [] });
    const tooDeep = { min_depth: new JsonNumber('9223372036854775807') };
    expect((await ask.missing([known], tooDeep)).json).toEqual({ events: [] });
    for (const answer of [
      await ask.state(foreign),
      await ask.stateIds(foreign),
      await ask.eventAuth(foreign),
    ]) {
      expect([answer.status, answer.json]).toEqual([404, error('M_NOT_FOUND', 'FE-05')]);
    }
  });
});

describe.each(['1', '5', '11', '12'])('a PDU in a room of version %s', (version) => {
  const rules = roomVersion(version)!;
  let room: ImportedRoom;
  let template: JsonObject;
  beforeAll(async () => {
    room = await invitedRoom(version, 8);
    template = await templateOf(room);
  });

  /** Signs what is asked for, whatever it is, and hands it in under its own ID. */
  async function submit(make: (good: JsonObject) => JsonObject): Promise<PeerResponse> {
    const good = signTemplate(leaver, version, template);
    const bare = withoutKeys(good.event, 'hashes', 'signatures');
    const event = leaver.signPdu(make(bare), version);
    return hand(event, good.eventId);
  }
  /** Hands in what is made of a good, signed event. */
  function submitUnsigned(make: (good: JsonObject) => JsonObject): Promise<PeerResponse> {
    const good = signTemplate(leaver, version, template);
    return hand(make(good.event), good.eventId);
  }
  function hand(event: JsonObject, otherwise: string): Promise<PeerResponse> {
    let eventId = otherwise;
    try {
      eventId = eventIdOf(event, rules);
    } catch {
      // It has none, so it comes under the ID of what it was made from.
    }
    return sendLeave(leaver, ours, { roomId: room.roomId, eventId, event });
  }
  async function expectRefused(answer: Promise<PeerResponse>, errcodes: readonly string[]): Promise<void> {
    const before = await room.position();
    const { status, json, body } = await answer;
    expect([400, 413], body.toString()).toContain(status);
    expect(errcodes).toContain((json as JsonObject)['errcode']);
    expect(json).toMatchObject({ error: expect.any(String), rule: expect.any(String) });
    expect(await room.position()).toBe(before);
  }
  const badJson = ['M_BAD_JSON'];
  const invalid = ['M_INVALID_PARAM'];

  it.each([
    'sender',
    'origin_server_ts',
    'type',
    'content',
    'depth',
    'auth_events',
    'prev_events',
    'room_id',
    ...(rules.eventIdFormat === 'opaque-in-pdu' ? ['event_id'] : []),
  ])('without %s (EV-01, EV-02, EV-03, SL-09)', async (key) => {
    await expectRefused(
      submitUnsigned((good) => withoutKeys(good, key)),
      badJson,
    );
  });
  it.each(['hashes', 'signatures'])('without %s (EV-01)', async (key) => {
    await expectRefused(
      submitUnsigned((good) => withoutKeys(good, key)),
      badJson,
    );
  });
  it('without state_key (SL-03, SL-04)', async () => {
    await expectRefused(
      submit((good) => withoutKeys(good, 'state_key')),
      invalid,
    );
  });
  it('without membership, also where its prototype would have one (SL-03, CJ-07)', async () => {
    await expectRefused(
      submit((good) => withKeys(good, { content: {} })),
      invalid,
    );
    const content = parseJson('{"__proto__":{"membership":"leave"}}');
    await expectRefused(
      submit((good) => withKeys(good, { content })),
      invalid,
    );
  });

  const wrong: Readonly<Record<string, readonly JsonValue[]>> = {
    sender: [null, true, 1, [], {}, '', 'bob', '@bob', '@b\0b:127.0.0.2', `@${'a'.repeat(300)}:127.0.0.2`],
    type: [null, 1, [], {}, 'x'.repeat(256)],
    state_key: [null, 1, [], {}, 'x'.repeat(256)],
    content: [null, true, 1, 'leave', []],
    origin_server_ts: [null, true, '1', [], {}, -1],
    depth: [null, true, '1', [], {}, -1],
    auth_events: [null, 1, 'x', {}, [1], [null], [['$a', {}, 1]], [{}], ['x'], [[]]],
    prev_events: [null, 1, 'x', {}, [1], [null], [['$a']], [{}], ['x'], [[]]],
    room_id: [null, 1, [], {}, '', 'room', '!', '!a\0:b', `!${'a'.repeat(300)}:b`],
    ...(rules.eventIdFormat === 'opaque-in-pdu' ? { event_id: [null, 1, '', 'x', '$x', [], '$:x'] } : {}),
  };
  it.each(Object.entries(wrong).flatMap(([key, values]) => values.map((value) => [key, value] as const)))(
    'whose %s is %j (EV-01 to EV-09)',
    async (key, value) => {
      const errcodes = ['M_BAD_JSON', 'M_TOO_LARGE'];
      await expectRefused(
        submitUnsigned((good) => withKeys(good, { [key]: value })),
        errcodes,
      );
    },
  );
  it.each<[string, JsonValue]>([
    ['hashes', null],
    ['hashes', {}],
    ['hashes', { sha256: 1 }],
    ['hashes', []],
    ['signatures', null],
    ['signatures', []],
    ['signatures', { x: 1 }],
    ['signatures', { x: { 'ed25519:1': 1 } }],
    ['signatures', { x: { 'ed25519:1': null } }],
  ])('whose %s is %j (EV-01)', async (key, value) => {
    await expectRefused(
      submitUnsigned((good) => withKeys(good, { [key]: value })),
      badJson,
    );
  });
  it.each<[string, JsonValue]>([
    ['nobody', {}],
    ['somebody else', { 'example.org': { 'ed25519:1': 'a'.repeat(86) } }],
    ['__proto__', JSON.parse('{"__proto__":{"ed25519:1":"aaaa"}}') as JsonValue],
  ])('that is signed by %s (PD-02, SG-10)', async (_, signatures) => {
    await expectRefused(
      submitUnsigned((good) => withKeys(good, { signatures })),
      invalid,
    );
  });
  it.each(['', 'a', 'a'.repeat(85), 'a'.repeat(1000), '!'.repeat(86), 'ed25519'])(
    'with the signature %j (PD-02, SG-06)',
    async (signature) => {
      const signatures = { [leaver.name]: { [leaver.key.keyId]: signature } };
      await expectRefused(
        submitUnsigned((good) => withKeys(good, { signatures })),
        invalid,
      );
    },
  );
  it.each(['ed25519', 'rsa:1', 'ed25519:', 'ed25519:nobody', '__proto__', 'constructor'])(
    'signed under the key ID %s (SG-06, SG-10)',
    async (keyId) => {
      const signatures = parseJson(`{"${leaver.name}":{"${keyId}":"${'a'.repeat(86)}"}}`);
      await expectRefused(
        submitUnsigned((good) => withKeys(good, { signatures })),
        invalid,
      );
    },
  );

  it.each(['m.room.message', 'M.ROOM.MEMBER', '', '__proto__', 'm.room.create'])(
    'of type %j (SL-03)',
    async (type) => {
      // Where a create event founds the room it has no room_id, and the format says so first.
      const errcodes = type === 'm.room.create' && version === '12' ? badJson : invalid;
      await expectRefused(
        submit((good) => withKeys(good, { type })),
        errcodes,
      );
    },
  );
  it.each<JsonValue>(['join', 'Leave', '', null, true, ['leave'], { leave: 1 }, 0])(
    'of membership %j (SL-03)',
    async (membership) => {
      await expectRefused(
        submit((good) => withKeys(good, { content: { membership } })),
        invalid,
      );
    },
  );
  it('of a user of another server, or of ours (SL-03)', async () => {
    for (const sender of [room.alice, '@bob:example.org']) {
      await expectRefused(
        submit((good) => withKeys(good, { sender, state_key: sender })),
        invalid,
      );
    }
  });
  it.each<[string, (good: JsonObject) => JsonObject]>([
    ['another user', () => ({ state_key: user(1) })],
    ['nobody', () => ({ state_key: '' })],
    ['another case', () => ({ state_key: user(0).replace('@user', '@User') })],
  ])('for %s (SL-03, SL-10)', async (_, changes) => {
    await expectRefused(
      submit((good) => withKeys(good, changes(good))),
      invalid,
    );
  });

  const reference = (at: number): JsonValue => {
    if (!rules.referencesArePairs) return `$${String(at).padStart(43, 'a')}`;
    return [`$${at}:${ours.name}`, { sha256: 'a'.repeat(43) }];
  };
  it.each([
    ['prev_events', 21],
    ['prev_events', 10_000],
    ['auth_events', 11],
    ['auth_events', 10_000],
  ] as const)('with too many %s: %d (EV-05)', async (key, count) => {
    const references = Array.from({ length: count }, (_, at) => reference(at));
    const answer = await submit((good) => withKeys(good, { [key]: references }));
    expect([answer.status, answer.json]).toEqual([400, error('M_BAD_JSON', 'EV-05')]);
  });
  it('that cites what nobody knows is refused, and nothing is remembered of it (SL-13)', async () => {
    const before = await room.position();
    for (const key of ['prev_events', 'auth_events']) {
      const answer = await submit((good) => withKeys(good, { [key]: [reference(1)] }));
      expect([answer.status, answer.json]).toEqual([403, error('M_FORBIDDEN')]);
    }
    expect(await room.position()).toBe(before);
  });

  it('of 65,537 bytes is too large, and one of 65,536 is not (EV-07, SL-19)', async () => {
    const mine = await invitedRoom(version);
    const good = signTemplate(leaver, version, await templateOf(mine));
    const bare = withoutKeys(good.event, 'hashes', 'signatures');
    const ofBytes = (bytes: number): JsonObject => {
      const reason = (text: string): JsonObject =>
        leaver.signPdu(withKeys(bare, { content: { membership: 'leave', reason: text } }), version);
      return reason('x'.repeat(bytes - Buffer.byteLength(encodeCanonicalJson(reason('')))));
    };
    const submitTo = (event: JsonObject): Promise<PeerResponse> =>
      sendLeave(leaver, ours, { roomId: mine.roomId, eventId: eventIdOf(event, rules), event });
    const before = await mine.position();
    const tooLarge = await submitTo(ofBytes(65_537));
    expect([tooLarge.status, tooLarge.json]).toEqual([413, error('M_TOO_LARGE', 'EV-07')]);
    expect(await mine.position()).toBe(before);
    expect((await submitTo(ofBytes(65_536))).status).toBe(200);
    expect(await mine.position()).toBe(before + 1);
  });

  it('with keys that every object inherits, NUL and escapes in its content is kept as it is (CJ-03, CJ-07)', async () => {
    const mine = await invitedRoom(version);
    const more =
      '{"__proto__":{"membership":"join"},"constructor":1,"toString":null,"hasOwnProperty":[],"reason":"\\u0000\\u001f\\u007f\\u2028é😀\\"\\\\/"}';
    const content = withKeys(parseJson(more) as JsonObject, { membership: 'leave' });
    const leave = signTemplate(leaver, version, await templateOf(mine), { content });
    const answer = await sendLeave(leaver, ours, leave);
    expect([answer.status, answer.json]).toEqual([200, {}]);
    const member = (await ours.member(mine.roomId, user(0)))!;
    expect(encodeCanonicalJson(member['content']!)).toBe(encodeCanonicalJson(content));
  });

  it.each(['1.0', '1e3', '-0', '9007199254740992', '-9007199254740992', '1e400', '0.1'])(
    'with the number %s (CJ-04, CJ-05, CJ-06)',
    async (source) => {
      const before = await room.position();
      const number = parseJson(source);
      const answer = await submit((good) => withKeys(good, { 'org.example': [{ deep: number }] }));
      if (rules.strictCanonicalJson) {
        expect([answer.status, answer.json]).toEqual([400, error('M_BAD_JSON', 'CJ-05')]);
        expect(await room.position()).toBe(before);
      } else {
        // The first is taken, and every other one is then a second leave of the same user.
        expect([200, 403]).toContain(answer.status);
      }
    },
  );
});

/** A well-formed answer: never a fault of ours, and every no in the form of a Matrix error. */
function expectProper(status: number, json: JsonValue | undefined): void {
  expect(status).toBeLessThan(500);
  expect(status).toBeGreaterThanOrEqual(200);
  if (status < 300) return;
  expect(json).toMatchObject({ errcode: expect.stringMatching(/^M_[A-Z_]+$/), error: expect.any(String) });
}

describe('whatever is changed in a valid request', () => {
  interface Attempt {
    readonly version: string;
    readonly endpoint: 'make' | 'v1' | 'v2';
    readonly pdu: readonly JsonMutation[];
    /** Before the event is signed, or after it. */
    readonly isSignedAfter: boolean;
    readonly header: HeaderChange;
    readonly path: PathChange;
  }
  type HeaderChange = {
    readonly kind: 'none' | 'drop' | 'garble' | 'double' | 'append';
    readonly at: number;
    readonly text: string;
  };
  type PathChange = {
    readonly kind: 'none' | 'insert' | 'remove' | 'query';
    readonly at: number;
    readonly text: string;
    readonly isSigned: boolean;
  };

  const printable = fc.string({
    unit: fc.integer({ min: 0x21, max: 0x7e }).map((c) => String.fromCharCode(c)),
    maxLength: 6,
  });
  const attempts: fc.Arbitrary<Attempt> = fc.record({
    version: fc.constantFrom(...roomVersionIds),
    endpoint: fc.constantFrom('make', 'v1', 'v2', 'v2'),
    pdu: fc.array(jsonMutations, { maxLength: 3 }),
    isSignedAfter: fc.boolean(),
    header: fc.oneof(
      { weight: 4, arbitrary: fc.constant<HeaderChange>({ kind: 'none', at: 0, text: '' }) },
      {
        weight: 1,
        arbitrary: fc.record({
          kind: fc.constantFrom<HeaderChange['kind'][]>('drop', 'garble', 'double', 'append'),
          at: fc.nat(1000),
          text: printable,
        }),
      },
    ),
    path: fc.oneof(
      { weight: 4, arbitrary: fc.constant<PathChange>({ kind: 'none', at: 0, text: '', isSigned: true }) },
      {
        weight: 1,
        arbitrary: fc.record({
          kind: fc.constantFrom<PathChange['kind'][]>('insert', 'remove', 'query'),
          at: fc.nat(1000),
          text: printable,
          isSigned: fc.boolean(),
        }),
      },
    ),
  });

  function changedHeader(header: string, { kind, at, text }: HeaderChange): string | readonly string[] {
    // The origin is left alone, for it would be dialled.
    const start = header.indexOf(',') + 1;
    const place = start + (at % (header.length - start));
    switch (kind) {
      case 'none':
        return header;
      case 'drop':
        return header.slice(0, place);
      case 'garble':
        return header.slice(0, place) + text + header.slice(place + text.length);
      case 'double':
        return [header, header.slice(0, place) + text];
      case 'append':
        return header + text;
    }
  }

  function changedPath(path: string, { kind, at, text }: PathChange): string {
    const prefix = '/_matrix/federation/'.length;
    const place = prefix + (at % (path.length - prefix));
    switch (kind) {
      case 'none':
        return path;
      case 'insert':
        return path.slice(0, place) + text + path.slice(place);
      case 'remove':
        return path.slice(0, place) + path.slice(place + 1 + (at % 5));
      case 'query':
        return `${path}?${text}`;
    }
  }

  /** A room of each version, with users who are still invited and their templates. */
  const rooms = new Map<string, { room: ImportedRoom; left: { userId: string; template: JsonObject }[] }>();

  async function invitedUser(version: string) {
    const known = rooms.get(version);
    if (known !== undefined && known.left.length > 0) return { room: known.room, ...known.left[0]! };
    const room = await invitedRoom(version, 15);
    const left = [];
    for (let at = 0; at < 15; at++)
      left.push({ userId: user(at), template: await templateOf(room, user(at)) });
    rooms.set(version, { room, left });
    return { room, ...left[0]! };
  }

  function eventOf({ version, pdu, isSignedAfter }: Attempt, template: JsonObject) {
    const good = signTemplate(leaver, version, template);
    const bare = withoutKeys(good.event, 'hashes', 'signatures');
    const event = isSignedAfter ? signedIfCan(mutated(bare, pdu), version) : mutated(good.event, pdu);
    let eventId = good.eventId;
    try {
      eventId = eventIdOf(event, roomVersion(version)!);
    } catch {
      // Then the ID is that of the event before.
    }
    return { event, eventId };
  }

  function signedIfCan(event: JsonObject, version: string): JsonObject {
    try {
      return leaver.signPdu(event, version);
    } catch {
      // Nobody could sign it, so it is sent as it is.
      return event;
    }
  }

  it('the answer is no fault of ours, and the log holds what the answer says and nothing else (SL-14, HT-04, RA-17)', async () => {
    await fc.assert(
      fc.asyncProperty(attempts, async (attempt) => {
        const { room, userId, template } = await invitedUser(attempt.version);
        const { event, eventId } = eventOf(attempt, template);
        const isGet = attempt.endpoint === 'make';
        const method = isGet ? 'GET' : 'PUT';
        const uri = isGet
          ? federationUri('v1/make_leave', room.roomId, userId)
          : federationUri(`${attempt.endpoint}/send_leave`, room.roomId, eventId);
        const sent = changedPath(uri, attempt.path);
        const header = signRequest(
          {
            method,
            uri: attempt.path.isSigned ? sent : uri,
            origin: leaver.name,
            destination: ours.name,
            content: isGet ? undefined : event,
          },
          leaver.key,
        );
        const before = await room.position();
        const answer = await leaver.request({
          method,
          uri: sent,
          destination: ours.name,
          baseUrl: ours.federationUrl,
          ...(isGet ? {} : { body: event }),
          overrides: { authorization: changedHeader(header, attempt.header) },
        });

        expectProper(answer.status, answer.json);
        expect([200, 400, 401, 403, 404, 405, 413]).toContain(answer.status);
        const added = await room.since(before);
        const at = { position: before + 1, event_id: eventId };
        switch (answer.status) {
          case 200:
            if (isGet) {
              expect(added).toEqual([]);
              break;
            }
            expect(answer.json).toEqual(attempt.endpoint === 'v1' ? [200, {}] : {});
            expect(added).toMatchObject([{ ...at, type: 'PduAccepted' }]);
            // A time long past may lose against the invite where the graph forks: then nothing has changed. (SR-25)
            expect(await room.membership(userId)).toBe(
              (added[0]!['changes'] as readonly unknown[]).length === 0 ? 'invite' : 'leave',
            );
            rooms.get(attempt.version)!.left.shift();
            break;
          case 403:
            if (added.length > 0) expect(added).toMatchObject([{ ...at, rule: expect.any(String) }]);
            if (added.length > 0) expect(['PduRejected', 'PduSoftFailed']).toContain(added[0]!['type']);
            expect(added.length).toBeLessThanOrEqual(1);
            expect(await room.membership(userId)).toBe('invite');
            break;
          default:
            expect(added).toEqual([]);
        }
      }),
      { numRuns: 400 },
    );
  });

  it('what is left of the body when bytes of it are changed is no fault of ours', async () => {
    const { room, template } = await invitedUser('11');
    const leave = signTemplate(leaver, '11', template);
    const bytes = Buffer.from(stringifyJson(leave.event));
    const change = fc.record({
      at: fc.nat(bytes.length - 1),
      byte: fc.nat(255),
      cut: fc.boolean(),
    });
    const before = await room.position();
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
        let sent = Buffer.from(bytes);
        for (const { at, byte, cut } of changes) {
          if (cut) sent = Buffer.concat([sent.subarray(0, at), sent.subarray(at + 1)]);
          else sent.writeUInt8(byte, at % Math.max(1, sent.length - 1));
        }
        fc.pre(!sent.equals(bytes));
        const answer = await leaver.request({
          method: 'PUT',
          uri: federationUri('v2/send_leave', room.roomId, leave.eventId),
          destination: ours.name,
          baseUrl: ours.federationUrl,
          body: leave.event,
          overrides: { rawBody: sent },
        });
        expectProper(answer.status, answer.json);
        expect([400, 401]).toContain(answer.status);
      }),
      { numRuns: 100 },
    );
    expect(await room.position()).toBe(before);
  });
});

describe('whatever is changed in a valid request of the platform', () => {
  const calls = ['import', 'snapshot', 'rooms', 'state', 'invites', 'explain'] as const;
  const versions = ['1', '6', '11', '12'] as const;
  const prepared = new Map<string, ImportedRoom>();

  beforeAll(async () => {
    for (const version of versions) prepared.set(version, await invitedRoom(version));
  });

  function requestOf(
    call: (typeof calls)[number],
    version: string,
  ): readonly [path: string, body: JsonObject] {
    const room = prepared.get(version)!;
    const bodies: Record<typeof call, readonly [string, JsonObject]> = {
      import: ['/v1/rooms/import', importOf(room.builder, [leaver])],
      snapshot: [
        '/v1/rooms/import',
        {
          room_version: version,
          state: room.builder.pdus.map(({ json }) => json),
          auth_chain: room.builder.pdus.slice(0, 2).map(({ json }) => json),
          forward_extremities: [room.builder.pdus.at(-1)!.eventId],
          depth: 7,
        },
      ],
      rooms: [
        '/v1/rooms',
        {
          room_version: version,
          creator: room.alice,
          join_rule: 'invite',
          power_levels: { users: version === '12' ? {} : { [room.alice]: 100 }, ban: 50 },
          server_acl: { allow: ['*'] },
          invite: [`@carol:${ours.name}`],
        },
      ],
      state: [
        room.path('/state'),
        { sender: room.alice, type: 'm.room.topic', state_key: '', content: { topic: 'x', n: 1 } },
      ],
      invites: [room.path('/invites'), { sender: room.alice, target: `@carol:${ours.name}`, reason: 'come' }],
      explain: [room.path('/explain'), { pdu: room.builder.pdus.at(-1)!.json }],
    };
    return bodies[call];
  }

  it.each(calls)('%s: the answer is no fault of ours, and the room can be read after it', async (call) => {
    const attempt = fc.record({
      version: fc.constantFrom(...versions),
      mutations: fc.array(jsonMutations, { maxLength: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(attempt, async ({ version, mutations }) => {
        const [path, body] = requestOf(call, version);
        const sent = mutated(body, mutations);
        const answer = await ours.platform('POST', path, sent);
        if (answer.status === 502) {
          // The change made a valid user of a server that is not there, and its signature belongs on the invite.
          expect(call).toBe('invites');
          expect(serverNameOf(sent['target'] as UserId)).not.toBe(ours.name);
          expect(answer.body).toMatchObject({ errcode: 'M_UNKNOWN', error: expect.any(String) });
        } else {
          expectProper(answer.status, answer.body);
        }
        const named = isJsonObject(answer.body) ? answer.body['room_id'] : undefined;
        const roomId = encodeURIComponent(typeof named === 'string' ? named : prepared.get(version)!.roomId);
        for (const read of ['', '/state', '/events']) {
          const shown = await ours.platform('GET', `/v1/rooms/${roomId}${read}`);
          expect([shown.status, read]).toEqual([200, read]);
        }
      }),
      { numRuns: 60 },
    );
  });
});
