import { createPrivateKey, createPublicKey, sign, verify } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import nacl from 'tweetnacl';

/**
 * Ed25519 on raw bytes: seeds and public keys of 32, signatures of 64. Every implementation gives the same answer
 * for the same bytes. It does not say whose a key is, or when it was valid. (requirements SG-05, SG-06)
 */
export interface Ed25519 {
  /** For logs and the health page. */
  readonly name: string;
  /** The public key of a seed. Throws `TypeError` unless the seed has 32 bytes. */
  publicKeyOf(seed: Uint8Array): Uint8Array;
  /** The signature of the message. Throws `TypeError` unless the seed has 32 bytes. */
  sign(seed: Uint8Array, message: Uint8Array): Uint8Array;
  /**
   * Whether the signature fits. Never throws: wrong lengths, junk, a second form of a good signature (S >= L), and a
   * public key or R of small order are all false.
   */
  verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean;
  /** As `verify`, off this thread where the implementation can. Never rejects; keep the bytes unchanged until done. */
  verifyOffThread(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): Promise<boolean>;
}

const seedBytes = 32;
const publicKeyBytes = 32;
const signatureBytes = 64;

/** Key objects cost as much to make as a verification; this holds the keys of the servers of a large room. */
const maxCachedPublicKeys = 4096;
const maxCachedPrivateKeys = 16;

/** What precedes the raw bytes in DER; RFC 8410, sections 4 and 7. */
const spkiPrefix = Buffer.from('302a300506032b6570032100', 'hex');
const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex');

const publicKeys = new Map<string, KeyObject>();
const privateKeys = new Map<string, KeyObject>();

/** Ed25519 of Node's OpenSSL; `verifyOffThread` runs in the thread pool. (requirements SG-05, SG-06) */
export const nativeEd25519: Ed25519 = {
  name: 'node:crypto',

  publicKeyOf(seed) {
    const spki = createPublicKey(privateKeyOf(seed)).export({ format: 'der', type: 'spki' });
    return new Uint8Array(spki.subarray(spkiPrefix.length));
  },

  sign(seed, message) {
    return new Uint8Array(sign(null, message, privateKeyOf(seed)));
  },

  verify(publicKey, message, signature) {
    if (!isWorthVerifying(publicKey, signature)) {
      return false;
    }
    try {
      return verify(null, message, publicKeyObject(publicKey), signature);
    } catch {
      return false;
    }
  },

  verifyOffThread(publicKey, message, signature) {
    return new Promise((resolve) => {
      if (!isWorthVerifying(publicKey, signature)) {
        resolve(false);
        return;
      }
      try {
        verify(null, message, publicKeyObject(publicKey), signature, (error, isValid) =>
          resolve(error === null && isValid),
        );
      } catch {
        resolve(false);
      }
    });
  },
};

/**
 * Ed25519 in JavaScript, a hundred times slower: for a runtime whose OpenSSL has none (FIPS builds).
 * (requirements SG-05, SG-06)
 */
export const tweetnaclEd25519: Ed25519 = {
  name: 'tweetnacl',

  publicKeyOf(seed) {
    requireSeed(seed);
    return nacl.sign.keyPair.fromSeed(seed).publicKey;
  },

  sign(seed, message) {
    requireSeed(seed);
    return nacl.sign.detached(message, nacl.sign.keyPair.fromSeed(seed).secretKey);
  },

  verify(publicKey, message, signature) {
    return isWorthVerifying(publicKey, signature) && nacl.sign.detached.verify(message, signature, publicKey);
  },

  verifyOffThread(publicKey, message, signature) {
    return Promise.resolve(tweetnaclEd25519.verify(publicKey, message, signature));
  },
};

let selected: Ed25519 | undefined;

/**
 * The first implementation that reproduces a test vector of RFC 8032: the native one, else tweetnacl. Without
 * candidates the choice is made once a process. Throws `Error` when none works. (requirements SG-05, SG-06)
 */
export function selectEd25519(candidates?: readonly Ed25519[]): Ed25519 {
  if (candidates !== undefined) {
    return firstWorking(candidates);
  }
  selected ??= firstWorking([nativeEd25519, tweetnaclEd25519]);
  return selected;
}

