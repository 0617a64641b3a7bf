import { createServer, type AddressInfo, type Server } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import {
  encodeCanonicalJson,
  isJsonObject,
  parseXMatrix,
  requestToSign,
  selectEd25519,
  verifyJsonSignature,
} from '@exeunt/signing';
import type { JsonObject, JsonValue } from '@exeunt/signing';
import { parseEventId, parseRoomId, parseServerName, parseUserId } from '@exeunt/pdu';
import type { ServerName } from '@exeunt/pdu';
import {
  generateSelfSigned,
  respond,
  selfSignedCertificate,
  startRemoteServer,
  type PeerHandler,
  type RemoteServer,
  type RemoteServerOptions,
} from '../../../test/harness/remote-server.js';
import {
  FederationClient,
  type FederationClientDependencies,
  type FederationClientOptions,
  type RequestOutcome,
} from './federation-client.js';

const signingKey = { keyId: 'ed25519:a', seed: new Uint8Array(32).fill(7) };
const ourName = valid(parseServerName('exeunt.test'));
const roomId = valid(parseRoomId("!room with 'odd' (chars)*/%41:res.test"));
const userId = valid(parseUserId('@kim/é:exeunt.test'));
const eventId = valid(parseEventId(`$${'a/+'.repeat(14)}a`));
const leave = { type: 'm.room.member', content: { membership: 'leave' }, depth: 7 };

const toClose: { close(): unknown }[] = [];
afterEach(async () => {
  await Promise.all(toClose.splice(0).map((each) => each.close()));
});

