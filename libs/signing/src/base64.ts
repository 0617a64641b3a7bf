/** Unpadded base64 in the standard alphabet, as Matrix writes keys, hashes and signatures. (requirement B6-01) */
export function encodeUnpaddedBase64(bytes: Uint8Array): string {
  const padded = asBuffer(bytes).toString('base64');
  const padding = padded.indexOf('=');
  return padding === -1 ? padded : padded.slice(0, padding);
}

/** Unpadded base64 in the URL-safe alphabet: event IDs since room version 4, room IDs of 12. (requirement B6-01) */
export function encodeUrlSafeUnpaddedBase64(bytes: Uint8Array): string {
  return asBuffer(bytes).toString('base64url');
}

/** `either` takes the URL-safe alphabet too, but never a mixture. (requirement B6-04) */
export interface Base64Options {
  readonly alphabet?: 'standard' | 'either';
}

const standardAlphabet = /^[A-Za-z0-9+/]*={0,2}$/;
const urlSafeAlphabet = /^[A-Za-z0-9_-]*={0,2}$/;

/**
 * The bytes of a base64 text, padded or not, `undefined` for anything else: other characters, white space, a
 * length no byte sequence has, padding that does not fill up a group of four. Unused low bits of the last
 * character may be set, as they are in the spec's own test seed. (requirements B6-02, B6-03, B6-04)
 */
export function decodeBase64(text: string, options: Base64Options = {}): Uint8Array | undefined {
  const isInAlphabet =
    standardAlphabet.test(text) || (options.alphabet === 'either' && urlSafeAlphabet.test(text));
  const isPadded = text.endsWith('=');
  if (!isInAlphabet || (isPadded ? text.length % 4 !== 0 : text.length % 4 === 1)) {
    return undefined;
  }
  // A copy, because a Buffer may be a window into a pool that other code sees.
  return new Uint8Array(Buffer.from(text, 'base64'));
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
