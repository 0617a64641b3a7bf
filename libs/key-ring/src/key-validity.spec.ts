import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeUnpaddedBase64, JsonNumber, selectEd25519, signJson } from '@exeunt/signing';
import type { JsonObject, JsonValue, SigningKey } from '@exeunt/signing';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { isKeyUsableForEvent, readServerKeys } from './key-validity.js';

const nowTs = 1_700_000_000_000;
const dayMs = 24 * 3_600_000;
const peer = serverName('peer.test');
const key = signingKey('a', 1);
const otherKey = signingKey('b', 2);

describe('a key listed as current', () => {
  it.each([
    // enforced?, event, valid until, usable
    [true, -1, 0, true],
    [true, 0, 0, true],
    [true, 1, 0, false],
    [true, 6 * dayMs, 30 * dayMs, true],
    [true, 7 * dayMs, 30 * dayMs, true],
    [true, 7 * dayMs + 1, 30 * dayMs, false],
    [false, 1, 0, true],
    [false, 400 * dayMs, -400 * dayMs, true],
  ])(
    'enforced %j, event at now%+i ms, valid until now%+i ms: %j',
    (enforcesKeyValidity, at, until, usable) => {
      const use = { enforcesKeyValidity, atTs: nowTs + at, validUntilTs: nowTs + until, nowTs };
      expect(isKeyUsableForEvent(use)).toBe(usable);
    },
  );

  it('is good for nothing while its validity is not known, where that is enforced', () => {
    expect(isKeyUsableForEvent({ enforcesKeyValidity: true, atTs: 1, nowTs })).toBe(false);
  });
});

describe('an old key', () => {
  it.each([
    [true, 999, true],
    [true, 1000, false],
    [false, 999, true],
    [false, 1000, false],
  ])('that expired at 1000, enforced %j, event at %i: %j', (enforcesKeyValidity, atTs, usable) => {
    expect(isKeyUsableForEvent({ enforcesKeyValidity, atTs, expiredTs: 1000, nowTs })).toBe(usable);
  });
});

