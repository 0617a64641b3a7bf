import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import nacl from 'tweetnacl';
import { describe, expect, it } from 'vitest';
import { decodeBase64, encodeUnpaddedBase64 } from './base64.js';
import { nativeEd25519, selectEd25519, tweetnaclEd25519 } from './ed25519.js';
import type { Ed25519 } from './ed25519.js';
import type { JsonObject } from './json.js';
import { signedBytes } from './signed-json.js';

interface SigningRow {
  readonly id: string;
  readonly kind: string;
  readonly input: {
    readonly seedBase64: string;
    readonly publicKeyBase64: string;
    readonly object: JsonObject;
  };
  readonly expected: { readonly signatureBase64: string };
}

const vectorFile = new URL('../../../test/conformance/vectors/json-signing.json', import.meta.url);
const { vectors } = JSON.parse(readFileSync(vectorFile, 'utf8')) as { vectors: SigningRow[] };
const signingRows = vectors.filter(({ kind }) => kind === 'sign');

const hex = (text: string) => new Uint8Array(Buffer.from(text, 'hex'));
const base64 = (text: string) => decodeBase64(text) as Uint8Array;
const utf8 = (text: string) => new TextEncoder().encode(text);

/** RFC 8032, section 7.1, tests 1 to 3. */
const rfc8032 = [
  {
    seed: '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
    publicKey: 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
    message: '',
    signature:
      'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
  },
  {
    seed: '4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
    publicKey: '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
    message: '72',
    signature:
      '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
  },
  {
    seed: 'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
    publicKey: 'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
    message: 'af82',
    signature:
      '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
  },
].map(({ seed, publicKey, message, signature }) => ({
  seed: hex(seed),
  publicKey: hex(publicKey),
  message: hex(message),
  signature: hex(signature),
}));

const groupOrder = 2n ** 252n + 27742317777372353535851937790883648493n;

/** The signature with L added to its second half: it satisfies the same equation. */
function malleate(signature: Uint8Array): Uint8Array {
  const scalar = BigInt(`0x${Buffer.from(signature.subarray(32).toReversed()).toString('hex')}`) + groupOrder;
  const bytes = Buffer.from(scalar.toString(16).padStart(64, '0'), 'hex').reverse();
  return new Uint8Array(Buffer.concat([signature.subarray(0, 32), bytes]));
}

function flipBit(bytes: Uint8Array, bit: number): Uint8Array {
  const copy = Uint8Array.from(bytes);
  copy[bit >> 3] = (copy[bit >> 3] as number) ^ (1 << (bit & 7));
  return copy;
}

const zero = hex('00'.repeat(32));
const identity = hex(`01${'00'.repeat(31)}`);
const smallOrderKeys = [
  zero,
  identity,
  hex('26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05'),
  hex('c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a'),
  hex(`ec${'ff'.repeat(30)}7f`),
  hex(`ed${'ff'.repeat(30)}7f`),
  hex(`ee${'ff'.repeat(30)}7f`),
].flatMap((key) => [key, flipBit(key, 255)]);
/** R is the identity, S is zero: fits a key of small order for one message in eight, or more. */
const universalSignature = hex(`01${'00'.repeat(63)}`);

const toNumber = (littleEndian: Uint8Array) =>
  BigInt(`0x${Buffer.from(littleEndian).reverse().toString('hex')}`);
const sha512 = (...parts: readonly Uint8Array[]) =>
  createHash('sha512').update(Buffer.concat(parts)).digest();

/** What the owner of a key can make with the nonce zero; RFC 8032, section 5.1.6. */
function signatureWithIdentityAsR(seed: Uint8Array, publicKey: Uint8Array, message: Uint8Array): Uint8Array {
  const secret = sha512(seed).subarray(0, 32);
  secret[0] = (secret[0] as number) & 0xf8;
  secret[31] = ((secret[31] as number) & 0x7f) | 0x40;
  const scalar = (toNumber(sha512(identity, publicKey, message)) * toNumber(secret)) % groupOrder;
  const bytes = Buffer.from(scalar.toString(16).padStart(64, '0'), 'hex').reverse();
  return new Uint8Array(Buffer.concat([identity, bytes]));
}