describe('a request', () => {
  it('is signed over the request target as it is sent, percent-encoding included', async () => {
    const peer = await startPeer();
    peer.on('GET', '/_matrix/federation/v1/make_leave/', answering(200, { event: {} }));

    const result = await (await startClient(peer)).makeLeave(peer.name, roomId, userId);

    expect(result).toEqual({ ok: true, status: 200, body: { event: {} } });
    const [request] = peer.requests;
    expect(request?.url).toBe(
      '/_matrix/federation/v1/make_leave/%21room%20with%20%27odd%27%20%28chars%29%2A%2F%2541%3Ares.test/%40kim%2F%C3%A9%3Aexeunt.test',
    );
    expect(isSigned(peer, 0)).toBe(true);
    expect(request?.headers.host).toBe(peer.name);
    expect(request?.headers['accept-encoding']).toBe('identity');
  });

  it('is signed over its body, and has the same bytes when it is repeated', async () => {
    const peer = await startPeer();
    peer.on('PUT', '/_matrix/federation/v2/send_leave/', answering(200, {}));
    const client = await startClient(peer);

    await client.sendLeaveV2(peer.name, roomId, eventId, leave);
    await client.sendLeaveV2(peer.name, roomId, eventId, Object.fromEntries(Object.entries(leave).reverse()));

    expect(peer.requests[0]?.json).toEqual(leave);
    expect(isSigned(peer, 0)).toBe(true);
    expect(peer.requests[1]?.body).toEqual(peer.requests[0]?.body);
  });

  it('is not signed where no one is to be authenticated', async () => {
    const peer = await startPeer();
    peer.on('GET', '/_matrix/federation/v1/version', answering(200, { server: {} }));
    const client = await startClient(peer);

    expect((await client.serverKeys(peer.name)).ok).toBe(true);
    expect((await client.version(peer.name)).ok).toBe(true);

    expect(peer.requests.map(({ headers }) => headers.authorization)).toEqual([undefined, undefined]);
  });

  it('reaches each endpoint', async () => {
    const peer = await startPeer();
    peer.on('PUT', '/_matrix/federation/v1/', answering(200, [200, { event: {} }]));
    peer.on('PUT', '/_matrix/federation/v2/', answering(200, { event: {} }));
    peer.on('PUT', '/_matrix/federation/v1/send/', answering(200, { pdus: {} }));
    const client = await startClient(peer);

    const results = [
      await client.sendLeaveV1(peer.name, roomId, eventId, leave),
      await client.inviteV1(peer.name, roomId, eventId, leave),
      await client.inviteV2(peer.name, roomId, eventId, { room_version: '10', event: leave }),
      await client.sendTransaction(peer.name, 'txn/1', encodeCanonicalJson({ pdus: [] })),
    ];

    expect(results.map((result) => result.ok && result.body)).toEqual([
      { event: {} },
      { event: {} },
      { event: {} },
      { pdus: {} },
    ]);
    expect(peer.requests.map(({ url }) => url.split('/').slice(3, 5).join('/'))).toEqual([
      'v1/send_leave',
      'v1/invite',
      'v2/invite',
      'v1/send',
    ]);
    expect(peer.requests[3]?.url).toBe('/_matrix/federation/v1/send/txn%2F1');
  });

  it('asks for missing events, which may be large (FE-03)', async () => {
    const peer = await startPeer();
    const events = Array.from({ length: 20 }, () => ({ content: { body: 'x'.repeat(64_000) } }));
    peer.on('POST', '/_matrix/federation/v1/get_missing_events/', answering(200, { events }));
    const asked = { latest: [eventId], earliest: [], limit: 20 };

    const result = await (await startClient(peer)).missingEvents(peer.name, roomId, asked);

    expect(result).toMatchObject({ ok: true, body: { events } });
    expect(peer.requests[0]?.json).toEqual({ latest_events: [eventId], earliest_events: [], limit: 20 });
    expect(isSigned(peer, 0)).toBe(true);
  });

  it('goes over a connection that is kept alive', async () => {
    const peer = await startPeer();
    const ports = new Set<number | undefined>();
    peer.on('GET', '/_matrix/federation/v1/version', (_, response) => {
      ports.add(response.socket?.remotePort);
      respond(response, 200, {});
    });
    const client = await startClient(peer);

    for (let count = 0; count < 5; count += 1) await client.version(peer.name);

    // A second is opened while the first is being handed back.
    expect(ports.size).toBeLessThanOrEqual(2);
  });

  it('is kept alive whatever number of others cannot be reached meanwhile', async () => {
    const peer = await startPeer();
    const ports: (number | undefined)[] = [];
    peer.on('GET', '/_matrix/federation/v1/version', (_, response) => {
      ports.push(response.socket?.remotePort);
      respond(response, 200, {});
    });
    const client = await startClient(peer, { maxPeers: 2 });

    await client.version(peer.name);
    for (const port of [1, 2, 3]) {
      expect(await client.version(name(`127.0.0.1:${port}`))).toMatchObject({ kind: 'unreachable' });
    }
    await client.version(peer.name);

    expect(ports[1]).toBe(ports[0]);
  });

  it('waits when the peer has as many as it may', async () => {
    const peer = await startPeer();
    let open = 0;
    let most = 0;
    peer.on('GET', '/_matrix/federation/v1/version', (_, response) => {
      open += 1;
      most = Math.max(most, open);
      setImmediate(() => {
        open -= 1;
        respond(response, 200, {});
      });
    });
    const client = await startClient(peer, { maxConnectionsPerPeer: 2 });

    const results = await Promise.all(Array.from({ length: 12 }, () => client.version(peer.name)));

    expect(results.every(({ ok }) => ok)).toBe(true);
    expect(most).toBeLessThanOrEqual(2);
  });

  it('still works for a peer whose connections were given up for others', async () => {
    const peers = [await startPeer(), await startPeer({ host: '127.0.0.2' })];
    const client = await startClient(undefined, { maxPeers: 1 });

    for (const peer of [...peers, ...peers]) {
      expect((await client.serverKeys(peer.name)).ok).toBe(true);
    }
  });
});

