import { describe, expect, it } from 'vitest';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import {
  resolveBySrv,
  resolveServerName,
  resolveWithoutLookups,
  type Resolution,
  type SrvOutcome,
} from './resolution-steps.js';
import type { SrvRecord } from './srv-order.js';

describe('without look-ups', () => {
  it.each([
    ['example.com', 'example.com', 8448],
    ['example.com:443', 'example.com', 443],
    ['[::1]', '::1', 8448],
  ])('%s is at %s, port %i', (name, host, port) => {
    expect(resolveWithoutLookups(serverName(name))).toMatchObject({
      kind: 'targets',
      targets: [{ host, port, hostHeader: name }],
    });
  });

  it('a port that TCP does not have is nowhere', () => {
    expect(resolveWithoutLookups(serverName('example.com:0')).kind).toBe('undialable');
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

describe('the name of the certificate', () => {
  it.each([
    ['Example.COM:1', 'example.com'],
    ['example.com.:1', 'example.com'],
    ['[2606:4700::1]', '2606:4700::1'],
  ])('of %s is %s, while its Host header is as given', (name, certificateName) => {
    expect(resolveServerName(serverName(name))).toMatchObject({ certificateName, hostHeader: name });
  });

  it.each(['.', '..', 'a..b', '.a:8448', `${'a'.repeat(64)}.test`, `${'a.'.repeat(127)}a`])(
    '%s is none that DNS can have',
    (name) => expect(resolveServerName(serverName(name)).kind).toBe('undialable'),
  );
});

describe('SRV records', () => {
  const lookup = { kind: 'needs-lookup', host: 'Example.com' } as const;
  const at = (name: string, port = 1234, priority = 0): SrvRecord => ({ name, port, priority, weight: 0 });
  const resolve = (matrixFed: SrvOutcome, matrix: SrvOutcome = []) =>
    resolveBySrv(lookup, { matrixFed, matrix }, () => 0);

  it('of the name in use go before those of the deprecated one', () => {
    expect(dialled(resolve([at('new.test')], [at('old.test')]))).toEqual(['new.test:1234']);
    expect(dialled(resolve([], [at('old.test')]))).toEqual(['old.test:1234']);
  });

  it('never change Host and certificate', () => {
    expect(resolve([at('elsewhere.test')])).toMatchObject({
      targets: [{ hostHeader: 'Example.com', certificateName: 'example.com', isIpLiteral: false }],
    });
  });

  it('that could not be looked up count as none', () => {
    expect(dialled(resolve('failed', 'failed'))).toEqual(['Example.com:8448']);
    expect(dialled(resolve('failed', [at('old.test')]))).toEqual(['old.test:1234']);
  });

  it.each(['.', ''])('with the root (%j) as target say that there is no such service', (root) => {
    const resolution = resolve([at(root, 0)], [at('old.test')]);
    expect(resolution).toMatchObject({ kind: 'undialable', why: expect.stringContaining('no such service') });
  });

  it('without a port or a host are passed over', () => {
    const records = [
      at('a.test', 0),
      at('a b.test'),
      at('.'),
      at(`${'a'.repeat(64)}.test`),
      at('good.test.'),
    ];
    expect(dialled(resolve(records))).toEqual(['good.test:1234']);
    expect(resolve(records.slice(0, 4)).kind).toBe('undialable');
  });

  it('are tried by priority, and not without end', () => {
    const records = Array.from({ length: 100 }, (_, index) => at(`n${99 - index}.test`, 1, 99 - index));
    const expected = Array.from({ length: 16 }, (_, index) => `n${index}.test:1`);
    expect(dialled(resolve(records))).toEqual(expected);
  });
});

function dialled(resolution: Resolution): readonly string[] {
  return resolution.kind === 'targets' ? resolution.targets.map(({ host, port }) => `${host}:${port}`) : [];
}

function serverName(text: string): ServerName {
  const parsed = parseServerName(text);
  if (parsed === undefined) throw new Error(`${text} is no server name`);
  return parsed;
}