describe('a key response', () => {
  it('is believed when it is signed by one of its keys', () => {
    const keys = readServerKeys(response({}), peer, nowTs);

    expect(keys).toEqual({
      verifyKeys: new Map([[key.keyId, publicKey(key)]]),
      oldVerifyKeys: new Map(),
      validUntilTs: nowTs + dayMs,
    });
  });

  it('is believed for seven days at most', () => {
    expect(readServerKeys(response({ valid_until_ts: nowTs + 30 * dayMs }), peer, nowTs)).toMatchObject({
      validUntilTs: nowTs + 7 * dayMs,
    });
  });

  it('may have run out: its keys are good for older events', () => {
    expect(readServerKeys(response({ valid_until_ts: 5 }), peer, nowTs)).toMatchObject({ validUntilTs: 5 });
  });

  it('has a key that is current and old: it is old', () => {
    const keys = readServerKeys(
      response({
        verify_keys: { [key.keyId]: entry(key), [otherKey.keyId]: entry(otherKey) },
        old_verify_keys: { [otherKey.keyId]: { ...entry(otherKey), expired_ts: 7 } },
      }),
      peer,
      nowTs,
    );

    expect(keys).toMatchObject({
      verifyKeys: new Map([[key.keyId, publicKey(key)]]),
      oldVerifyKeys: new Map([[otherKey.keyId, { publicKey: publicKey(otherKey), expiredTs: 7 }]]),
    });
  });

  it.each<[string, JsonObject]>([
    ['of an unknown algorithm', { 'rsa:1': entry(otherKey) }],
    ['of a bad ID', { 'ed25519:a-b': entry(otherKey) }],
    ['of a very long ID', { [`ed25519:${'x'.repeat(300)}`]: entry(otherKey) }],
    ['of the wrong length', { 'ed25519:short': { key: 'AAAA' } }],
    ['not in base64', { 'ed25519:junk': { key: '%%%' } }],
    ['that is no object', { 'ed25519:text': 'AAAA' }],
    ['named as a property of objects', { constructor: entry(otherKey) }],
  ])('passes over a key %s', (_, additional) => {
    const keys = readServerKeys(
      response({
        verify_keys: { [key.keyId]: entry(key), ...additional },
        old_verify_keys: additional,
      }),
      peer,
      nowTs,
    );

    expect(keys).toMatchObject({
      verifyKeys: new Map([[key.keyId, publicKey(key)]]),
      oldVerifyKeys: new Map(),
    });
  });

  it.each<[string, string, JsonValue]>([
    ['is no object', 'KY-01', [1]],
    ['is for another server', 'KY-13', response({ server_name: 'other.test' })],
    ['has no name', 'KY-13', response({ server_name: 7 })],
    ['has no valid_until_ts', 'KY-01', response({ valid_until_ts: 'tomorrow' })],
    ['is valid until a fraction', 'KY-01', response({ valid_until_ts: new JsonNumber('1.5') })],
    ['is valid until before the epoch', 'KY-01', response({ valid_until_ts: -1 })],
    ['has no verify_keys', 'KY-01', response({ verify_keys: null })],
    ['has a list of keys', 'KY-01', response({ verify_keys: [] })],
    ['has no keys', 'KY-13', response({ verify_keys: {} })],
    [
      'has a thousand keys',
      'KY-01',
      response({ verify_keys: { [key.keyId]: entry(key), ...manyKeys(1000) } }),
    ],
    ['has a thousand old keys', 'KY-01', response({ old_verify_keys: manyKeys(1000) })],
    ['has old keys of the wrong type', 'KY-01', response({ old_verify_keys: [] })],
    ['is not signed', 'KY-13', { ...response({}), signatures: {} }],
    ['has signatures of the wrong type', 'KY-13', { ...response({}), signatures: [] }],
    ['was changed after signing', 'KY-13', { ...response({}), valid_until_ts: nowTs }],
    ['is signed by another server', 'KY-13', signJson(unsigned({}), 'other.test', key)],
    ['is signed by a key it does not list', 'KY-13', signJson(unsigned({}), peer, otherKey)],
    [
      'is signed under the ID of another key',
      'KY-13',
      signJson(unsigned({}), peer, { ...otherKey, keyId: key.keyId }),
    ],
    [
      'is signed well by one of its keys and badly by the other',
      'KY-13',
      signJson(
        response({ verify_keys: { [key.keyId]: entry(key), [otherKey.keyId]: entry(otherKey) } }),
        peer,
        { ...key, keyId: otherKey.keyId },
      ),
    ],
    [
      'is signed by an old key only',
      'KY-13',
      signJson(
        unsigned({ old_verify_keys: { [otherKey.keyId]: { ...entry(otherKey), expired_ts: 5 } } }),
        peer,
        otherKey,
      ),
    ],
  ])('that %s is not believed', (_, rule, body) => {
    expect(readServerKeys(body, peer, nowTs)).toEqual({ fault: expect.any(String), rule });
  });

  it('of any shape is judged without an exception', () => {
    const junk = fc
      .jsonValue()
      .filter((value) => JSON.stringify(value) === JSON.stringify(integersOnly(value)));
    fc.assert(
      fc.property(junk, junk, junk, (verifyKeys, oldVerifyKeys, signatures) => {
        const body = {
          ...unsigned({ verify_keys: verifyKeys as JsonValue, old_verify_keys: oldVerifyKeys as JsonValue }),
          signatures: signatures as JsonValue,
        };
        expect(readServerKeys(body, peer, nowTs)).toHaveProperty('fault');
      }),
    );
  });
});

function integersOnly(value: unknown): unknown {
  if (typeof value === 'number') return Number.isSafeInteger(value) && !Object.is(value, -0) ? value : 0;
  if (Array.isArray(value)) return value.map(integersOnly);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, integersOnly(member)]));
}

function unsigned(additions: JsonObject): JsonObject {
  return {
    server_name: peer,
    valid_until_ts: nowTs + dayMs,
    verify_keys: { [key.keyId]: entry(key) },
    ...additions,
  };
}

function response(additions: JsonObject): JsonObject {
  return signJson(unsigned(additions), peer, key);
}

function manyKeys(count: number): JsonObject {
  return Object.fromEntries(
    Array.from({ length: count }, (_, index) => [`ed25519:k${index}`, { ...entry(otherKey), expired_ts: 5 }]),
  );
}

function signingKey(version: string, fill: number): SigningKey {
  return { keyId: `ed25519:${version}`, seed: new Uint8Array(32).fill(fill) };
}

function publicKey({ seed }: SigningKey): Uint8Array {
  return selectEd25519().publicKeyOf(seed);
}

function entry(of: SigningKey): JsonObject {
  return { key: encodeUnpaddedBase64(publicKey(of)) };
}

function serverName(text: string): ServerName {
  const name = parseServerName(text);
  if (name === undefined) throw new Error(`${text} is no server name`);
  return name;
}
