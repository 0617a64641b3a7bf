import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  encodeUnpaddedBase64,
  JsonNumber,
  selectEd25519,
  signJson,
  signRequest,
  decodeBase64,
  encodeCanonicalJson,
  verifySignedJson,
  withoutKeys,
  type JsonObject,
  type SigningKey,
} from '@exeunt/signing';
import { citing } from '../harness/citing.js';
import { delivered, importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { federationUri, makeLeave, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import {
  respond,
  startRemoteServer,
  type PeerResponse,
  type RemoteServer,
} from '../harness/remote-server.js';

let ours: LeaveServer;
let leaver: RemoteServer;
let observer: RemoteServer;
let room: ImportedRoom;
let bob: string;
/** Of a request for bob's template. */
let uri: string;
const started: RemoteServer[] = [];
/** How far our server's clock is ahead of the real one. */
let aheadMs = 0;

beforeAll(async () => {
  // Before the server takes hold of it.
  const realNow = Date.now.bind(Date);
  vi.spyOn(Date, 'now').mockImplementation(() => realNow() + aheadMs);
  ours = await startLeaveServer({ environment: { EXEUNT_FEDERATION_TIMEOUT_MS: '1500' } });
  leaver = await startPeer('127.0.0.2');
  observer = await startPeer('127.0.0.3');
  bob = `@bob:${leaver.name}`;
  room = await invitedRoom('11');
  uri = federationUri('v1/make_leave', room.roomId, bob);
});
afterEach(() => {
  aheadMs = 0;
});
afterAll(async () => {
  vi.restoreAllMocks();
  await Promise.all([ours?.stop(), ...started.map((peer) => peer.close())]);
});

async function startPeer(host = '127.0.0.5'): Promise<RemoteServer> {
  const peer = await startRemoteServer({ host });
  started.push(peer);
  return peer;
}

function invitedRoom(version: string, invited = `@bob:${leaver.name}`): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [leaver, observer],
    grow(builder, alice) {
      builder.member(`@olga:${observer.name}`, 'join');
      builder.member(invited, 'invite', alice);
    },
  });
}

/** A request for bob's template with the header given; a list is sent as so many headers. */
function askWith(authorization: string | readonly string[] | null, target = uri): Promise<PeerResponse> {
  return leaver.request({
    method: 'GET',
    uri: target,
    destination: ours.name,
    baseUrl: ours.federationUrl,
    overrides: { authorization },
  });
}

/** A good header for bob's template, or one over something else. */
function header(changes: Partial<Parameters<typeof signRequest>[0]> = {}, key = leaver.key): string {
  return signRequest({ method: 'GET', uri, origin: leaver.name, destination: ours.name, ...changes }, key);
}

function newKey(version: string): SigningKey {
  return { keyId: `ed25519:${version}`, seed: randomBytes(32) };
}

function publicOf({ seed }: SigningKey): { readonly key: string } {
  return { key: encodeUnpaddedBase64(selectEd25519().publicKeyOf(seed)) };
}

const unauthorized = { errcode: 'M_UNAUTHORIZED', error: expect.any(String) };

function expectUnauthorized(answer: PeerResponse, rule?: string): void {
  expect(answer.status, answer.body.toString()).toBe(401);
  expect(answer.json).toMatchObject({ ...unauthorized, ...(rule === undefined ? {} : { rule }) });
}

