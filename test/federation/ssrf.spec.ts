import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { FederationResult } from '@exeunt/federation-client';
import { parseServerName } from '@exeunt/pdu';
import type { WellKnownFault } from '@exeunt/server-discovery';
import {
  startDiscoveryNetwork,
  type DiscoveryNetwork,
  type NetworkClient,
  type NetworkServer,
  type WebHandler,
} from '../harness/discovery-network.js';
import { respond } from '../harness/remote-server.js';

/**
 * Here one address counts as public: that of the web server, where a homeserver answers for `public.test` on port 8448
 * too. All else on loopback is an inside that a hostile name tries to reach; traps with good certificates listen there.
 */
let network: DiscoveryNetwork;
let homeserver: NetworkServer;
const traps: NetworkServer[] = [];
let trapPort = 0;
let client: NetworkClient;

beforeAll(async () => {
  network = await startDiscoveryNetwork();
  await network.certifyWeb('public.test', 'www.public.test');
  homeserver = await network.serve(['public.test'], { address: network.web.address, port: 8448 });
  const everyName = ['localhost', 'inward.test', 'public.test', '2130706433', '127.0.0.1', '::1'] as const;
  const first = await network.serve(everyName, { address: '127.0.0.1' });
  trapPort = first.port;
  traps.push(
    first,
    await network.serve(everyName, { address: '::1', port: trapPort }),
    await network.serve(everyName, { address: '127.0.0.1', port: network.web.port }),
  );
});
afterAll(() => network?.close());

beforeEach(() => {
  network.onWeb('public.test', (_, response) => respond(response, 404, {}));
  network.dns.addresses('hs.public.test', [homeserver.address]);
  network.dns.addresses('inward.test', ['127.0.0.1']);
  for (const service of ['_matrix-fed._tcp', '_matrix._tcp']) {
    for (const host of ['public.test', 'hs.public.test', 'inward.test'])
      network.dns.srv(`${service}.${host}`, []);
  }
  client = newClient();
});

function newClient(wellKnown: { timeoutMs?: number } = {}): NetworkClient {
  return network.client({ allowNetworks: [network.web.address], wellKnown });
}

function version(name: string): Promise<FederationResult> {
  const parsed = parseServerName(name);
  if (parsed === undefined) throw new Error(`${name} is no server name`);
  return client.client.version(parsed);
}

function expectNothingInside(): void {
  expect(traps.map(({ connections }) => connections)).toEqual(traps.map(() => 0));
}

function addressesRefused(purpose: 'request' | 'well-known'): readonly string[] {
  return client.refused.filter((each) => each.purpose === purpose).map(({ address }) => address);
}

it('has traps that catch', async () => {
  const careless = network.client();
  expect(await careless.client.version(parseServerName(`127.0.0.1:${trapPort}`)!)).toMatchObject({
    ok: true,
  });
  await traps[0]!.close();
  traps[0] = await network.serve(['127.0.0.1', 'inward.test', 'public.test'], {
    address: '127.0.0.1',
    port: trapPort,
  });
});

