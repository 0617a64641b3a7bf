import { createHash } from 'node:crypto';
import {
  decodeBase64,
  encodeUnpaddedBase64,
  isKeyId,
  selectEd25519,
  signJson,
  type JsonObject,
  type SigningKey,
} from '@exeunt/signing';
import type { EventVerifyKey, ServerName } from '@exeunt/pdu';

/** Bytes of an Ed25519 seed. */
export const seedBytes = 32;

const hourMs = 3_600_000;

interface OwnKey extends SigningKey {
  readonly publicKey: Uint8Array;
  readonly expiredTs?: number;
}

/** The keys this server signs with and has signed with. */
export class OwnKeys {
  readonly serverName: ServerName;
  /** What requests and events are signed with: the first line of the file. */
  readonly signingKey: SigningKey;
  readonly #keys: ReadonlyMap<string, OwnKey>;
  #response: { readonly validUntilTs: number; readonly body: JsonObject } | undefined;

  private constructor(serverName: ServerName, signingKey: SigningKey, keys: ReadonlyMap<string, OwnKey>) {
    this.serverName = serverName;
    this.signingKey = signingKey;
    this.#keys = keys;
  }

  /**
   * Reads a signing key file: lines `ed25519 <version> <seed in unpadded base64> [<expired_ts in ms>]`. The first
   * signs and must not have expired; further ones without `expired_ts` are published as current as well. Blank lines
   * are passed over. Throws an `Error` that names the line, and never quotes a seed, for anything else.
   */
  static parse(serverName: ServerName, text: string): OwnKeys {
    const keys = new Map<string, OwnKey>();
    for (const [index, line] of text.split(/\r?\n/).entries()) {
      if (line.trim() === '') continue;
      const key = parseLine(line, index + 1);
      if (keys.has(key.keyId)) throw new Error(`signing key file, line ${index + 1}: ${key.keyId} again`);
      keys.set(key.keyId, key);
    }
    const [first] = keys.values();
    if (first === undefined) throw new Error('signing key file: no key in it');
    if (first.expiredTs !== undefined) throw new Error('signing key file: the first key has expired');
    return new OwnKeys(serverName, { keyId: first.keyId, seed: first.seed }, keys);
  }

  /**
   * The body of `GET /_matrix/key/v2/server`, signed with every current key. It is the same object for an hour of
   * the clock and valid for 24 to 25 hours from `nowTs`. (KY-01 to KY-04)
   */
  keyResponse(nowTs: number): JsonObject {
    const validUntilTs = Math.floor(nowTs / hourMs) * hourMs + 25 * hourMs;
    if (this.#response?.validUntilTs !== validUntilTs) {
      this.#response = { validUntilTs, body: this.#signedResponse(validUntilTs) };
    }
    return this.#response.body;
  }

  /** The public key, 32 bytes, of a current key: what authenticates a request. (RA-14) */
  currentKey(keyId: string): Uint8Array | undefined {
    const key = this.#keys.get(keyId);
    return key?.expiredTs === undefined ? key?.publicKey : undefined;
  }

  /** The key for checking an event of our own; a current key is good for any time. (KY-12) */
  verifyKey(keyId: string): EventVerifyKey | undefined {
    const key = this.#keys.get(keyId);
    if (key === undefined) return undefined;
    const { publicKey, expiredTs } = key;
    return { publicKey, validAt: (ts) => expiredTs === undefined || ts < expiredTs };
  }

  #signedResponse(validUntilTs: number): JsonObject {
    const keys = [...this.#keys.values()];
    const current = keys.filter(({ expiredTs }) => expiredTs === undefined);
    const body: JsonObject = {
      server_name: this.serverName,
      valid_until_ts: validUntilTs,
      verify_keys: Object.fromEntries(
        current.map(({ keyId, publicKey }) => [keyId, { key: encodeUnpaddedBase64(publicKey) }]),
      ),
      old_verify_keys: Object.fromEntries(
        keys.flatMap(({ keyId, publicKey, expiredTs }) =>
          expiredTs === undefined
            ? []
            : [[keyId, { key: encodeUnpaddedBase64(publicKey), expired_ts: expiredTs }]],
        ),
      ),
    };
    return current.reduce((signed, key) => signJson(signed, this.serverName, key), body);
  }
}

function parseLine(line: string, number: number): OwnKey {
  const [algorithm, version, seedText, expired, ...rest] = line.trim().split(/\s+/);
  const fault = (why: string) => new Error(`signing key file, line ${number}: ${why}`);
  if (algorithm !== 'ed25519') throw fault('the algorithm must be ed25519');
  const keyId = `ed25519:${version ?? ''}`;
  if (!isKeyId(keyId)) throw fault('the version must be letters, digits and underscores');
  const seed = decodeBase64(seedText ?? '');
  if (seed?.length !== seedBytes) throw fault(`the seed must be ${seedBytes} bytes in base64`);
  const publicKey = selectEd25519().publicKeyOf(seed);
  if (expired === undefined) return { keyId, seed, publicKey };
  const expiredTs = /^\d+$/.test(expired) ? Number(expired) : Number.NaN;
  if (!Number.isSafeInteger(expiredTs) || rest.length > 0) {
    throw fault('after the seed there may be expired_ts in milliseconds, and nothing else');
  }
  return { keyId, seed, publicKey, expiredTs };
}

/**
 * A line for a new signing key file, with its line end. `random` must be 32 bytes from a cryptographic source; they
 * are the seed. The version is made from the public key, so that two keys never share one by accident. Throws
 * `TypeError` for another length.
 */
export function generateSigningKeyLine(random: Uint8Array): string {
  const publicKey = selectEd25519().publicKeyOf(random);
  const version = createHash('sha256').update(publicKey).digest('hex').slice(0, 8);
  return `ed25519 k_${version} ${encodeUnpaddedBase64(random)}\n`;
}
