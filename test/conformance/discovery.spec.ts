import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { ServerDiscovery, type Target, type WellKnownAnswer } from '@exeunt/server-discovery';
import { createFakeDns } from '../harness/fake-dns.js';

interface DiscoveryVector {
  readonly id: string;
  readonly kind: string;
  readonly input: {
    readonly serverName: string;
    readonly wellKnown: object | null;
    readonly srvRecord: { readonly target: string; readonly port: number } | null;
  };
  readonly expected: { readonly dial: string; readonly hostHeader: string; readonly certificateName: string };
}

const { vectors } = JSON.parse(
  readFileSync(new URL('vectors/identifiers.json', import.meta.url), 'utf8'),
) as { vectors: DiscoveryVector[] };
const rows = vectors.filter(({ kind }) => kind === 'discovery');

const notFound: WellKnownAnswer = { kind: 'answer', status: 404, headers: {}, body: new Uint8Array() };

/** The deprecated name must give the same as the one in use. (steps 3.4 and 5) */
const services = ['_matrix-fed._tcp', '_matrix._tcp'];

describe('the discovery vectors', () => {
  it('are twelve', () => expect(rows).toHaveLength(12));

  describe.each(services)('with SRV records of %s', (service) => {
    it.each(rows)('$id: $input.serverName is at $expected.dial', async ({ input, expected }) => {
      const dns = createFakeDns();
      const { wellKnown, srvRecord } = input;
      const delegated = wellKnown === null ? undefined : (wellKnown as Record<string, string>)['m.server'];
      if (srvRecord !== null) {
        const record = { name: srvRecord.target, port: srvRecord.port };
        dns.srv(`${service}.${delegated ?? input.serverName}`, [record]);
      }
      const asked: string[] = [];
      const discovery = new ServerDiscovery({
        async fetchWellKnown(host) {
          asked.push(host);
          if (wellKnown === null) return notFound;
          return { ...notFound, status: 200, body: Buffer.from(JSON.stringify(wellKnown)) };
        },
        lookUpSrv: dns.lookUpSrv,
        now: () => 0,
        random: () => 0,
      });

      const resolution = await discovery.resolve(serverName(input.serverName));

      expect(resolution.kind === 'targets' && resolution.targets.map(shown)).toEqual([expected]);
      // Only a name without a port is asked for a .well-known. (DS-01)
      expect(asked).toEqual(/[:\]]|^[\d.]+$/.test(input.serverName) ? [] : [input.serverName]);
    });
  });
});

function shown({ host, port, hostHeader, certificateName }: Target): DiscoveryVector['expected'] {
  const address = host.includes(':') ? `[${host}]` : host;
  return { dial: `${address}:${port}`, hostHeader, certificateName };
}

function serverName(text: string): ServerName {
  const parsed = parseServerName(text);
  if (parsed === undefined) throw new Error(`${text} is no server name`);
  return parsed;
}