describe('a server name that leads inside is refused and counted', () => {
  it.each<[string, string, string]>([
    ['loopback', '127.0.0.1', '127.0.0.1'],
    ['all of loopback', '127.255.255.254', '127.255.255.254'],
    ['decimal IPv4', '2130706433', '127.0.0.1'],
    ['hex IPv4', '0x7f000001', '127.0.0.1'],
    ['dotted hex IPv4', '0x7f.0x0.0x0.0x1', '127.0.0.1'],
    ['octal IPv4', '0177.0.0.1', '127.0.0.1'],
    ['short IPv4', '127.1', '127.0.0.1'],
    ['decimal metadata', '2852039166', '169.254.169.254'],
    ['zero', '0', '0.0.0.0'],
    ['unspecified', '0.0.0.0', '0.0.0.0'],
    ['metadata', '169.254.169.254', '169.254.169.254'],
    ['private', '10.0.0.1', '10.0.0.1'],
    ['private', '192.168.0.1', '192.168.0.1'],
    ['carrier-grade NAT', '100.64.0.1', '100.64.0.1'],
    ['broadcast', '255.255.255.255', '255.255.255.255'],
    ['IPv6 loopback', '[::1]', '::1'],
    ['IPv6 loopback in full', '[0:0:0:0:0:0:0:1]', '0:0:0:0:0:0:0:1'],
    ['IPv6 unspecified', '[::]', '::'],
    ['IPv4 mapped into IPv6', '[::ffff:127.0.0.1]', '::ffff:127.0.0.1'],
    ['the same in hex', '[::ffff:7f00:1]', '::ffff:7f00:1'],
    ['IPv4-compatible IPv6', '[::127.0.0.1]', '::127.0.0.1'],
    ['NAT64', '[64:ff9b::7f00:1]', '64:ff9b::7f00:1'],
    ['local NAT64', '[64:ff9b:1::7f00:1]', '64:ff9b:1::7f00:1'],
    ['6to4', '[2002:7f00:1::1]', '2002:7f00:1::1'],
    ['Teredo', '[2001:0:7f00:1::1]', '2001:0:7f00:1::1'],
    ['link-local', '[fe80::1]', 'fe80::1'],
    ['unique local', '[fd00::1]', 'fd00::1'],
  ])('%s: %s', async (_, host, address) => {
    expect(await version(`${host}:${trapPort}`)).toMatchObject({ ok: false, kind: 'refused-network' });

    expect(client.outcomes).toMatchObject([{ outcome: 'refused-network' }]);
    expect(addressesRefused('request')).toEqual([address]);
    expectNothingInside();
  });

  it.each(['localhost', 'LOCALHOST'])('what the system knows as %s', async (host) => {
    expect(await version(`${host}:${trapPort}`)).toMatchObject({ kind: 'refused-network' });
    expect(addressesRefused('request').length).toBeGreaterThan(0);
    expectNothingInside();
  });

  it.each([
    'user@127.0.0.1',
    'user:pw@127.0.0.1',
    'public.test\r\nHost: inward.test',
    'public.test:8448\n',
    '[fe80::1%25eth0]',
    '[fe80::1%eth0]:8448',
    '[::1',
    'public.test/../inward.test',
    'public.test#',
    'bücher.test',
    '１２７.0.0.1',
    '',
    ':8448',
  ])('%j is no server name at all', (text) => expect(parseServerName(text)).toBeUndefined());

  it.each(['127.0.0.1:0', 'public.test:0', 'public.test:65536', '[::1]:99999', 'public..test', '.'])(
    '%s is nowhere',
    async (name) => {
      expect(await version(name)).toMatchObject({ kind: 'unreachable' });
      expect(client.outcomes).toMatchObject([{ outcome: 'unreachable' }]);
    },
  );
});

describe('a name in DNS', () => {
  it.each<[string, readonly string[]]>([
    ['leads inside', ['127.0.0.1']],
    ['leads to several places inside', ['127.0.0.1', '10.0.0.1', '::1', '169.254.169.254']],
    ['leads inside by IPv6', ['::ffff:127.0.0.1', '64:ff9b::7f00:1']],
    ['leads to an address with a zone', ['fe80::1%lo']],
  ])('%s: refused and counted', async (_, addresses) => {
    network.dns.addresses('inward.test', addresses);

    expect(await version(`inward.test:${trapPort}`)).toMatchObject({ kind: 'refused-network' });
    expect(addressesRefused('request')).toEqual(addresses);
    expectNothingInside();
  });

  it('leads inside and outside: only outside is dialled, the rest is counted', async () => {
    network.dns.addresses('public.test', ['127.0.0.1', homeserver.address, '::1']);

    expect(await version('public.test:8448')).toMatchObject({ ok: true });
    expect(addressesRefused('request')).toEqual(['127.0.0.1', '::1']);
    expectNothingInside();
  });

  it('changes between the check and the dialling: there is no second question', async () => {
    // Allowed, and nothing listens there.
    network.dns.addresses('inward.test', [homeserver.address], ['127.0.0.1']);
    const before = network.dns.questions.length;

    expect(await version(`inward.test:${trapPort}`)).toMatchObject({ kind: 'unreachable' });
    expect(network.dns.questions.slice(before)).toEqual(['A inward.test']);

    // The next connection asks again, and is refused.
    expect(await version(`inward.test:${trapPort}`)).toMatchObject({ kind: 'refused-network' });
    expect(addressesRefused('request')).toEqual(['127.0.0.1']);
    expectNothingInside();
  });
});