describe('an answer that is no good', () => {
  const hostile: readonly (readonly [string, PeerHandler, object])[] = [
    [
      'refuses',
      answering(403, { errcode: 'M_FORBIDDEN', error: 'no' }),
      { kind: 'http', status: 403, retry: 'no' },
    ],
    [
      'fails without JSON',
      raw(502, '<html>bad gateway</html>'),
      { kind: 'http', status: 502, retry: 'later' },
    ],
    ['fails at length', raw(500, 'x'.repeat(200_000)), { kind: 'http', status: 500 }],
    [
      'asks for patience',
      answering(429, { errcode: 'M_LIMIT_EXCEEDED', retry_after_ms: 3000 }),
      { kind: 'http', retryAfterMs: 3000 },
    ],
    ['redirects', raw(307, '', { location: '/elsewhere' }), { kind: 'http', status: 307 }],
    ['is created, not OK', answering(201, {}), { kind: 'http', status: 201 }],
    ['is no JSON', raw(200, 'hello'), { kind: 'not-json' }],
    ['is empty', raw(200, ''), { kind: 'not-json' }],
    ['is an array', answering(200, [200, {}]), { kind: 'not-json' }],
    ['is nested without end', raw(200, '['.repeat(500_000)), { kind: 'not-json' }],
    ['is not UTF-8', raw(200, Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), { kind: 'not-json' }],
    [
      'is compressed',
      raw(200, gzipSync(Buffer.alloc(50_000_000)), { 'content-encoding': 'gzip' }),
      { kind: 'not-json' },
    ],
    ['says that it is too large', raw(200, Buffer.alloc(2_000_000, ' ')), { kind: 'too-large' }],
    ['never stops', endless, { kind: 'too-large' }],
    ['has endless headers', raw(200, '{}', { 'x-long': 'x'.repeat(40_000) }), { kind: 'too-large' }],
    ['breaks off', breakingOff, { kind: 'unreachable' }],
    ['never begins', () => {}, { kind: 'timeout' }],
    ['never ends', (_, response) => void response.write('{'), { kind: 'timeout' }],
  ];

  it.each(hostile)('%s', async (_, handler, expected) => {
    const peer = await startPeer();
    peer.on('GET', '/_matrix/federation/v1/version', handler);
    const client = await startClient(peer);

    // Only an answer that does not come is worth a short wait.
    const isTimeout = 'kind' in expected && expected.kind === 'timeout';
    const result = await client.version(peer.name, isTimeout ? { timeoutMs: 200 } : {});

    expect(result).toMatchObject({ ok: false, ...expected });
    expect(peer.requests).toHaveLength(1);
    // One bad answer does not spoil the next.
    expect((await client.serverKeys(peer.name)).ok).toBe(true);
  });

  it('may be as large as the call says', async () => {
    const peer = await startPeer();
    peer.on('GET', '/_matrix/federation/v1/version', raw(200, `{}${' '.repeat(2_000_000)}`));
    const client = await startClient(peer);

    expect((await client.version(peer.name, { maxBodyBytes: 3_000_000 })).ok).toBe(true);
    expect(await client.version(peer.name, { maxBodyBytes: 10 })).toMatchObject({ kind: 'too-large' });
  });

  it('of v1 is one without its wrapper', async () => {
    const peer = await startPeer();
    peer.on('PUT', '/_matrix/federation/v1/send_leave/', answering(200, {}));

    const result = await (await startClient(peer)).sendLeaveV1(peer.name, roomId, eventId, leave);

    expect(result).toMatchObject({ kind: 'not-json' });
  });
});

describe('a server that cannot be reached', () => {
  it('listens no more', async () => {
    const peer = await startRemoteServer();
    const client = await startClient(peer);
    await peer.close();

    expect(await client.version(peer.name)).toMatchObject({ kind: 'unreachable', retry: 'later' });
  });

  it('does not speak TLS', async () => {
    const port = await startTcp((socket) => socket.end('SSH-2.0-x\r\n'));

    expect(await (await startClient()).version(name(`127.0.0.1:${port}`))).toMatchObject({ kind: 'tls' });
  });

  it('never ends the TLS handshake', async () => {
    const port = await startTcp(() => {});
    const client = await startClient(undefined, { timeoutMs: 200 });

    expect(await client.version(name(`127.0.0.1:${port}`))).toMatchObject({ kind: 'timeout' });
  });

  it('has a port that TCP does not', async () => {
    expect(await (await startClient()).version(name('127.0.0.1:0'))).toMatchObject({ kind: 'unreachable' });
  });

  it('has a name that leads nowhere', async () => {
    const noSuchName = Object.assign(new Error('ENOTFOUND'), { code: 'ENOTFOUND' });
    const client = await startClient(undefined, {}, { lookup: () => Promise.reject(noSuchName) });

    expect(await client.version(name('gone.test'))).toMatchObject({ kind: 'unreachable' });
  });

  it('is looked up for too long', async () => {
    const client = await startClient(undefined, { timeoutMs: 100 }, { lookup: () => new Promise(() => {}) });

    expect(await client.version(name('slow.test'))).toMatchObject({ kind: 'timeout' });
  });
});

