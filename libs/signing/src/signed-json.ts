import { decodeBase64, encodeUnpaddedBase64 } from './base64.js';
import { encodeCanonicalJson } from './canonical-json.js';
import { selectEd25519 } from './ed25519.js';
import type { Ed25519 } from './ed25519.js';
import { isJsonObject, memberOf, withKeys, withoutKeys } from './json.js';
import type { JsonObject } from './json.js';

/** A private key and the ID it is published under, such as `ed25519:abc`; a seed of 32 bytes. (ID-10, SG-05) */
export interface SigningKey {
  readonly keyId: string;
  readonly seed: Uint8Array;
}

/** One entry of `signatures`: the base64 as it was sent, not yet decoded or checked. (requirement SG-06) */
export interface JsonSignature {
  readonly keyId: string;
  readonly signature: string;
}

const keyIdPattern = /^ed25519:[a-zA-Z0-9_]+$/;

/** Whether the text is a key ID we can use: `ed25519:`, then letters, digits and underscores. (requirement ID-10) */
export function isKeyId(text: string): boolean {
  return keyIdPattern.test(text);
}

/**
 * A copy of the object with this server's signature added under the key's ID; other signatures and `unsigned` stay
 * as they are. A `signatures` of the wrong shape is replaced. Throws `TypeError` for a seed of the wrong length.
 * (Spec v1.19, appendices, Signing Details; requirement SG-05)
 */
export function signJson(
  object: JsonObject,
  serverName: string,
  key: SigningKey,
  ed: Ed25519 = selectEd25519(),
): JsonObject {
  const signature = encodeUnpaddedBase64(ed.sign(key.seed, signedBytes(object)));
  const signatures = objectOrEmpty(memberOf(object, 'signatures'));
  const ofServer = objectOrEmpty(memberOf(signatures, serverName));
  return withKeys(object, {
    signatures: withKeys(signatures, {
      [serverName]: withKeys(ofServer, { [key.keyId]: signature }),
    }),
  });
}

/**
 * The entity's signatures by algorithms we know, in the object's order; empty when `signatures`, or the entity's
 * part of it, is missing or of the wrong type. A signature that is no text is given as `''`, which fits no key, so
 * that a bad signature by a known key is not lost from sight. (requirements SG-06, SG-09)
 */
export function signaturesOf(object: JsonObject, entity: string): JsonSignature[] {
  const signatures = objectOrEmpty(memberOf(object, 'signatures'));
  const ofEntity = objectOrEmpty(memberOf(signatures, entity));
  return Object.entries(ofEntity)
    .filter(([keyId]) => isKeyId(keyId))
    .map(([keyId, signature]) => ({ keyId, signature: typeof signature === 'string' ? signature : '' }));
}

/**
 * The bytes a signature of the object covers: canonical JSON in UTF-8 without `signatures` and `unsigned`. A PDU must
 * be redacted before. (requirements SG-05, SG-06, RA-18)
 */
export function signedBytes(object: JsonObject): Uint8Array {
  return Buffer.from(encodeCanonicalJson(withoutKeys(object, 'signatures', 'unsigned')), 'utf8');
}

/**
 * Whether the base64 signature, padded or not, fits the object under this public key; false for any junk. Whether
 * the key was valid is not asked. (requirements SG-06, B6-02)
 */
export function verifyJsonSignature(
  object: JsonObject,
  signatureBase64: string,
  publicKey: Uint8Array,
  ed: Ed25519 = selectEd25519(),
): boolean {
  const signature = decodeBase64(signatureBase64);
  return signature !== undefined && ed.verify(publicKey, signedBytes(object), signature);
}

/**
 * Whether the object holds the entity's signature under this key ID, and it fits the public key; false when it is
 * missing or of the wrong type. (Spec v1.19, appendices, Checking for a Signature; requirement SG-06)
 */
export function verifySignedJson(
  object: JsonObject,
  entity: string,
  keyId: string,
  publicKey: Uint8Array,
  ed: Ed25519 = selectEd25519(),
): boolean {
  const entry = signaturesOf(object, entity).find((signature) => signature.keyId === keyId);
  return entry !== undefined && verifyJsonSignature(object, entry.signature, publicKey, ed);
}

function objectOrEmpty(value: unknown): JsonObject {
  return isJsonObject(value) ? value : {};
}