describe('SRV records', () => {
  const srv = '_matrix-fed._tcp.public.test';

  it.each<[string, string, string]>([
    ['a name inside', 'inward.test', '127.0.0.1'],
    ['an address', '127.0.0.1', '127.0.0.1'],
    ['an address in decimal', '2130706433', '127.0.0.1'],
    ['localhost', 'localhost.', '127.0.0.1'],
  ])('that lead to %s: refused and counted', async (_, name, address) => {
    network.dns.srv(srv, [{ name, port: trapPort }]);

    expect(await version('public.test')).toMatchObject({ kind: 'refused-network' });
    expect(addressesRefused('request')).toContain(address);
    expectNothingInside();
  });

  it('that lead inside and outside: only outside is dialled, the rest is counted', async () => {
    network.dns.srv(srv, [
      { name: 'inward.test', port: trapPort, priority: 1 },
      { name: 'hs.public.test', port: 8448, priority: 2 },
    ]);

    expect(await version('public.test')).toMatchObject({ ok: true });
    expect(addressesRefused('request')).toEqual(['127.0.0.1']);
    expectNothingInside();
  });

  it.each(['a b.test', 'x@inward.test', 'inward.test/', '[::1]', 'a\r\nb.test', '\0.test'])(
    'that lead to %j lead nowhere',
    async (name) => {
      network.dns.srv(srv, [{ name, port: trapPort }]);

      expect(await version('public.test')).toMatchObject({ kind: 'unreachable' });
      expect(client.outcomes).toMatchObject([{ outcome: 'unreachable' }]);
      expectNothingInside();
    },
  );
});

describe('a .well-known that points inside is refused and counted', () => {
  it.each<[string, () => string, string]>([
    ['by address', () => `127.0.0.1:${trapPort}`, '127.0.0.1'],
    ['by metadata address', () => '169.254.169.254:80', '169.254.169.254'],
    ['by address in decimal', () => `2130706433:${trapPort}`, '127.0.0.1'],
    ['by address in octal', () => `0177.0.0.1:${trapPort}`, '127.0.0.1'],
    ['by IPv6 address', () => `[::1]:${trapPort}`, '::1'],
    ['by mapped IPv6 address', () => `[::ffff:7f00:1]:${trapPort}`, '::ffff:7f00:1'],
    ['by name', () => `inward.test:${trapPort}`, '127.0.0.1'],
    ['by name, upper case, dot at its end', () => `INWARD.test.:${trapPort}`, '127.0.0.1'],
    ['by SRV target', () => 'hs.public.test', '127.0.0.1'],
  ])('%s', async (_, server, address) => {
    network.onWeb('public.test', delegating(server()));
    network.dns.srv('_matrix-fed._tcp.hs.public.test', [{ name: 'inward.test', port: trapPort }]);

    expect(await version('public.test')).toMatchObject({ kind: 'refused-network' });
    expect(client.lookups[0]).toMatchObject({ kind: 'well-known', outcome: 'delegated' });
    expect(client.outcomes).toMatchObject([{ outcome: 'refused-network' }]);
    expect(addressesRefused('request')).toEqual([address]);
    expectNothingInside();
  });

  it('by being inside itself: neither it nor the host on 8448', async () => {
    expect(await version('inward.test')).toMatchObject({ kind: 'refused-network' });

    expect(client.lookups[0]).toMatchObject({ kind: 'well-known', outcome: 'refused-network' });
    expect(addressesRefused('well-known')).toEqual(['127.0.0.1']);
    expect(addressesRefused('request')).toEqual(['127.0.0.1']);
    expectNothingInside();
  });

  it.each(['2130706433', '0x7f000001', '127.1', '256.1.1.1'])(
    'by a host that a URL takes for another, or for none: %s',
    async (host) => {
      const result = await version(host);

      expect(result.ok).toBe(false);
      expect(client.lookups[0]).toMatchObject({ kind: 'well-known', host, outcome: 'unreachable' });
      expect(addressesRefused('well-known')).toEqual([]);
      expectNothingInside();
    },
  );
});

