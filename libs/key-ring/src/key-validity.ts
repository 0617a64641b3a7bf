import {
  decodeBase64,
  isJsonObject,
  isKeyId,
  memberOf,
  selectEd25519,
  signaturesOf,
  signedBytes,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import type { ServerName } from '@exeunt/pdu';

/** A key that signs no more, and since when. */
export interface OldVerifyKey {
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
  /** Milliseconds since the epoch; events from then on are not signed by it. */
  readonly expiredTs: number;
}

/** What a server says of its keys, by key ID. No ID is in both maps. */
export interface ServerKeys {
  /** 32 bytes each. They sign requests and events. (KY-03) */
  readonly verifyKeys: ReadonlyMap<string, Uint8Array>;
  /** They have signed events. (KY-03) */
  readonly oldVerifyKeys: ReadonlyMap<string, OldVerifyKey>;
  /** Until when `verifyKeys` may be believed, in milliseconds since the epoch. */
  readonly validUntilTs: number;
}

/** Why a key response is not believed: for people, and the requirement. */
export interface KeyResponseFault {
  readonly fault: string;
  readonly rule: 'KY-01' | 'KY-13';
}

/** A key, an event and now; all times in milliseconds since the epoch. */
export interface KeyUse {
  /** The room version's `enforcesKeyValidity`. */
  readonly enforcesKeyValidity: boolean;
  /** The event's `origin_server_ts`. */
  readonly atTs: number;
  /** Of the response that has the key among its `verify_keys`. */
  readonly validUntilTs?: number;
  /** Of a key among the `old_verify_keys`. */
  readonly expiredTs?: number;
  readonly nowTs: number;
}

/** No server is believed further ahead, so that a stolen name is lost for a week and not for good. (KY-10) */
const longestValidityMs = 7 * 24 * 3_600_000;

/**
 * Whether a key may verify an event. (KY-09, KY-10, KY-12; rooms/v5, signing key validity period; spec v1.19,
 * server-server-api, publishing keys)
 */
export function isKeyUsableForEvent(use: KeyUse): boolean {
  // An old key is good for events before it expired, in every room version.
  if (use.expiredTs !== undefined) return use.atTs < use.expiredTs;

  // Before room version 5 `valid_until_ts` is ignored.
  if (!use.enforcesKeyValidity) return true;

  // Since 5 the key must have been valid when the event was made, as far as the server may speak for the future.
  return (
    use.validUntilTs !== undefined && use.atTs <= Math.min(use.validUntilTs, use.nowTs + longestValidityMs)
  );
}

/** Most entries of `verify_keys`, and of `old_verify_keys`, in a response that is believed. */
export const maxKeysPerResponse = 32;
const maxKeyIdLength = 255;
const publicKeyBytes = 32;

/**
 * Reads and checks a `GET /_matrix/key/v2/server` answer. It is believed when `server_name` is the server asked, and
 * it is signed by at least one of its own `verify_keys`, and by none of them badly. Keys of unknown algorithms and
 * malformed entries are passed over; a key listed as current and as old counts as old. More than 32 keys of a kind
 * are a fault, however they are signed.
 *
 * `validUntilTs` is at most seven days after `nowTs`; it may be in the past. Whether the answer came over TLS from
 * that server, which the signature cannot say, is the caller's to know. (KY-01, KY-02, KY-10, KY-13, SG-06; spec
 * v1.19, server-server-api, retrieving server keys)
 */
export function readServerKeys(
  body: JsonValue,
  askedFor: ServerName,
  nowTs: number,
): ServerKeys | KeyResponseFault {
  if (!isJsonObject(body)) return { fault: 'not a JSON object', rule: 'KY-01' };

  // KY-13: keys are believed of the server that was asked, and of no other.
  if (memberOf(body, 'server_name') !== askedFor) {
    return { fault: `server_name is not ${askedFor}`, rule: 'KY-13' };
  }
  const validUntilTs = memberOf(body, 'valid_until_ts');
  if (!isTimestamp(validUntilTs)) return { fault: 'valid_until_ts is no timestamp', rule: 'KY-01' };
  const current = entriesOf(body, 'verify_keys');
  if (current === undefined) return { fault: 'verify_keys is no object of few keys', rule: 'KY-01' };
  const old = memberOf(body, 'old_verify_keys') === undefined ? [] : entriesOf(body, 'old_verify_keys');
  if (old === undefined) return { fault: 'old_verify_keys is no object of few keys', rule: 'KY-01' };

  const verifyKeys = new Map<string, Uint8Array>();
  for (const [keyId, entry] of current) {
    const publicKey = publicKeyOf(keyId, entry);
    if (publicKey !== undefined) verifyKeys.set(keyId, publicKey);
  }
  const fault = selfSignatureFault(body, askedFor, verifyKeys);
  if (fault !== undefined) return { fault, rule: 'KY-13' };

  const oldVerifyKeys = new Map<string, OldVerifyKey>();
  for (const [keyId, entry] of old) {
    const publicKey = publicKeyOf(keyId, entry);
    const expiredTs = isJsonObject(entry) ? memberOf(entry, 'expired_ts') : undefined;
    if (publicKey === undefined || !isTimestamp(expiredTs)) continue;
    oldVerifyKeys.set(keyId, { publicKey, expiredTs });
    verifyKeys.delete(keyId);
  }
  return { verifyKeys, oldVerifyKeys, validUntilTs: Math.min(validUntilTs, nowTs + longestValidityMs) };
}

/** KY-13: the server shows that it holds a key that it publishes. Signatures by other keys say nothing of that. */
function selfSignatureFault(
  body: JsonObject,
  server: ServerName,
  verifyKeys: ReadonlyMap<string, Uint8Array>,
): string | undefined {
  const ed = selectEd25519();
  let message: Uint8Array | undefined;
  for (const { keyId, signature } of signaturesOf(body, server)) {
    const publicKey = verifyKeys.get(keyId);
    if (publicKey === undefined) continue;
    message ??= signedBytes(body);
    const bytes = decodeBase64(signature);
    if (bytes === undefined || !ed.verify(publicKey, message, bytes)) {
      return `the signature by ${keyId} does not verify`;
    }
  }
  return message === undefined ? 'not signed by any of its own verify keys' : undefined;
}

function entriesOf(body: JsonObject, member: string): [string, JsonValue][] | undefined {
  const keys = memberOf(body, member);
  if (!isJsonObject(keys)) return undefined;
  const entries = Object.entries(keys);
  return entries.length > maxKeysPerResponse ? undefined : entries;
}

function publicKeyOf(keyId: string, entry: JsonValue): Uint8Array | undefined {
  if (keyId.length > maxKeyIdLength || !isKeyId(keyId) || !isJsonObject(entry)) return undefined;
  const key = memberOf(entry, 'key');
  const bytes = typeof key === 'string' ? decodeBase64(key) : undefined;
  return bytes?.length === publicKeyBytes ? bytes : undefined;
}

function isTimestamp(value: JsonValue | undefined): value is number {
  return typeof value === 'number' && value >= 0;
}
