import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { resolveServerName, resolveWithoutLookups, type Target } from './resolution-steps.js';

interface DiscoveryVector {
  id: string;
  kind: string;
  input: { serverName: string; wellKnown: unknown; srvRecord: unknown };
  expected: { dial: string; hostHeader: string; certificateName: string };
}

const { vectors } = JSON.parse(
  readFileSync(new URL('../../../test/conformance/vectors/identifiers.json', import.meta.url), 'utf8'),
) as { vectors: DiscoveryVector[] };

const withoutDelegation = vectors.filter(
  ({ kind, input }) => kind === 'discovery' && input.wellKnown === null && input.srvRecord === null,
);

describe('a server name that neither .well-known nor SRV records delegate', () => {
  it('has vectors', () => expect(withoutDelegation.length).toBeGreaterThanOrEqual(6));

  it.each(withoutDelegation)('$id: $input.serverName is at $expected.dial', ({ input, expected }) => {
    const target = resolveWithoutLookups(serverName(input.serverName)) as Target;

    expect(target.kind).toBe('target');
    const host = target.host.includes(':') ? `[${target.host}]` : target.host;
    expect(`${host}:${target.port}`).toBe(expected.dial);
    expect(target.hostHeader).toBe(expected.hostHeader);
    expect(target.certificateName).toBe(expected.certificateName);
    expect(target.isIpLiteral).toBe(/^[\d.:[\]]+$/.test(input.serverName));
  });
});

describe('steps 1 and 2', () => {
  it('leave a plain name to the look-ups', () => {
    expect(resolveServerName(serverName('example.com'))).toEqual({
      kind: 'needs-lookup',
      host: 'example.com',
    });
  });

  it.each(['example.com:0', '1.2.3.4:65536', '[::1]:99999'])('refuse the port of %s', (name) => {
    expect(resolveServerName(serverName(name)).kind).toBe('undialable');
  });

  it('take a dotted quad out of range for the DNS name that the grammar makes it', () => {
    expect(resolveServerName(serverName('256.1.1.1')).kind).toBe('needs-lookup');
  });
});

function serverName(text: string): ServerName {
  const parsed = parseServerName(text);
  if (parsed === undefined) throw new Error(`${text} is no server name`);
  return parsed;
}