/** What goes wrong with the .well-known of `public.test`, after which step 6 finds its homeserver all the same. */
describe('a .well-known that is no good is counted, and discovery goes on at step 4', () => {
  let chainLength = 0;
  const redirects: readonly [string, WellKnownFault, WebHandler, (readonly string[])?][] = [
    ['redirects to http', 'bad-redirect', redirecting('http://www.public.test/')],
    ['redirects to file:', 'bad-redirect', redirecting('file:///etc/passwd')],
    ['redirects to data:', 'bad-redirect', redirecting('data:application/json,{"m.server":"inward.test"}')],
    ['redirects to gopher:', 'bad-redirect', redirecting('gopher://127.0.0.1:25/')],
    ['redirects to no URL', 'bad-redirect', redirecting('https://[::1')],
    ['redirects to an address with a zone', 'bad-redirect', redirecting('https://[fe80::1%25lo]/')],
    ['redirects with a user name', 'bad-redirect', redirecting('https://user:pw@www.public.test/')],
    ['redirects to loopback', 'refused-network', redirecting('https://127.0.0.1/'), ['127.0.0.1']],
    ['redirects to decimal loopback', 'refused-network', redirecting('https://2130706433/'), ['127.0.0.1']],
    ['redirects to octal loopback', 'refused-network', redirecting('https://0177.1/'), ['127.0.0.1']],
    [
      'redirects to full-width loopback',
      'refused-network',
      redirecting('https://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1/'),
      ['127.0.0.1'],
    ],
    ['redirects to IPv6 loopback', 'refused-network', redirecting('https://[::1]/'), ['::1']],
    [
      'redirects to mapped loopback',
      'refused-network',
      redirecting('https://[::ffff:127.0.0.1]/'),
      ['::ffff:7f00:1'],
    ],
    [
      'redirects to metadata',
      'refused-network',
      redirecting('https://169.254.169.254/'),
      ['169.254.169.254'],
    ],
    ['redirects to a name inside', 'refused-network', redirecting('https://inward.test/'), ['127.0.0.1']],
    ['redirects to itself', 'redirect-loop', redirecting('/.well-known/matrix/server#again')],
    [
      'redirects in a circle',
      'redirect-loop',
      (url, response) => redirecting(url === '/a' ? '/b' : '/a')(url, response),
    ],
    [
      'redirects a hundred times',
      'too-many-redirects',
      (url, response) => redirecting(`/${(chainLength += 1)}`)(url, response),
    ],
    ['redirects nowhere', 'status', (_, response) => void response.writeHead(302).end()],
    ['is a redirect of choice', 'status', redirecting('https://www.public.test/', 300)],
    ['is not found', 'status', answering(404, '{"m.server":"inward.test"}')],
    ['is not for us', 'status', answering(403, '{}')],
    ['is broken', 'status', answering(500, '{}')],
    ['is empty', 'not-json', answering(200, '')],
    ['is a web page', 'not-json', answering(200, '<!doctype html><p>inward.test')],
    ['is nested without end', 'not-json', answering(200, '['.repeat(50_000))],
    [
      'says that it is too large',
      'too-large',
      answering(200, `{"m.server":"inward.test"}${' '.repeat(51_200)}`),
    ],
    ['never stops', 'too-large', endless],
    ['has giant headers', 'too-large', answering(200, '{}', { 'x-giant': 'x'.repeat(40_000) })],
    [
      'is a bomb',
      'compressed',
      (_, response) => {
        response.writeHead(200, { 'content-encoding': 'gzip' });
        response.end(gzipSync(Buffer.alloc(20_000_000, ' ')));
      },
    ],
    ['breaks off', 'unreachable', (_, response) => void response.destroy()],
    ['names nobody', 'no-server', answering(200, '{}')],
    ['names null', 'no-server', answering(200, '{"m.server":null}')],
    ['names a number', 'no-server', answering(200, '{"m.server":2130706433}')],
    ['names a list', 'no-server', answering(200, '{"m.server":["inward.test"]}')],
    ['names nothing', 'no-server', answering(200, '{"m.server":""}')],
    ['names port 0', 'no-server', answering(200, '{"m.server":"inward.test:0"}')],
    ['names port 65536', 'no-server', answering(200, '{"m.server":"inward.test:65536"}')],
    ['names a URL', 'no-server', answering(200, '{"m.server":"https://inward.test"}')],
    ['names a user', 'no-server', answering(200, '{"m.server":"public.test@inward.test"}')],
    ['names two lines', 'no-server', answering(200, '{"m.server":"inward.test\\r\\nX: y"}')],
    ['names a zone', 'no-server', answering(200, '{"m.server":"[fe80::1%25lo]:8448"}')],
    ['names letters beyond ASCII', 'no-server', answering(200, '{"m.server":"ｉnward.test"}')],
    ['names by the prototype', 'no-server', answering(200, '{"__proto__":{"m.server":"inward.test"}}')],
  ];

  it.each(redirects)('%s: %s', async (_, fault, handler, refused = []) => {
    chainLength = 0;
    network.onWeb('public.test', handler);
    const asked = network.web.arrivals.length;

    expect(await version('public.test')).toMatchObject({ ok: true });
    expect(client.lookups[0]).toMatchObject({ kind: 'well-known', host: 'public.test', outcome: fault });
    expect(addressesRefused('well-known')).toEqual(refused);
    expect(network.web.arrivals.length - asked).toBeLessThanOrEqual(6);
    expect(homeserver.arrivals.at(-1)).toMatchObject({ hostHeader: 'public.test', sni: 'public.test' });
    expectNothingInside();
  });

  it.each<[string, WebHandler]>([
    ['never begins', () => {}],
    ['never ends', (_, response) => void response.writeHead(200).write('{')],
  ])('%s: timeout', async (_, handler) => {
    client = newClient({ timeoutMs: 200 });
    network.onWeb('public.test', handler);

    expect(await version('public.test')).toMatchObject({ ok: true });
    expect(client.lookups[0]).toMatchObject({ outcome: 'timeout' });
    expectNothingInside();
  });

  it('is at a host that changes after the check: there is no second question', async () => {
    network.dns.addresses('public.test', ['127.0.0.1'], [homeserver.address]);

    expect(await version('public.test')).toMatchObject({ ok: true });
    expect(client.lookups[0]).toMatchObject({ outcome: 'refused-network' });
    expect(addressesRefused('well-known')).toEqual(['127.0.0.1']);
    expectNothingInside();
  });
});

