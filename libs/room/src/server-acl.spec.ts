import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { JsonNumber, parseJson, type JsonObject } from '@exeunt/signing';
import { isServerAllowed } from './server-acl.js';

describe('a room with a server ACL', () => {
  it.each<[string, JsonObject, string, boolean]>([
    ['has no port in IPv6 names either', { allow: ['*'], deny: ['[::1]'] }, '[::1]:8448', false],
    ['takes a false of another type for true', { allow: ['*'], allow_ip_literals: 0 }, '1.2.3.4', true],
    ['denies IP addresses with a port too', { allow: ['*'], allow_ip_literals: false }, '1.2.3.4:80', false],
    [
      'does not take a dotted name for an address',
      { allow: ['*'], allow_ip_literals: false },
      '1.2.3.256',
      true,
    ],
    [
      'passes over entries that are not text',
      { allow: [null, 1, {}, ['*'], new JsonNumber('1.5')] },
      'a',
      false,
    ],
    ['denies all by an allow that is not a list', { allow: '*' }, 'a', false],
    ['takes regular expressions literally', { allow: ['a.c', '[a-z]*', 'a|b', '(x)+'] }, 'abc', false],
    ['matches the whole name', { allow: ['b'] }, 'abc', false],
    ['lets * stand for nothing', { allow: ['*a*b*'] }, 'ab', true],
    ['lets ? stand for one character', { allow: ['a?'] }, 'a', false],
    ['compares without case', { allow: ['*'], deny: ['*.EVIL.com'] }, 'Sub.Evil.Com', false],
  ])('%s', (_name, acl, serverName, expected) => {
    expect(isServerAllowed(acl, serverName)).toBe(expected);
  });

  it('reads own keys only', () => {
    const acl = parseJson('{"__proto__": {"allow": ["*"]}}') as JsonObject;
    expect(isServerAllowed(acl, 'a')).toBe(false);
    expect(isServerAllowed(Object.create({ allow: ['*'] }) as JsonObject, 'a')).toBe(false);
  });

  it('is not slowed down by a hostile pattern', () => {
    const acl: JsonObject = { allow: [`${'*a'.repeat(10_000)}b`] };
    const started = performance.now();
    expect(isServerAllowed(acl, `${'a'.repeat(230)}.c`)).toBe(false);
    expect(performance.now() - started).toBeLessThan(200);
  });

  it('matches as a regular expression would', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '.'), maxLength: 8 });
    const glob = fc.string({ unit: fc.constantFrom('a', 'b', '.', '*', '?'), maxLength: 8 });
    fc.assert(
      fc.property(glob, letters, (pattern, name) => {
        const source = pattern.replaceAll('.', '\\.').replaceAll('*', '.*').replaceAll('?', '.');
        expect(isServerAllowed({ allow: [pattern] }, name)).toBe(new RegExp(`^${source}$`).test(name));
      }),
    );
  });
});