describe('the certificate', () => {
  it('is of no authority that is trusted: nothing is sent', async () => {
    const peer = await startPeer();
    const client = newClient({ ...defaultOptions, allowNetworks: ['127.0.0.0/8'] });

    expect(await client.version(peer.name)).toMatchObject({ kind: 'tls' });
    expect(peer.requests).toEqual([]);
  });

  it('is of another name', async () => {
    const tls = await generateSelfSigned(['other.test']);
    const peer = await startPeer({ tls });

    expect(await (await startClient(peer)).version(peer.name)).toMatchObject({ kind: 'tls' });
    expect(peer.requests).toEqual([]);
  });

  it('is for the name, wherever that leads', async () => {
    const tls = await generateSelfSigned(['peer.test']);
    const peer = await startPeer({ tls });
    const client = await startClient(peer, {}, { lookup: leadingTo('127.0.0.1') });

    const server = name(`peer.test:${peer.port}`);
    expect((await client.serverKeys(server)).ok).toBe(true);
    expect(peer.requests[0]?.headers.host).toBe(server);
  });

  it('may be any where verification is switched off', async () => {
    const peer = await startPeer({ tls: await generateSelfSigned(['other.test']) });
    const client = newClient({ ...defaultOptions, allowNetworks: ['127.0.0.0/8'], verifyTls: false });

    expect((await client.serverKeys(peer.name)).ok).toBe(true);
  });
});

describe('a network that is not to be dialled', () => {
  it('is loopback, unless allowed', async () => {
    const peer = await startPeer();
    const client = await startClient(peer, { allowNetworks: [] });

    expect(await client.version(peer.name)).toMatchObject({ kind: 'refused-network' });
    expect(await client.version(name(`[::1]:${peer.port}`))).toMatchObject({ kind: 'refused-network' });
    expect(await client.version(name(`[::ffff:127.0.0.1]:${peer.port}`))).toMatchObject({
      kind: 'refused-network',
    });
    expect(peer.requests).toEqual([]);
  });

  it('is what the system says localhost is', async () => {
    const client = await startClient(undefined, { allowNetworks: [] });

    expect(await client.version(name('localhost:8448'))).toMatchObject({ kind: 'refused-network' });
  });

  it.each(['127.0.0.1', '10.0.0.5', '169.254.169.254', '::ffff:127.0.0.1', 'fd00::1'])(
    'is not reached by a public name that leads to %s',
    async (address) => {
      const peer = await startPeer();
      const client = await startClient(peer, { allowNetworks: [] }, { lookup: leadingTo(address) });

      expect(await client.version(name(`public.test:${peer.port}`))).toMatchObject({
        kind: 'refused-network',
      });
      expect(peer.requests).toEqual([]);
    },
  );

  it('is passed over among the addresses of a name', async () => {
    const peer = await startPeer({ tls: await generateSelfSigned(['both.test']) });
    const client = await startClient(
      peer,
      { allowNetworks: ['127.0.0.1/32'] },
      { lookup: leadingTo('169.254.169.254', '127.0.0.1') },
    );

    expect((await client.serverKeys(name(`both.test:${peer.port}`))).ok).toBe(true);
  });

  it('cannot be reached by a name that changes its mind: what was checked is dialled', async () => {
    const peer = await startPeer();
    const answers = ['203.0.113.1', '127.0.0.1'];
    let lookups = 0;
    const client = await startClient(
      peer,
      { allowNetworks: ['203.0.113.0/24'], timeoutMs: 100 },
      { lookup: async () => [{ address: answers[lookups++] ?? '127.0.0.1', family: 4 }] },
    );

    await client.version(name(`rebinding.test:${peer.port}`));

    expect(lookups).toBe(1);
    expect(peer.requests).toEqual([]);
  });
});