describe('names that only look odd', () => {
  it.each([
    ['PUBLIC.test', 'public.test'],
    ['public.test.', 'public.test'],
  ])('%s is who it says, by the certificate of %s', async (name, sni) => {
    expect(await version(`${name}:8448`)).toMatchObject({ ok: true });
    expect(homeserver.arrivals.at(-1)).toMatchObject({ sni, hostHeader: `${name}:8448` });
  });

  it('an IDN in its ASCII form is a name like any other', async () => {
    network.dns.addresses('xn--bcher-kva.test', [homeserver.address]);

    expect(await version('xn--bcher-kva.test:8448')).toMatchObject({ kind: 'tls' });
  });
});

function delegating(server: string): WebHandler {
  return (_, response) => respond(response, 200, { 'm.server': server });
}

function redirecting(location: string, status = 302): WebHandler {
  return (_, response) => void response.writeHead(status, { location }).end();
}

function answering(status: number, body: string, headers: Record<string, string> = {}): WebHandler {
  return (_, response) => void response.writeHead(status, headers).end(body);
}

const endless: WebHandler = (_, response) => {
  const chunk = Buffer.alloc(65_536, ' ');
  const more = () => {
    while (!response.destroyed && response.write(chunk));
  };
  response.on('drain', more);
  more();
};