/** RFC 8032, section 7.1, test 2. */
const selfTest = {
  seed: Buffer.from('4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb', 'hex'),
  publicKey: Buffer.from('3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c', 'hex'),
  message: Buffer.from('72', 'hex'),
  signature: Buffer.from(
    '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da' +
      '085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
    'hex',
  ),
};

function firstWorking(candidates: readonly Ed25519[]): Ed25519 {
  const working = candidates.find(passesSelfTest);
  if (working === undefined) {
    throw new Error('no Ed25519 implementation works on this runtime');
  }
  return working;
}

function passesSelfTest(ed: Ed25519): boolean {
  const { seed, publicKey, message, signature } = selfTest;
  try {
    return (
      publicKey.equals(ed.publicKeyOf(seed)) &&
      signature.equals(ed.sign(seed, message)) &&
      ed.verify(publicKey, message, signature) &&
      !ed.verify(publicKey, Buffer.alloc(1), signature)
    );
  } catch {
    // A runtime without the algorithm throws at the first use; that is the answer.
    return false;
  }
}

function isWorthVerifying(publicKey: Uint8Array, signature: Uint8Array): boolean {
  return (
    publicKey.length === publicKeyBytes &&
    signature.length === signatureBytes &&
    isBelowGroupOrder(signature.subarray(signatureBytes / 2)) &&
    !isOfSmallOrder(publicKey) &&
    !isOfSmallOrder(signature.subarray(0, signatureBytes / 2))
  );
}

/** L, the order of the base point, least significant byte first; RFC 8032, section 5.1. */
const groupOrder = Buffer.from('edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010', 'hex');

/** RFC 8032, section 5.1.7, step 1, which tweetnacl leaves out: without it each signature has further forms. */
function isBelowGroupOrder(scalar: Uint8Array): boolean {
  for (let index = groupOrder.length - 1; index >= 0; index -= 1) {
    const difference = (scalar[index] as number) - (groupOrder[index] as number);
    if (difference !== 0) {
      return difference < 0;
    }
  }
  return false;
}

/**
 * Every encoding of the points of order 1, 2, 4 and 8, without the sign bit. As public key, one signature fits many
 * messages. libsodium, behind most peers, refuses them as key and as R; so does OpenSSL 3.5, while tweetnacl and
 * OpenSSL 3.0 do not. Refused here, so that the answer never depends on the runtime.
 */
const smallOrderPoints = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
]);

function isOfSmallOrder(point: Uint8Array): boolean {
  const withoutSign = Buffer.from(point);
  withoutSign[withoutSign.length - 1] = (withoutSign[withoutSign.length - 1] as number) & 0x7f;
  return smallOrderPoints.has(withoutSign.toString('hex'));
}

function requireSeed(seed: Uint8Array): void {
  if (seed.length !== seedBytes) {
    throw new TypeError(`an Ed25519 seed has ${seedBytes} bytes, not ${seed.length}`);
  }
}

function privateKeyOf(seed: Uint8Array): KeyObject {
  requireSeed(seed);
  return remembered(privateKeys, maxCachedPrivateKeys, seed, () =>
    createPrivateKey({ key: Buffer.concat([pkcs8Prefix, seed]), format: 'der', type: 'pkcs8' }),
  );
}

function publicKeyObject(publicKey: Uint8Array): KeyObject {
  return remembered(publicKeys, maxCachedPublicKeys, publicKey, () =>
    createPublicKey({ key: Buffer.concat([spkiPrefix, publicKey]), format: 'der', type: 'spki' }),
  );
}

function remembered(
  cache: Map<string, KeyObject>,
  maxEntries: number,
  bytes: Uint8Array,
  make: () => KeyObject,
): KeyObject {
  const id = Buffer.from(bytes).toString('latin1');
  const known = cache.get(id);
  if (known !== undefined) {
    return known;
  }
  const made = make();
  // A Map iterates in the order of insertion, so its first key is the oldest.
  const oldest = cache.size >= maxEntries ? cache.keys().next().value : undefined;
  if (oldest !== undefined) {
    cache.delete(oldest);
  }
  cache.set(id, made);
  return made;
}