describe.each([nativeEd25519, tweetnaclEd25519])('Ed25519 by $name', (ed: Ed25519) => {
  it.each(rfc8032)('reproduces RFC 8032 ($#)', async ({ seed, publicKey, message, signature }) => {
    expect(ed.publicKeyOf(seed)).toEqual(publicKey);
    expect(ed.sign(seed, message)).toEqual(signature);
    expect(ed.verify(publicKey, message, signature)).toBe(true);
    expect(await ed.verifyOffThread(publicKey, message, signature)).toBe(true);
  });

  it.each(signingRows)('reproduces $id', ({ input, expected }) => {
    const message = signedBytes(input.object);
    const seed = base64(input.seedBase64);
    const publicKey = base64(input.publicKeyBase64);
    expect(ed.publicKeyOf(seed)).toEqual(publicKey);
    expect(encodeUnpaddedBase64(ed.sign(seed, message))).toBe(expected.signatureBase64);
    expect(ed.verify(publicKey, message, base64(expected.signatureBase64))).toBe(true);
  });

  const { seed, publicKey, message, signature } = rfc8032[1] as (typeof rfc8032)[number];

  it.each<[string, Uint8Array, Uint8Array, Uint8Array]>([
    ['another message', publicKey, utf8('s'), signature],
    ['another key', ed.publicKeyOf(hex('01'.repeat(32))), message, signature],
    ['a changed R', publicKey, message, flipBit(signature, 3)],
    ['a changed S', publicKey, message, flipBit(signature, 300)],
    ['S + L', publicKey, message, malleate(signature)],
    ['R of small order', publicKey, message, signatureWithIdentityAsR(seed, publicKey, message)],
    ['S = L', publicKey, message, malleate(universalSignature)],
    ['a short signature', publicKey, message, signature.subarray(0, 63)],
    ['a long signature', publicKey, message, hex(`${Buffer.from(signature).toString('hex')}00`)],
    ['no signature', publicKey, message, new Uint8Array()],
    ['a short key', publicKey.subarray(0, 31), message, signature],
    ['a long key', hex(`${Buffer.from(publicKey).toString('hex')}00`), message, signature],
    ['no key', new Uint8Array(), message, signature],
    ['a key that is no point', hex('02'.repeat(32)), message, signature],
    ['all bits set', hex('ff'.repeat(32)), message, hex('ff'.repeat(64))],
    ['all bits clear', zero, message, hex('00'.repeat(64))],
  ])('refuses %s', async (_, key, text, junk) => {
    expect(ed.verify(key, text, junk)).toBe(false);
    expect(await ed.verifyOffThread(key, text, junk)).toBe(false);
  });

  it.each(smallOrderKeys.map((key) => Buffer.from(key).toString('hex')))(
    'refuses the small-order key %s',
    (key) => {
      const texts = Array.from({ length: 64 }, (_, index) => utf8(`message ${index}`));
      expect(texts.some((text) => ed.verify(hex(key), text, universalSignature))).toBe(false);
    },
  );

  it.each([0, 31, 33, 64])('throws for a seed of %i bytes', (length) => {
    expect(() => ed.sign(new Uint8Array(length), message)).toThrow(TypeError);
    expect(() => ed.publicKeyOf(new Uint8Array(length))).toThrow(TypeError);
  });

  it('takes Buffers and windows into larger arrays', () => {
    const padded = Buffer.concat([Buffer.alloc(5), Buffer.from(seed), Buffer.alloc(5)]);
    expect(ed.sign(padded.subarray(5, 37), Buffer.from(message))).toEqual(signature);
    expect(ed.verify(Buffer.from(publicKey), Buffer.from(message), Buffer.from(signature))).toBe(true);
  });
});

describe('tweetnacl without our checks', () => {
  it('takes what we refuse', () => {
    const { seed, publicKey, message, signature } = rfc8032[1] as (typeof rfc8032)[number];
    expect(nacl.sign.detached.verify(utf8('anything'), universalSignature, identity)).toBe(true);
    expect(
      nacl.sign.detached.verify(message, signatureWithIdentityAsR(seed, publicKey, message), publicKey),
    ).toBe(true);
    expect(nacl.sign.detached.verify(message, malleate(signature), publicKey)).toBe(true);
  });
});

describe('both implementations', () => {
  it('sign alike and accept each other', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        fc.uint8Array({ maxLength: 200 }),
        fc.nat(511),
        (seed, message, bit) => {
          const signature = nativeEd25519.sign(seed, message);
          const publicKey = nativeEd25519.publicKeyOf(seed);
          expect(tweetnaclEd25519.sign(seed, message)).toEqual(signature);
          expect(tweetnaclEd25519.verify(publicKey, message, signature)).toBe(true);
          const changed = flipBit(signature, bit);
          expect(nativeEd25519.verify(publicKey, message, changed)).toBe(false);
          expect(tweetnaclEd25519.verify(publicKey, message, changed)).toBe(false);
        },
      ),
      { numRuns: 10 },
    );
  });
});

describe('many more keys than the cache holds', () => {
  it('still verify', () => {
    const { publicKey, message, signature } = rfc8032[0] as (typeof rfc8032)[number];
    for (let index = 0; index < 4200; index += 1) {
      const other = new Uint8Array(32).fill(7);
      new DataView(other.buffer).setUint32(0, index);
      nativeEd25519.verify(other, message, signature);
    }
    expect(nativeEd25519.verify(publicKey, message, signature)).toBe(true);
  });
});

describe('the choice of an implementation', () => {
  const broken: Ed25519 = {
    ...nativeEd25519,
    name: 'broken',
    sign: () => {
      throw new Error('Unsupported algorithm');
    },
  };
  const gullible: Ed25519 = { ...nativeEd25519, name: 'gullible', verify: () => true };

  it('is the native one where it works', () => {
    expect(selectEd25519()).toBe(nativeEd25519);
  });

  it('passes over one that fails the self-test', () => {
    expect(selectEd25519([broken, gullible, tweetnaclEd25519])).toBe(tweetnaclEd25519);
  });

  it('fails when none is left', () => {
    expect(() => selectEd25519([broken])).toThrow('no Ed25519');
  });
});
