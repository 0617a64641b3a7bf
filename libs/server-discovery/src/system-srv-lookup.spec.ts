import { afterEach, describe, expect, it } from 'vitest';
import { startDnsServer, type DnsReply, type DnsServer } from '../../../test/harness/fake-dns.js';
import { systemSrvLookup } from './system-srv-lookup.js';

let server: DnsServer | undefined;
afterEach(() => server?.close());

async function lookingUp(reply: DnsReply, timeoutMs?: number) {
  server = await startDnsServer(() => reply);
  const lookUp = systemSrvLookup({
    servers: [server.address],
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
  return lookUp('_matrix-fed._tcp.example.com');
}

describe('a name server that is asked for SRV records', () => {
  it('gives them', async () => {
    const records = [
      { name: 'a.example.com', port: 8448, priority: 10, weight: 5 },
      { name: 'b.example.com', port: 443, priority: 20, weight: 0 },
    ];

    expect(await lookingUp(records)).toMatchObject(records);
    expect(server?.questions).toEqual(['_matrix-fed._tcp.example.com']);
  });

  it('gives the root for a service that there is not', async () => {
    const [record] = await lookingUp([{ name: '.', port: 0, priority: 0, weight: 0 }]);

    expect(['', '.']).toContain(record?.name);
  });

  it.each<DnsReply>([[], 'no-such-name'])('has none: %j', async (reply) => {
    expect(await lookingUp(reply)).toEqual([]);
  });

  it.each<DnsReply>(['server-failure', 'refused'])('fails: %s', async (reply) => {
    await expect(lookingUp(reply)).rejects.toThrow(/SERVFAIL|REFUSED/i);
  });

  it('does not answer', async () => {
    await expect(lookingUp('silent', 150)).rejects.toThrow('150 ms');
  });
});
