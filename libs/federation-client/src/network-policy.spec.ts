import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mayDial, parseNetworks } from './network-policy.js';

describe('an address by itself', () => {
  it.each(['8.8.8.8', '1.1.1.1', '2606:4700::1111', '::ffff:8.8.8.8', '64:ff9b::808:808'])(
    '%s is public',
    (address) => expect(mayDial(address, [])).toBe(true),
  );

  it.each([
    ['loopback', '127.0.0.1'],
    ['loopback, all of it', '127.255.0.9'],
    ['IPv6 loopback', '::1'],
    ['private', '10.0.0.1'],
    ['private', '172.16.5.5'],
    ['private', '192.168.1.1'],
    ['cloud metadata', '169.254.169.254'],
    ['carrier-grade NAT', '100.64.0.1'],
    ['unspecified', '0.0.0.0'],
    ['unspecified network', '0.1.2.3'],
    ['unspecified, IPv6', '::'],
    ['multicast', '224.0.0.1'],
    ['multicast, IPv6', 'ff02::1'],
    ['broadcast', '255.255.255.255'],
    ['documentation', '192.0.2.1'],
    ['benchmarking', '198.18.0.1'],
    ['reserved', '240.0.0.1'],
    ['link-local', 'fe80::1'],
    ['link-local with a zone', 'fe80::1%eth0'],
    ['unique local', 'fd12::1'],
    ['site-local', 'fec0::1'],
    ['mapped loopback', '::ffff:127.0.0.1'],
    ['mapped metadata in hex', '::ffff:a9fe:a9fe'],
    ['compatible loopback', '::127.0.0.1'],
    ['loopback behind NAT64', '64:ff9b::7f00:1'],
    ['private behind local NAT64', '64:ff9b:1::a00:1'],
    ['6to4 of loopback', '2002:7f00:1::1'],
    ['Teredo', '2001:0:7f00:1::1'],
    ['documentation, IPv6', '2001:db8::1'],
    ['outside 2000::/3', '4000::1'],
    ['a short form', '127.1'],
    ['an octal form', '0177.0.0.1'],
    ['a number', '2130706433'],
    ['a name', 'localhost'],
    ['nothing', ''],
  ])('%s (%s) is refused', (_, address) => expect(mayDial(address, [])).toBe(false));
});

describe('a network that is allowed by configuration', () => {
  const allowed = parseNetworks(['127.0.0.0/8', 'fd00::/8', '10.1.2.3']);

  it.each(['127.0.0.1', '::ffff:127.0.0.1', 'fd12::1', '10.1.2.3'])('takes %s', (address) =>
    expect(mayDial(address, allowed)).toBe(true),
  );

  it.each(['10.1.2.4', '::1', '192.168.0.1', 'fc00::1'])('does not take %s', (address) =>
    expect(mayDial(address, allowed)).toBe(false),
  );

  it.each(['127.0.0.1/33', 'example.com', '127.1', '', '10.0.0.0/'])('cannot be %j', (text) =>
    expect(() => parseNetworks([text])).toThrow(TypeError),
  );
});

describe('an IPv4 address mapped into IPv6', () => {
  it('is treated as the IPv4 address', () => {
    fc.assert(
      fc.property(fc.ipV4(), (address) => {
        expect(mayDial(`::ffff:${address}`, [])).toBe(mayDial(address, []));
      }),
    );
  });
});