describe('the caller', () => {
  it('may give up', async () => {
    const peer = await startPeer();
    peer.on('GET', '/_matrix/federation/v1/version', () => {});
    const client = await startClient(peer);
    const abort = new AbortController();

    const result = client.version(peer.name, { signal: abort.signal });
    await peer.received(({ url }) => url.endsWith('/version'));
    abort.abort();

    expect(await result).toMatchObject({ kind: 'timeout', error: 'the caller gave up' });
    expect(await client.version(peer.name, { signal: abort.signal })).toMatchObject({ kind: 'timeout' });
  });

  it('hears of each outcome', async () => {
    const peer = await startPeer();
    const outcomes: RequestOutcome[] = [];
    const client = await startClient(peer, {}, { onOutcome: (outcome) => outcomes.push(outcome) });

    await client.serverKeys(peer.name);
    await client.makeLeave(peer.name, roomId, userId);

    expect(outcomes).toMatchObject([
      { endpoint: 'serverKeys', server: peer.name, outcome: 'ok', status: 200 },
      { endpoint: 'makeLeave', server: peer.name, outcome: 'http', status: 404 },
    ]);
  });

  it('learns of its own mistakes by exceptions', async () => {
    const client = await startClient();
    const server = name('127.0.0.1:1');

    await expect(client.sendLeaveV2(server, roomId, eventId, { depth: 1.5 })).rejects.toThrow(TypeError);
    await client.close();
    await expect(client.version(server)).rejects.toThrow('closed');
    expect(() => newClient({ ...defaultOptions, allowNetworks: ['local'] })).toThrow(TypeError);
    const broken = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----';
    expect(() => newClient({ ...defaultOptions, ca: 'a path?' })).toThrow(TypeError);
    expect(() => newClient({ ...defaultOptions, ca: broken })).toThrow(TypeError);
  });
});

const defaultOptions: FederationClientOptions = { timeoutMs: 20_000, verifyTls: true, allowNetworks: [] };

async function startPeer(options: RemoteServerOptions = {}): Promise<RemoteServer> {
  const peer = await startRemoteServer(options);
  toClose.push(peer);
  return peer;
}

async function startClient(
  peer?: RemoteServer,
  options: Partial<FederationClientOptions> = {},
  dependencies: Partial<FederationClientDependencies> = {},
): Promise<FederationClient> {
  const ca = peer?.certificate ?? (await selfSignedCertificate()).certificate;
  return newClient({ ...defaultOptions, allowNetworks: ['127.0.0.0/8'], ca, ...options }, dependencies);
}

function newClient(
  options: FederationClientOptions,
  dependencies: Partial<FederationClientDependencies> = {},
): FederationClient {
  const client = new FederationClient({
    serverName: ourName,
    signingKey,
    now: () => 1_700_000_000_000,
    options,
    ...dependencies,
  });
  toClose.push(client);
  return client;
}

function startTcp(onConnection: (socket: import('node:net').Socket) => void): Promise<number> {
  const server: Server = createServer((socket) => {
    socket.on('error', () => {});
    toClose.push({ close: () => socket.destroy() });
    onConnection(socket);
  });
  toClose.push(server);
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
  });
}

function leadingTo(...addresses: string[]) {
  return async () =>
    addresses.map((address) => ({ address, family: address.includes(':') ? (6 as const) : (4 as const) }));
}

function answering(status: number, body: JsonValue): PeerHandler {
  return (_, response) => respond(response, status, body);
}

function raw(status: number, body: string | Buffer, headers: Record<string, string> = {}): PeerHandler {
  return (_, response) => {
    response.writeHead(status, { 'content-length': `${Buffer.byteLength(body)}`, ...headers });
    response.end(body);
  };
}

const endless: PeerHandler = (_, response) => {
  const chunk = Buffer.alloc(65_536, ' ');
  const more = () => {
    while (!response.destroyed && response.write(chunk));
  };
  response.on('drain', more);
  more();
};

const breakingOff: PeerHandler = (_, response) => {
  response.writeHead(200, { 'content-length': '100' });
  response.write('{"half":', () => response.destroy());
};

function isSigned(peer: RemoteServer, index: number): boolean {
  const request = peer.requests[index];
  const header = parseXMatrix(request?.headers.authorization ?? '');
  if (request === undefined || 'error' in header) return false;
  const content = isJsonObject(request.json) ? request.json : undefined;
  const signed: JsonObject = requestToSign({
    method: request.method,
    uri: request.url,
    origin: ourName,
    destination: peer.name,
    content,
  });
  return (
    header.origin === ourName &&
    header.destination === peer.name &&
    header.keyId === signingKey.keyId &&
    verifyJsonSignature(signed, header.signature, selectEd25519().publicKeyOf(signingKey.seed))
  );
}

function name(text: string): ServerName {
  return valid(parseServerName(text));
}

function valid<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('a bad identifier in the test');
  return value;
}
