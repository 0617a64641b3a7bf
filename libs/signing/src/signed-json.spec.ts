import { describe, expect, it } from 'vitest';
import { decodeBase64 } from './base64.js';
import { nativeEd25519, tweetnaclEd25519 } from './ed25519.js';
import { parseJson, stringifyJson } from './json.js';
import type { JsonObject } from './json.js';
import {
  isKeyId,
  signaturesOf,
  signedBytes,
  signJson,
  verifyJsonSignature,
  verifySignedJson,
} from './signed-json.js';

const seed = decodeBase64('YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1') as Uint8Array;
const publicKey = nativeEd25519.publicKeyOf(seed);
const key = { keyId: 'ed25519:1', seed };
const object = (text: string) => parseJson(text) as JsonObject;

describe('an object signed before by others', () => {
  const before = object(
    '{"b":1.50,"unsigned":{"age":1},"signatures":{"other":{"ed25519:x":"abc"},"domain":{"ed25519:0":"def"}},"__proto__":2}',
  );
  const after = signJson(before, 'domain', key);

  it('keeps their signatures and unsigned', () => {
    expect(after['unsigned']).toEqual({ age: 1 });
    expect(signaturesOf(after, 'other')).toEqual([{ keyId: 'ed25519:x', signature: 'abc' }]);
    expect(signaturesOf(after, 'domain').map(({ keyId }) => keyId)).toEqual(['ed25519:0', 'ed25519:1']);
  });

  it('verifies, whatever unsigned and the other signatures say', () => {
    const changed = {
      ...after,
      unsigned: { age: 2 },
      signatures: { domain: (after['signatures'] as JsonObject)['domain']! },
    };
    expect(verifySignedJson(changed, 'domain', 'ed25519:1', publicKey)).toBe(true);
    expect(verifySignedJson({ ...after, b: 1 }, 'domain', 'ed25519:1', publicKey)).toBe(false);
    expect(verifySignedJson(after, 'domain', 'ed25519:0', publicKey)).toBe(false);
    expect(verifySignedJson(after, 'other', 'ed25519:1', publicKey)).toBe(false);
  });

  it('covers numbers by their source and the key __proto__', () => {
    expect(Buffer.from(signedBytes(after)).toString()).toBe('{"__proto__":2,"b":1.50}');
  });

  it('is left as it was', () => {
    expect(signaturesOf(before, 'domain')).toHaveLength(1);
  });

  it('is signed alike by tweetnacl', () => {
    expect(stringifyJson(signJson(before, 'domain', key, tweetnaclEd25519))).toBe(stringifyJson(after));
  });
});

describe('a server whose name is an inherited property', () => {
  it.each(['__proto__', 'constructor', 'toString'])('signs as %s', (name) => {
    expect(signaturesOf({ signatures: {} }, name)).toEqual([]);
    const signed = signJson({ a: 1 }, name, key);
    expect(Object.keys(signed['signatures'] as JsonObject)).toEqual([name]);
    expect(verifySignedJson(signed, name, 'ed25519:1', publicKey)).toBe(true);
  });
});

describe('signatures of the wrong type', () => {
  it.each([
    '{}',
    '{"signatures":null}',
    '{"signatures":"x"}',
    '{"signatures":[]}',
    '{"signatures":1.5}',
    '{"signatures":{"domain":"x"}}',
    '{"signatures":{"domain":[["ed25519:1","x"]]}}',
    '{"signatures":{"domain":null}}',
    '{"signatures":{"domain":{"rsa:1":"x","ed25519:":"x","ed25519:a-b":"x"}}}',
  ])('%s holds none', (text) => {
    expect(signaturesOf(object(text), 'domain')).toEqual([]);
    expect(verifySignedJson(object(text), 'domain', 'ed25519:1', publicKey)).toBe(false);
    expect(signaturesOf(signJson(object(text), 'domain', key), 'domain')).toHaveLength(1);
  });

  it('are kept in sight as signatures that fit no key', () => {
    const given = object('{"signatures":{"domain":{"ed25519:1":7}}}');
    expect(signaturesOf(given, 'domain')).toEqual([{ keyId: 'ed25519:1', signature: '' }]);
    expect(verifySignedJson(given, 'domain', 'ed25519:1', publicKey)).toBe(false);
  });
});

describe('a signature alone', () => {
  const signature = 'K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ';

  it('verifies padded and unpadded', () => {
    expect(verifyJsonSignature({}, signature, publicKey)).toBe(true);
    expect(verifyJsonSignature({}, `${signature}==`, publicKey)).toBe(true);
  });

  it.each(['', '=', signature.slice(1), `${signature}=`, ` ${signature}`, '!'.repeat(86)])(
    '%j does not',
    (junk) => {
      expect(verifyJsonSignature({}, junk, publicKey)).toBe(false);
    },
  );
});

describe('key IDs', () => {
  it.each(['ed25519:1', 'ed25519:a_Obwu', 'ed25519:auto'])('%s is one', (text) => {
    expect(isKeyId(text)).toBe(true);
  });

  it.each([
    '',
    'ed25519',
    'ed25519:',
    'ed25519:a-b',
    'ed25519:a\n',
    'curve25519:1',
    'Ed25519:1',
    ' ed25519:1',
  ])('%j is none', (text) => {
    expect(isKeyId(text)).toBe(false);
  });
});