describe('an X-Matrix header', () => {
  const sig = (text: string): string => /sig="([^"]+)"/.exec(text)![1]!;

  it.each(
    citing(2, [
      ['as good servers send it', (h: string) => h, 'RA-01'],
      ['of a lower-case scheme', (h: string) => h.replace('X-Matrix', 'x-matrix'), 'RA-11'],
      [
        'of an upper-case scheme, with several spaces',
        (h: string) => h.replace('X-Matrix ', 'X-MATRIX   '),
        'RA-06',
      ],
      ['with spaces and tabs round the commas', (h: string) => h.replaceAll('",', '" ,\t '), 'RA-06'],
      [
        'with names in capitals',
        (h: string) => h.replace('origin=', 'ORIGIN=').replace('sig=', 'Sig='),
        'RA-06',
      ],
      [
        'in another order',
        (h: string) => `X-Matrix sig="${sig(h)}",key="${leaver.key.keyId}",origin="${leaver.name}"`,
        'RA-06',
      ],
      ['with parameters nobody knows', (h: string) => `${h},version="2",extra=a:b`, 'RA-06'],
      ['with a comma within quotes', (h: string) => `${h},note="a,sig=b"`, 'RA-11'],
      [
        'without quotes, colons and all',
        () =>
          `X-Matrix origin=${leaver.name},destination=${ours.name},key=${leaver.key.keyId},sig="${sig(header())}"`,
        'RA-07',
      ],
      ['with backslash pairs', (h: string) => h.replace('origin="1', 'origin="\\1'), 'RA-06'],
      ['without a destination', (h: string) => h.replace(/destination="[^"]*",/, ''), 'RA-09'],
    ]),
  )('%s is taken', async (_, change) => {
    expect((await askWith(change(header()))).status).toBe(200);
  });

  it.each(
    citing<[string, () => string | null, string]>(2, [
      ['missing', () => null, 'RA-16'],
      ['of another scheme', () => `Bearer ${ours.token}`, 'RA-16'],
      ['empty', () => '', 'RA-16'],
      ['without parameters', () => 'X-Matrix ', 'RA-06'],
      ['without a signature', () => header().replace(/,sig=.*/, ''), 'RA-06'],
      ['without a key', () => header().replace(/key="[^"]*",/, ''), 'RA-06'],
      ['with the origin given twice', () => `${header()},origin="${leaver.name}"`, 'RA-06'],
      ['with an open quote', () => `${header()},x="`, 'RA-06'],
      ['of 10,000 characters', () => `${header()},x="${'a'.repeat(10_000)}"`, 'RA-06'],
      ['with a signature that is no base64', () => header().replace(/sig="..../, 'sig="!!!!'), 'RA-02'],
      [
        'with a signature of another key',
        () => header({}, { ...leaver.key, seed: randomBytes(32) }),
        'RA-02',
      ],
      ['with a key that the origin has not', () => header({}, newKey('other')), 'RA-14'],
      ['with a key of an unknown algorithm', () => header().replace('ed25519:', 'rsa:'), 'RA-14'],
      ['for another destination', () => header({ destination: observer.name }), 'RA-10'],
      [
        'signed for another destination that it does not name',
        () => header({ destination: observer.name }).replace(/destination="[^"]*",/, ''),
        'RA-09',
      ],
      ['by an origin that is somebody else', () => header({ origin: observer.name }), 'RA-14'],
      ['that claims to be from us', () => header({ origin: ours.name }), 'RA-14'],
      ['over another method', () => header({ method: 'PUT' }), 'RA-02'],
      ['over an empty object that was not sent', () => header({ content: {} }), 'RA-02'],
    ]),
  )('%s is not taken (RA-13)', async (_, make) => {
    expectUnauthorized(await askWith(make()));
  });

  it('of an origin that is no server name is refused (ID-01)', async () => {
    const answer = await askWith(header({ origin: '127.0.0.2:http' }));
    expect([answer.status, answer.json]).toMatchObject([400, { errcode: 'M_INVALID_PARAM', rule: 'ID-01' }]);
  });

  it('that does not hold tells the same of a room that exists and of one that does not (RA-17)', async () => {
    const bad = { ...leaver.key, seed: randomBytes(32) };
    const unknown = federationUri('v1/make_leave', `!nowhere:${ours.name}`, bob);
    const one = await askWith(header({}, bad));
    const other = await askWith(header({ uri: unknown }, bad), unknown);
    expectUnauthorized(one);
    expect(other.json).toEqual(one.json);
  });
});

describe('several Authorization headers (RA-12)', () => {
  let twoKeys: RemoteServer;
  let second: SigningKey;
  let target: string;

  beforeAll(async () => {
    twoKeys = await startPeer();
    second = newKey('second');
    const both = { [twoKeys.key.keyId]: publicOf(twoKeys.key), [second.keyId]: publicOf(second) };
    twoKeys.keys = (_, response) => respond(response, 200, twoKeys.keyResponse({ verify_keys: both }));
    target = federationUri('v1/make_leave', room.roomId, `@nobody:${twoKeys.name}`);
  });
  const by = (key: SigningKey, origin: string = twoKeys.name): string => header({ uri: target, origin }, key);
  const ask = async (...headers: readonly string[]): Promise<number> =>
    (await askWith(headers, target)).status;

  /** Authenticated, and then refused because nobody of that name is in the room. */
  const authenticated = 403;

  it('by two keys of one origin are taken together', async () => {
    expect(await ask(by(twoKeys.key), by(second))).toBe(authenticated);
    expect(await ask(by(second), by(twoKeys.key))).toBe(authenticated);
  });
  it('one by a key that nobody knows is passed over', async () => {
    expect(await ask(by(newKey('unknown')), by(twoKeys.key))).toBe(authenticated);
    expect(await ask(by(twoKeys.key), by(newKey('unknown')))).toBe(authenticated);
  });
  it('one of another scheme is passed over', async () => {
    expect(await ask('Bearer abc', by(twoKeys.key))).toBe(authenticated);
  });
  it('one by a known key that does not hold fails the request', async () => {
    const bad = by({ ...second, seed: randomBytes(32) });
    expect(await ask(by(twoKeys.key), bad)).toBe(401);
    expect(await ask(bad, by(twoKeys.key))).toBe(401);
  });
  it('of two origins fail the request', async () => {
    expect(await ask(by(twoKeys.key), by(leaver.key, leaver.name))).toBe(401);
  });
  it('of two destinations fail the request', async () => {
    const elsewhere = header({ uri: target, origin: twoKeys.name, destination: leaver.name }, second);
    expect(await ask(by(twoKeys.key), elsewhere)).toBe(401);
  });
  it('more than ten fail the request', async () => {
    expect(await ask(...Array.from({ length: 11 }, () => by(twoKeys.key)))).toBe(401);
  });
});

describe('the request target', () => {
  const path = (roomId: string, userId: string): string =>
    `/_matrix/federation/v1/make_leave/${roomId}/${userId}`;
  const encoded = (text: string): string => encodeURIComponent(text);
  const all = (text: string): string =>
    [...Buffer.from(text)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');

  it.each([
    ['with ! as it is', (r: string, u: string) => path(encoded(r), encoded(u))],
    ['with %21 for !', (r: string, u: string) => path(encoded(r).replace('!', '%21'), encoded(u))],
    ['with nothing encoded', (r: string, u: string) => path(r, u)],
    [
      'with lower-case digits',
      (r: string, u: string) => path(encoded(r), encoded(u).replaceAll('%3A', '%3a')),
    ],
    ['with every byte encoded', (r: string, u: string) => path(all(r), all(u))],
    [
      'with a query that nobody reads',
      (r: string, u: string) => `${path(encoded(r), encoded(u))}?ver=11&ver=%2F`,
    ],
    ['with an empty query', (r: string, u: string) => `${path(encoded(r), encoded(u))}?`],
  ])('%s is signed and checked exactly as sent (RA-03, RA-04, ID-11, ML-15)', async (_, make) => {
    const target = make(room.roomId, bob);
    expect((await askWith(header({ uri: target }), target)).status).toBe(200);
    if (target !== uri) expectUnauthorized(await askWith(header(), target), 'RA-02');
  });

  it('with another query than was signed is not authentic (RA-03)', async () => {
    expectUnauthorized(await askWith(header({ uri: `${uri}?a=1` }), `${uri}?a=2`), 'RA-02');
    expectUnauthorized(await askWith(header({ uri: `${uri}?a=1` })), 'RA-02');
  });

  it('encoded twice is authentic, and then no room ID: it is decoded once (ID-11)', async () => {
    const target = path(encoded(all(room.roomId)), encoded(bob));
    const answer = await askWith(header({ uri: target }), target);
    expect([answer.status, answer.json]).toMatchObject([400, { errcode: 'M_INVALID_PARAM', rule: 'ID-07' }]);
  });

  it('holds a slash of an event ID of version 3 as %2F, and in no other way (ID-11, SG-03)', async () => {
    const ofThree = await invitedRoom('3');
    const template = await templateOf(ofThree);
    let leave = signTemplate(leaver, '3', template);
    for (let ts = 1; !leave.eventId.includes('/'); ts++) {
      leave = signTemplate(leaver, '3', template, { origin_server_ts: ts });
    }
    const put = (target: string): Promise<PeerResponse> =>
      leaver.request({
        method: 'PUT',
        uri: target,
        destination: ours.name,
        baseUrl: ours.federationUrl,
        body: leave.event,
      });
    const prefix = federationUri('v2/send_leave', leave.roomId);
    const raw = await put(`${prefix}/${leave.eventId}`);
    expect([raw.status, raw.json]).toMatchObject([404, { errcode: 'M_UNRECOGNIZED' }]);
    const twice = await put(`${prefix}/${encoded(encoded(leave.eventId))}`);
    expect([twice.status, twice.json]).toMatchObject([400, { errcode: 'M_INVALID_PARAM', rule: 'ID-09' }]);
    expect((await put(`${prefix}/${encoded(leave.eventId)}`)).status).toBe(200);
  });

  it.each(['%', '%zz', '%c3%28', '%ed%a0%80'])('with the bad escape %s is refused (ID-11)', async (bad) => {
    const target = path(`${encoded(room.roomId)}${bad}`, encoded(bob));
    const answer = await askWith(header({ uri: target }), target);
    expect([answer.status, answer.json]).toMatchObject([400, { errcode: 'M_INVALID_PARAM', rule: 'ID-11' }]);
  });
});

async function templateOf(one: ImportedRoom, user = bob): Promise<JsonObject> {
  const made = await makeLeave(leaver, ours, one.roomId, user);
  expect(made.status).toBe(200);
  return (made.json as JsonObject)['event'] as JsonObject;
}

describe('the body', () => {
  const target = (): string => federationUri('v2/send_leave', room.roomId, `$${'a'.repeat(43)}`);
  const put = (
    body: JsonObject | undefined,
    overrides: Parameters<RemoteServer['request']>[0]['overrides'] = {},
  ): Promise<PeerResponse> =>
    leaver.request({
      method: 'PUT',
      uri: target(),
      destination: ours.name,
      baseUrl: ours.federationUrl,
      ...(body === undefined ? {} : { body }),
      overrides,
    });

  it('that is an empty object is signed as {} (RA-02, HT-01)', async () => {
    const answer = await put({});
    expect([answer.status, answer.json]).toMatchObject([400, { errcode: 'M_BAD_JSON', rule: 'EV-01' }]);
  });
  it('that is an empty object is not authentic where the signature leaves it out (RA-02)', async () => {
    expectUnauthorized(await put(undefined, { rawBody: '{}' }), 'RA-02');
  });
  it('that is absent is no JSON (HT-01, HT-04)', async () => {
    const answer = await put(undefined);
    expect([answer.status, answer.json]).toMatchObject([400, { errcode: 'M_NOT_JSON' }]);
  });
  it('that was changed on the way is not authentic (RA-02)', async () => {
    expectUnauthorized(await put({ a: 1 }, { rawBody: '{"a":2}' }), 'RA-02');
    expectUnauthorized(await put({ a: 1 }, { rawBody: '{"a":1,"b":1}' }), 'RA-02');
    expectUnauthorized(await put({ a: 1 }, { rawBody: '{"a":1.0}' }), 'RA-02');
  });
  it('may be written in another way, for it is the value that is signed (RA-02, RA-18)', async () => {
    const rawBody = ' {"b" : "\\u00e9\\/",\n "a":\t1 } ';
    const answer = await put({ a: 1, b: 'é/' }, { rawBody });
    expect([answer.status, answer.json]).toMatchObject([400, { errcode: 'M_BAD_JSON' }]);
  });

  it('of a GET is not part of what is signed (RA-02)', async () => {
    const answer = await leaver.request({
      method: 'GET',
      uri,
      destination: ours.name,
      baseUrl: ours.federationUrl,
      overrides: { rawBody: '{"surprise":1}' },
    });
    expect(answer.status).toBe(200);
  });

  it.each([
    ['application/json'],
    ['application/json; charset=utf-8'],
    ['text/plain'],
    ['application/x-www-form-urlencoded'],
    ['multipart/form-data; boundary=x'],
    ['garbage'],
    [''],
    ['application/json; charset=utf-16'],
  ])('is read as JSON whatever it says it is: %j (HT-01)', async (contentType) => {
    const one = await invitedRoom('11');
    const leave = signTemplate(leaver, '11', await templateOf(one));
    const answer = await leaver.request({
      method: 'PUT',
      uri: federationUri('v2/send_leave', one.roomId, leave.eventId),
      destination: ours.name,
      baseUrl: ours.federationUrl,
      body: leave.event,
      overrides: { headers: { 'content-type': contentType } },
    });
    expect([answer.status, answer.json]).toEqual([200, {}]);
    expect(answer.headers['content-type']).toMatch(/^application\/json/);
  });

  it('is read as JSON where it does not say what it is (HT-01)', async () => {
    const one = await invitedRoom('11');
    const leave = signTemplate(leaver, '11', await templateOf(one));
    const endpoint = federationUri('v2/send_leave', one.roomId, leave.eventId);
    const authorization = header({ method: 'PUT', uri: endpoint, content: leave.event });
    // Without the harness: it always names a type. A body that is bytes gets none from fetch.
    const { Agent, request } = await import('undici');
    const dispatcher = new Agent({ connect: { rejectUnauthorized: false } });
    const answer = await request(`${ours.federationUrl}${endpoint}`, {
      method: 'PUT',
      dispatcher,
      headers: { authorization },
      body: Buffer.from(JSON.stringify(leave.event)),
    });
    expect([answer.statusCode, await answer.body.json()]).toEqual([200, {}]);
    await dispatcher.close();
  });

  const odd = {
    float: new JsonNumber('1.50'),
    exponent: new JsonNumber('1E3'),
    large: new JsonNumber('9007199254740993'),
    zero: new JsonNumber('-0'),
  };

  it.each(['1', '2', '3', '4', '5'])(
    'with floats and integers above 2^53 is authentic in version %s, and they stay as written (RA-18, CJ-04, BR-04)',
    async (version) => {
      const one = await invitedRoom(version);
      const depth = new JsonNumber('9223372036854775807');
      const content = { membership: 'leave', 'org.example': odd };
      const leave = signTemplate(leaver, version, await templateOf(one), { content, depth });
      const answer = await sendLeave(leaver, ours, leave);
      expect([answer.status, answer.json]).toEqual([200, {}]);
      // As canonical JSON has them: 1E3 is 1000 there, everything else stays as it was written.
      const received = await delivered(observer, leave.event);
      expect(encodeCanonicalJson(received)).toBe(encodeCanonicalJson(leave.event));
      const kept = (await ours.member(one.roomId, bob))!;
      expect(encodeCanonicalJson(withoutKeys(kept, 'event_id'))).toBe(
        encodeCanonicalJson(withoutKeys(leave.event, 'event_id')),
      );
      expect(kept).toMatchObject({
        depth,
        content: { 'org.example': { float: odd.float, large: odd.large } },
      });
    },
  );

  it.each(['6', '9', '10', '11', '12'])(
    'with such numbers is authentic in version %s too, and then refused for them (RA-18, CJ-05, CJ-06, SL-06)',
    async (version) => {
      const one = await invitedRoom(version);
      const template = await templateOf(one);
      const before = await one.position();
      for (const [name, number] of Object.entries(odd)) {
        const leave = signTemplate(leaver, version, template, { [`org.example.${name}`]: number });
        const answer = await sendLeave(leaver, ours, leave);
        expect([answer.status, answer.json]).toMatchObject([400, { errcode: 'M_BAD_JSON', rule: 'CJ-05' }]);
      }
      expect(await one.position()).toBe(before);
    },
  );
});

describe('keys of other servers', () => {
  const template = (peer: RemoteServer, key = peer.key): Promise<PeerResponse> =>
    peer.request({
      method: 'GET',
      uri: federationUri('v1/make_leave', room.roomId, `@nobody:${peer.name}`),
      destination: ours.name,
      baseUrl: ours.federationUrl,
      overrides: { key },
    });
  /** Authenticated, and then refused: nobody of that name is in the room. */
  const authenticated = 403;

  it('are asked for once by a burst of requests, and not again after it (KY-04, RA-14)', async () => {
    const peer = await startPeer();
    let answerKeys: (() => void) | undefined;
    peer.keys = (_, response) => {
      answerKeys = () => respond(response, 200, peer.keyResponse());
    };
    const burst = Array.from({ length: 40 }, () => template(peer));
    await settle('the keys are asked for', () => answerKeys);
    answerKeys!();
    expect((await Promise.all(burst)).map(({ status }) => status)).toEqual(burst.map(() => authenticated));
    expect((await template(peer)).status).toBe(authenticated);
    expect(peer.keyRequests).toBe(1);
  });

  it('are not asked for again by a burst of requests with keys that do not exist (KY-04)', async () => {
    const peer = await startPeer();
    expect((await template(peer)).status).toBe(authenticated);
    const burst = Array.from({ length: 20 }, (_, at) => template(peer, newKey(`invented${at}`)));
    for (const answer of await Promise.all(burst)) expectUnauthorized(answer, 'RA-14');
    expect(peer.keyRequests).toBe(1);
  });

  it('that are old authenticate no request (RA-14, KY-03)', async () => {
    const peer = await startPeer();
    const old = newKey('old');
    const old_verify_keys = { [old.keyId]: { ...publicOf(old), expired_ts: Date.now() + 3_600_000 } };
    peer.keys = (_, response) => respond(response, 200, peer.keyResponse({ old_verify_keys }));
    expectUnauthorized(await template(peer, old), 'RA-14');
    expect((await template(peer)).status).toBe(authenticated);
  });

  it('are fetched again after a rotation, and the key before it is no longer taken (RA-14, KY-11)', async () => {
    const peer = await startPeer();
    expect((await template(peer)).status).toBe(authenticated);
    const next = newKey('next');
    const body = signJson(
      {
        server_name: peer.name,
        valid_until_ts: Date.now() + 3_600_000,
        verify_keys: { [next.keyId]: publicOf(next) },
        old_verify_keys: { [peer.key.keyId]: { ...publicOf(peer.key), expired_ts: Date.now() } },
      },
      peer.name,
      next,
    );
    peer.keys = (_, response) => respond(response, 200, body);
    aheadMs = 31_000;
    expect((await template(peer, next)).status).toBe(authenticated);
    expectUnauthorized(await template(peer), 'RA-14');
    expect(peer.keyRequests).toBe(2);
  });

  it('that have run out authenticate no request (KY-10)', async () => {
    const peer = await startPeer();
    peer.keys = (_, response) => {
      respond(response, 200, peer.keyResponse({ valid_until_ts: Date.now() - 1000 }));
    };
    expectUnauthorized(await template(peer), 'RA-14');
  });

  const badKeys: Readonly<Record<string, (peer: RemoteServer) => RemoteServer['keys']>> = {
    'answers with a 500': () => 'fail',
    'never answers': () => 'hang',
    'answers with 10 MB': () => (_, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(`{"x":"${'x'.repeat(10_000_000)}"}`);
    },
    'never ends its answer': () => (_, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write('{"server_name":');
    },
    'answers with no JSON': () => (_, response) => void response.end('<html>'),
    'answers with a redirect': () => (_, response) => {
      response.writeHead(302, { location: '/elsewhere' });
      response.end();
    },
    'closes the connection': () => (_, response) => void response.destroy(),
    'answers for another server': (peer) => (_, response) =>
      respond(response, 200, peer.keyResponse({ server_name: leaver.name })),
    'answers with keys that it has not signed with': (peer) => (_, response) =>
      respond(
        response,
        200,
        peer.keyResponse({ verify_keys: { 'ed25519:other': publicOf(newKey('other')) } }),
      ),
    'answers with what it has not signed': (peer) => (_, response) =>
      respond(response, 200, withoutKeys(peer.keyResponse(), 'signatures')),
  };

  it.each(Object.keys(badKeys))(
    'whose server %s: the request is not authentic, in bounded time, and others are served meanwhile (RA-13, KY-13, DS-07)',
    async (how) => {
      const peer = await startPeer();
      peer.keys = badKeys[how]!(peer);
      const answer = template(peer);
      await settle('the keys are asked for', () => (peer.keyRequests > 0 ? true : undefined));
      expect((await makeLeave(leaver, ours, room.roomId, bob)).status).toBe(200);
      expectUnauthorized(await answer, 'RA-14');
    },
  );

  it('whose server is gone: the request is not authentic (RA-13)', async () => {
    const peer = await startPeer();
    await peer.close();
    expectUnauthorized(await template(peer), 'RA-14');
  });
});

describe('our own keys', () => {
  const get = (target: string): Promise<PeerResponse> =>
    leaver.request({
      method: 'GET',
      uri: target,
      destination: ours.name,
      baseUrl: ours.federationUrl,
      overrides: { authorization: null },
    });

  it.each(['/_matrix/key/v2/server', '/_matrix/key/v2/server/ed25519%3Aanything'])(
    '%s is given to anybody, signed by every key in it, and valid for more than an hour (KY-01, KY-02, KY-04, KY-14, RA-16)',
    async (target) => {
      const answer = await get(target);
      expect(answer.status).toBe(200);
      expect(answer.headers['content-type']).toMatch(/^application\/json/);
      const body = answer.json as JsonObject;
      expect(body['server_name']).toBe(ours.name);
      expect(Number(body['valid_until_ts'])).toBeGreaterThan(Date.now() + 3_600_000);
      const keys = Object.entries(body['verify_keys'] as Record<string, { key: string }>);
      expect(keys.length).toBeGreaterThan(0);
      for (const [keyId, { key }] of keys) {
        expect(key).toMatch(/^[A-Za-z0-9+/]{43}$/);
        expect(verifySignedJson(body, ours.name, keyId, decodeBase64(key)!)).toBe(true);
      }
    },
  );

  it('nor is our version a secret (FE-07, RA-16)', async () => {
    const answer = await get('/_matrix/federation/v1/version');
    expect([answer.status, answer.json]).toEqual([
      200,
      { server: { name: 'Exeunt', version: expect.any(String) } },
    ]);
  });

  it.each([
    ['GET', 'v1/make_leave'],
    ['PUT', 'v1/send_leave'],
    ['PUT', 'v2/send_leave'],
    ['GET', 'v1/make_knock'],
    ['PUT', 'v1/send_knock'],
    ['GET', 'v1/event_auth'],
  ] as const)('%s %s is for signed requests alone (RA-16)', async (method, endpoint) => {
    expectUnauthorized(await unsigned(method, federationUri(endpoint, room.roomId, bob)), 'RA-16');
  });

  it.each([
    ['GET', 'v1/event'],
    ['POST', 'v1/get_missing_events'],
    ['GET', 'v1/backfill'],
    ['GET', 'v1/state'],
    ['GET', 'v1/state_ids'],
  ] as const)('so is %s %s (RA-16)', async (method, endpoint) => {
    expectUnauthorized(await unsigned(method, federationUri(endpoint, room.roomId)), 'RA-16');
  });

  const unsigned = (method: 'GET' | 'PUT' | 'POST', uri: string) =>
    leaver.request({
      method,
      uri,
      destination: ours.name,
      baseUrl: ours.federationUrl,
      ...(method === 'GET' ? {} : { body: {} }),
      overrides: { authorization: null },
    });
});
