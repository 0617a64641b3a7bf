import { describe, expect, it } from 'vitest';
import { encodeUnpaddedBase64, selectEd25519, verifySignedJson } from '@exeunt/signing';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { readServerKeys } from './key-validity.js';
import { generateSigningKeyLine, OwnKeys } from './own-keys.js';

const ourName = parseServerName('exeunt.test') as ServerName;
const seed = 'YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1';
const otherSeed = encodeUnpaddedBase64(new Uint8Array(32).fill(3));
const nowTs = 1_700_000_000_000;
const hourMs = 3_600_000;

describe('a signing key file', () => {
  it('of one line, as homeservers write it', () => {
    const keys = OwnKeys.parse(ourName, `ed25519 1 ${seed}\n`);

    expect(keys.signingKey.keyId).toBe('ed25519:1');
    expect(encodeUnpaddedBase64(keys.currentKey('ed25519:1') as Uint8Array)).toBe(
      'XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI',
    );
  });

  it('that was just made', () => {
    const line = generateSigningKeyLine(new Uint8Array(32).fill(9));

    expect(OwnKeys.parse(ourName, line).signingKey).toEqual({
      keyId: `ed25519:${line.split(' ')[1]}`,
      seed: new Uint8Array(32).fill(9),
    });
    expect(generateSigningKeyLine(new Uint8Array(32).fill(9))).toBe(line);
    expect(() => generateSigningKeyLine(new Uint8Array(31))).toThrow(TypeError);
  });

  it.each([
    ['no line', '\n \n', 'no key'],
    ['another algorithm', `rsa 1 ${seed}`, 'line 1'],
    ['a bad version', `ed25519 a-b ${seed}`, 'line 1'],
    ['no seed', `ed25519 a ${seed}\ned25519 b`, 'line 2'],
    ['half a seed', 'ed25519 a YJDBA9Xnr2sVqXD9', 'line 1'],
    ['a version twice', `ed25519 a ${seed}\ned25519 a ${otherSeed} 5`, 'line 2'],
    ['an expiry in words', `ed25519 a ${seed}\ned25519 b ${otherSeed} yesterday`, 'line 2'],
    ['more than there may be', `ed25519 a ${seed}\ned25519 b ${otherSeed} 5 6`, 'line 2'],
    ['an expired key first', `ed25519 a ${seed} 5`, 'expired'],
  ])('with %s is refused, and the seed is not quoted', (_, text, why) => {
    const parse = () => OwnKeys.parse(ourName, text);
    expect(parse).toThrow(why);
    expect(parse).not.toThrow(seed);
  });
});

describe('our own keys', () => {
  const keys = OwnKeys.parse(
    ourName,
    `ed25519 a ${seed}\r\n\ned25519 b ${otherSeed}\ned25519 old ${encodeUnpaddedBase64(new Uint8Array(32).fill(4))} 5000`,
  );

  it('are published in a response that others believe, signed by every current key', () => {
    const body = keys.keyResponse(nowTs);

    expect(readServerKeys(body, ourName, nowTs)).toMatchObject({
      oldVerifyKeys: new Map([['ed25519:old', { expiredTs: 5000, publicKey: expect.any(Uint8Array) }]]),
    });
    for (const keyId of ['ed25519:a', 'ed25519:b']) {
      expect(verifySignedJson(body, ourName, keyId, keys.currentKey(keyId) as Uint8Array)).toBe(true);
    }
    expect(body['old_verify_keys']).not.toHaveProperty('ed25519:a');
  });

  it('are published for a day, as the same object for an hour', () => {
    const windowTs = Math.floor(nowTs / hourMs) * hourMs;
    const first = keys.keyResponse(windowTs);

    expect(first['valid_until_ts']).toBe(windowTs + 25 * hourMs);
    expect(keys.keyResponse(windowTs + hourMs - 1)).toBe(first);
    expect(keys.keyResponse(windowTs + hourMs)['valid_until_ts']).toBe(windowTs + 26 * hourMs);
  });

  it('authenticate requests while they are current, and events for their time', () => {
    expect(keys.currentKey('ed25519:old')).toBeUndefined();
    expect(keys.currentKey('ed25519:none')).toBeUndefined();
    expect(keys.verifyKey('ed25519:none')).toBeUndefined();
    const version = { enforcesKeyValidity: true } as Parameters<
      NonNullable<ReturnType<typeof keys.verifyKey>>['validAt']
    >[1];
    expect(keys.verifyKey('ed25519:a')?.validAt(nowTs * 2, version)).toBe(true);
    expect(keys.verifyKey('ed25519:old')?.validAt(4999, version)).toBe(true);
    expect(keys.verifyKey('ed25519:old')?.validAt(5000, version)).toBe(false);
    expect(keys.verifyKey('ed25519:a')?.publicKey).toEqual(selectEd25519().publicKeyOf(keys.signingKey.seed));
  });
});
