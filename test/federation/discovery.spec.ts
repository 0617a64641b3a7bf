import { createServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { encodeCanonicalJson } from '@exeunt/signing';
import {
  startDiscoveryNetwork,
  type DiscoveryNetwork,
  type NetworkServer,
  type WebHandler,
} from '../harness/discovery-network.js';
import { respond } from '../harness/remote-server.js';

let network: DiscoveryNetwork;

beforeAll(async () => {
  network = await startDiscoveryNetwork();
});
afterAll(() => network?.close());

/** One row of the table in requirements section 6, on a network of its own names. */
interface Row {
  readonly step: string;
  /** Told where the homeserver is; gives its server name. */
  readonly arrange: (at: string, port: number, host: string) => string;
  readonly port: 'free' | 8448;
  /** What the homeserver must see, by the names of `host` and the address and port it is at. */
  readonly hostHeader: (at: string, port: number, host: string) => string;
  /** Also the name in the TLS handshake, unless it is the address. */
  readonly certificateName: (at: string, host: string) => string;
  /** A name with a certificate that must not do, although the way there led past it. */
  readonly wrongName: (host: string) => string;
}

const itself = (_: string, __: number, host: string) => host;
const delegatedTo = (_: string, __: number, host: string) => `hs.${host}`;

const rows: readonly Row[] = [
  {
    step: '1, an IP literal',
    arrange: (at) => at,
    port: 8448,
    hostHeader: (at) => at,
    certificateName: (at) => at,
    wrongName: (host) => host,
  },
  {
    step: '1, an IP literal with a port',
    arrange: (at, port) => `${at}:${port}`,
    port: 'free',
    hostHeader: (at, port) => `${at}:${port}`,
    certificateName: (at) => at,
    wrongName: (host) => host,
  },
  {
    step: '2, a name with a port',
    arrange: (at, port, host) => {
      // Neither is asked.
      network.dns.srv(`_matrix-fed._tcp.${host}`, [{ name: 'srv.invalid', port: 1 }]);
      network.dns.addresses(host, [at]);
      return `${host}:${port}`;
    },
    port: 'free',
    hostHeader: (_, port, host) => `${host}:${port}`,
    certificateName: (_, host) => host,
    wrongName: (host) => `hs.${host}`,
  },
  {
    step: '3.1, delegated to an IP literal',
    arrange: (at, _, host) => {
      network.onWeb(host, delegating(at));
      return host;
    },
    port: 8448,
    hostHeader: (at) => at,
    certificateName: (at) => at,
    wrongName: (host) => host,
  },
  {
    step: '3.1, delegated to an IP literal with a port',
    arrange: (at, port, host) => {
      network.onWeb(host, delegating(`${at}:${port}`));
      return host;
    },
    port: 'free',
    hostHeader: (at, port) => `${at}:${port}`,
    certificateName: (at) => at,
    wrongName: (host) => host,
  },
  {
    step: '3.2, delegated to a name with a port',
    arrange: (at, port, host) => {
      network.onWeb(host, delegating(`hs.${host}:${port}`));
      network.dns.srv(`_matrix-fed._tcp.hs.${host}`, [{ name: 'srv.invalid', port: 1 }]);
      network.dns.addresses(`hs.${host}`, [at]);
      return host;
    },
    port: 'free',
    hostHeader: (_, port, host) => `hs.${host}:${port}`,
    certificateName: (_, host) => `hs.${host}`,
    wrongName: (host) => host,
  },
  {
    step: '3.3, delegated to a name with SRV records',
    arrange: (at, port, host) => {
      network.onWeb(host, delegating(`hs.${host}`));
      network.dns.srv(`_matrix-fed._tcp.hs.${host}`, [{ name: `srv.${host}.`, port }]);
      network.dns.srv(`_matrix._tcp.hs.${host}`, [{ name: 'old.invalid', port: 1 }]);
      network.dns.srv(`_matrix-fed._tcp.${host}`, [{ name: 'undelegated.invalid', port: 1 }]);
      network.dns.addresses(`srv.${host}`, [at]);
      return host;
    },
    port: 'free',
    hostHeader: delegatedTo,
    certificateName: (_, host) => `hs.${host}`,
    wrongName: (host) => `srv.${host}`,
  },
  {
    step: '3.4, delegated to a name with SRV records of the deprecated service',
    arrange: (at, port, host) => {
      network.onWeb(host, delegating(`hs.${host}`));
      network.dns.srv(`_matrix._tcp.hs.${host}`, [{ name: `srv.${host}`, port }]);
      network.dns.addresses(`srv.${host}`, [at]);
      return host;
    },
    port: 'free',
    hostHeader: delegatedTo,
    certificateName: (_, host) => `hs.${host}`,
    wrongName: (host) => `srv.${host}`,
  },
  {
    step: '3.5, delegated to a name without SRV records',
    arrange: (at, _, host) => {
      network.onWeb(host, delegating(`hs.${host}`));
      network.dns.addresses(`hs.${host}`, [at]);
      return host;
    },
    port: 8448,
    hostHeader: delegatedTo,
    certificateName: (_, host) => `hs.${host}`,
    wrongName: (host) => host,
  },
  {
    step: '4, not delegated, with SRV records',
    arrange: (at, port, host) => {
      network.onWeb(host, (_, response) => respond(response, 404, { 'm.server': 'not.invalid:1' }));
      network.dns.srv(`_matrix-fed._tcp.${host}`, [{ name: `srv.${host}`, port }]);
      network.dns.srv(`_matrix._tcp.${host}`, [{ name: 'old.invalid', port: 1 }]);
      network.dns.addresses(`srv.${host}`, [at]);
      return host;
    },
    port: 'free',
    hostHeader: itself,
    certificateName: (_, host) => host,
    wrongName: (host) => `srv.${host}`,
  },
  {
    step: '5, not delegated, with SRV records of the deprecated service',
    arrange: (at, port, host) => {
      network.dns.srv(`_matrix._tcp.${host}`, [{ name: `srv.${host}`, port }]);
      network.dns.addresses(`srv.${host}`, [at]);
      return host;
    },
    port: 'free',
    hostHeader: itself,
    certificateName: (_, host) => host,
    wrongName: (host) => `srv.${host}`,
  },
  {
    step: '6, neither delegated nor with SRV records',
    arrange: (at, _, host) => {
      network.dns.addresses(host, [at]);
      return host;
    },
    port: 8448,
    hostHeader: itself,
    certificateName: (_, host) => host,
    wrongName: (host) => `hs.${host}`,
  },
];

describe('resolving a server name, step', () => {
  it.each(rows.map((row, index) => ({ ...row, host: `row${index}.test` })))('$step', async (row) => {
    const { host } = row;
    await network.certifyWeb(host);
    const homeserver = await network.serve([row.wrongName(host)], row.port === 8448 ? { port: 8448 } : {});
    const { address, port } = homeserver;
    const name = serverName(row.arrange(address, port, host));

    // A certificate for another name will not do, and nothing is sent to who shows it. (DS-06)
    expect(await network.client().client.version(name)).toMatchObject({ ok: false, kind: 'tls' });
    expect(homeserver).toMatchObject({ arrivals: [], connections: 1 });

    const certificateName = row.certificateName(address, host);
    await homeserver.certify(certificateName);
    expect(await network.client().client.version(name)).toMatchObject({ ok: true });
    expect(homeserver.arrivals).toEqual([
      {
        address,
        port,
        sni: certificateName === address ? false : certificateName,
        hostHeader: row.hostHeader(address, port, host),
        url: '/_matrix/federation/v1/version',
      },
    ]);
  });

  it('1, an IPv6 literal with a port', async () => {
    const { port, arrivals } = await network.serve(['::1'], { address: '::1' });

    const name = serverName(`[::1]:${port}`);
    expect(await network.client().client.version(name)).toMatchObject({ ok: true });
    expect(arrivals).toMatchObject([{ address: '::1', port, sni: false, hostHeader: name }]);
  });
});

describe('the .well-known', () => {
  it('is asked for at its host, on the port for URLs without one, and once (DS-01, DS-04)', async () => {
    const homeserver = await network.serve(['hs.once.test']);
    await network.certifyWeb('once.test');
    network.onWeb('once.test', delegating(`hs.once.test:${homeserver.port}`));
    network.dns.addresses('hs.once.test', [homeserver.address]);
    const { client, lookups } = network.client();
    const before = network.web.arrivals.length;

    const results = await Promise.all([1, 2, 3].map(() => client.version(serverName('once.test'))));

    expect(results.every(({ ok }) => ok)).toBe(true);
    expect(network.web.arrivals.slice(before)).toEqual([
      {
        address: network.web.address,
        port: network.web.port,
        sni: 'once.test',
        hostHeader: 'once.test',
        url: '/.well-known/matrix/server',
      },
    ]);
    expect(lookups).toMatchObject([{ host: 'once.test', outcome: 'delegated', lifetimeMs: 24 * 3_600_000 }]);
  });

  it.each([301, 302, 303, 307, 308])('is followed where a %i leads (DS-02)', async (status) => {
    const host = `from${status}.test`;
    const homeserver = await network.serve([`hs.${host}`]);
    await network.certifyWeb(host, `www.${host}`);
    network.onWeb(host, redirecting(`https://www.${host}/a?b#c`, status));
    network.onWeb(`www.${host}`, (url, response) =>
      url === '/a?b'
        ? redirecting('../matrix.json')(url, response)
        : delegating(`hs.${host}:${homeserver.port}`)(url, response),
    );
    network.dns.addresses(`hs.${host}`, [homeserver.address]);

    expect(await network.client().client.version(serverName(host))).toMatchObject({ ok: true });
    expect(homeserver.arrivals).toHaveLength(1);
  });

  it('counts whatever its content type says (DS-02)', async () => {
    const homeserver = await network.serve(['hs.text.test']);
    await network.certifyWeb('text.test');
    network.onWeb('text.test', (_, response) => {
      response.writeHead(200, { 'content-type': 'text/html', 'cache-control': 'max-age=7200' });
      response.end(JSON.stringify({ 'm.server': `hs.text.test:${homeserver.port}` }));
    });
    network.dns.addresses('hs.text.test', [homeserver.address]);
    const { client, lookups } = network.client();

    expect(await client.version(serverName('text.test'))).toMatchObject({ ok: true });
    expect(lookups).toMatchObject([{ outcome: 'delegated', lifetimeMs: 2 * 3_600_000 }]);
  });

  it('does not count from a host with the certificate of another: step 4 (DS-02, DS-03)', async () => {
    await network.certifyWeb('other.test');
    network.onWeb('forged.test', delegating('hs.forged.test:1'));
    const homeserver = await network.serve(['forged.test']);
    network.dns.srv('_matrix-fed._tcp.forged.test', [{ name: 'srv.forged.test', port: homeserver.port }]);
    network.dns.addresses('srv.forged.test', [homeserver.address]);
    const { client, lookups } = network.client();

    expect(await client.version(serverName('forged.test'))).toMatchObject({ ok: true });
    expect(lookups[0]).toMatchObject({ outcome: 'tls' });
    expect(homeserver.arrivals).toMatchObject([{ hostHeader: 'forged.test' }]);
  });
});

describe('several targets', () => {
  async function severalTargets(host: string, servers: readonly { at: NetworkServer; priority: number }[]) {
    network.dns.srv(
      `_matrix-fed._tcp.${host}`,
      servers.map(({ at, priority }, index) => ({ name: `n${index}.${host}`, port: at.port, priority })),
    );
    servers.forEach(({ at }, index) => network.dns.addresses(`n${index}.${host}`, [at.address]));
    network.dns.addresses(host, [network.web.address]);
  }

  it('are tried by priority while no connection can be made (DS-09)', async () => {
    const host = 'several.test';
    const [gone, forged, good, spare] = await Promise.all([
      network.serve([host]),
      network.serve(['other.test']),
      network.serve([host]),
      network.serve([host]),
    ]);
    await gone.close();
    await severalTargets(host, [
      { at: spare, priority: 40 },
      { at: good, priority: 30 },
      { at: forged, priority: 20 },
      { at: gone, priority: 10 },
    ]);
    const { client, outcomes } = network.client();

    expect(await client.version(serverName(host))).toMatchObject({ ok: true });
    expect([forged.connections, good.connections, spare.connections]).toEqual([1, 1, 0]);
    expect(outcomes).toMatchObject([{ outcome: 'ok' }]);

    // Those that failed go last for a while, then they are tried again.
    await client.version(serverName(host));
    expect(forged.connections).toBe(1);
    await network.clock.advance(31_000);
    await client.version(serverName(host));
    expect(forged.connections).toBe(2);
  });

  it('share the time of the call, where one does not answer the handshake', async () => {
    const host = 'silent.test';
    const silent = createServer((socket) => void socket.on('error', () => {}));
    const address = network.newAddress();
    await new Promise<void>((resolve) => silent.listen(0, address, resolve));
    const { port } = silent.address() as { port: number };
    const good = await network.serve([host]);
    network.dns.srv(`_matrix-fed._tcp.${host}`, [
      { name: 'n0.silent.test', port, priority: 1 },
      { name: 'n1.silent.test', port: good.port, priority: 2 },
    ]);
    network.dns.addresses('n0.silent.test', [address]);
    network.dns.addresses('n1.silent.test', [good.address]);
    const { client } = network.client();

    expect(await client.version(serverName(host), { timeoutMs: 1500 })).toMatchObject({ ok: true });
    await client.close();
    silent.close();
  });

  it('say of each why it cannot be reached, where none can', async () => {
    const host = 'none.test';
    const [gone, forged] = await Promise.all([network.serve([host]), network.serve(['other.test'])]);
    await gone.close();
    await severalTargets(host, [
      { at: gone, priority: 1 },
      { at: forged, priority: 2 },
    ]);

    const result = await network.client().client.version(serverName(host));

    expect(result).toMatchObject({ ok: false, kind: 'tls' });
    expect(result.ok ? '' : result.error).toMatch(/n0\.none\.test:\d+: .*ECONNREFUSED.*; n1\.none\.test:/);
  });

  it('are not tried once a request may have been sent', async () => {
    const host = 'sent.test';
    const [breaking, spare] = await Promise.all([network.serve([host]), network.serve([host])]);
    breaking.answer((_, response) => void response.destroy());
    await severalTargets(host, [
      { at: breaking, priority: 1 },
      { at: spare, priority: 2 },
    ]);
    const { client } = network.client();

    const leave = { type: 'm.room.member' };
    expect(await client.sendTransaction(serverName(host), 'txn', encodeCanonicalJson(leave))).toMatchObject({
      kind: 'unreachable',
    });
    expect([breaking.arrivals.length, spare.connections]).toEqual([1, 0]);
  });

  it('are not tried while one that has the request takes its time', async () => {
    const host = 'slow.test';
    const [slow, spare] = await Promise.all([network.serve([host]), network.serve([host])]);
    slow.answer(() => {});
    await severalTargets(host, [
      { at: slow, priority: 1 },
      { at: spare, priority: 2 },
    ]);

    const result = network.client().client.version(serverName(host), { timeoutMs: 600 });

    expect(await result).toMatchObject({ kind: 'timeout' });
    expect([slow.arrivals.length, spare.connections]).toEqual([1, 0]);
  });

  it('may be addresses of one name: the next where nothing listens', async () => {
    const good = await network.serve(['many.test']);
    network.dns.addresses('many.test', [network.newAddress(), network.newAddress(), good.address]);

    const name = serverName(`many.test:${good.port}`);
    expect(await network.client().client.version(name)).toMatchObject({ ok: true });
  });

  it('are none where the record says that there is no service', async () => {
    const homeserver = await network.serve(['closed.test'], { port: 8448 });
    network.dns.addresses('closed.test', [homeserver.address]);
    network.dns.srv('_matrix-fed._tcp.closed.test', [{ name: '.', port: 0 }]);

    expect(await network.client().client.version(serverName('closed.test'))).toMatchObject({
      kind: 'unreachable',
      error: expect.stringContaining('no such service'),
    });
    expect(homeserver.connections).toBe(0);
  });
});

function delegating(server: string): WebHandler {
  return (_, response) => respond(response, 200, { 'm.server': server });
}

function redirecting(location: string, status = 302): WebHandler {
  return (_, response) => void response.writeHead(status, { location }).end();
}

function serverName(text: string): ServerName {
  const parsed = parseServerName(text);
  if (parsed === undefined) throw new Error(`${text} is no server name`);
  return parsed;
}
