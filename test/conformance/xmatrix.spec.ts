import { readFileSync } from 'node:fs';
import {
  decodeBase64,
  encodeUnpaddedBase64,
  nativeEd25519,
  parseXMatrix,
  requestToSign,
  signRequest,
  verifyJsonSignature,
} from '@exeunt/signing';
import type { JsonObject } from '@exeunt/signing';
import { describe, expect, it } from 'vitest';

interface ParseRow {
  readonly id: string;
  readonly kind: 'parse';
  readonly input: { readonly header: string };
  readonly expected: {
    readonly accepted: boolean;
    readonly origin: string;
    readonly key: string;
    readonly sig: string;
    readonly destination: string | null;
  };
}

interface SignRow {
  readonly id: string;
  readonly kind: 'signRequest';
  readonly input: {
    readonly seedBase64: string;
    readonly publicKeyBase64: string;
    readonly keyId: string;
    readonly method: string;
    readonly uri: string;
    readonly origin: string;
    readonly destination: string;
    readonly content?: JsonObject;
  };
  readonly expected: { readonly signatureBase64: string };
}

const vectorFile = new URL('./vectors/xmatrix.json', import.meta.url);
const { vectors, count } = JSON.parse(readFileSync(vectorFile, 'utf8')) as {
  vectors: (ParseRow | SignRow)[];
  count: number;
};
const parseRows = vectors.filter((row) => row.kind === 'parse');
const signRows = vectors.filter((row) => row.kind === 'signRequest');

describe('X-Matrix vectors', () => {
  it('are all of a known kind', () => {
    expect(parseRows.length + signRows.length).toBe(count);
  });

  it.each(parseRows)('$id: $input.header', ({ input, expected }) => {
    const result = parseXMatrix(input.header);
    if (!expected.accepted) {
      expect(result).toMatchObject({ error: 'malformed' });
      return;
    }
    expect(result).toEqual({
      origin: expected.origin,
      keyId: expected.key,
      signature: expected.sig,
      ...(expected.destination === null ? {} : { destination: expected.destination }),
    });
  });

  it.each(signRows)('$id: $input.method $input.uri', ({ input, expected }) => {
    const { keyId, origin, destination } = input;
    const seed = decodeBase64(input.seedBase64) as Uint8Array;
    expect(encodeUnpaddedBase64(nativeEd25519.publicKeyOf(seed))).toBe(input.publicKeyBase64);
    const signature = expected.signatureBase64;
    expect(signRequest(input, { keyId, seed })).toBe(
      `X-Matrix origin="${origin}",destination="${destination}",key="${keyId}",sig="${signature}"`,
    );
    const publicKey = decodeBase64(input.publicKeyBase64) as Uint8Array;
    expect(verifyJsonSignature(requestToSign(input), signature, publicKey)).toBe(true);
  });
});
