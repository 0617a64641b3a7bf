import { readFileSync } from 'node:fs';
import {
  decodeBase64,
  encodeUnpaddedBase64,
  nativeEd25519,
  parseJson,
  signaturesOf,
  signJson,
  stringifyJson,
  tweetnaclEd25519,
  verifySignedJson,
} from '@exeunt/signing';
import type { JsonObject } from '@exeunt/signing';
import { describe, expect, it } from 'vitest';

interface Row {
  readonly id: string;
  readonly kind: 'sign' | 'verify';
  readonly note?: string;
  readonly disputed?: boolean;
  readonly input: {
    readonly seedBase64: string;
    readonly publicKeyBase64: string;
    readonly serverName: string;
    readonly keyId: string;
    readonly object: JsonObject;
  };
  readonly expected: { readonly signatureBase64: string; readonly valid: boolean };
}

const vectorFile = new URL('./vectors/json-signing.json', import.meta.url);
const { vectors, count } = JSON.parse(readFileSync(vectorFile, 'utf8')) as { vectors: Row[]; count: number };
const rowsOf = (kind: Row['kind']) => vectors.filter((row) => row.kind === kind && row.disputed !== true);
const disputed = vectors.filter((row) => row.disputed === true);
const bytes = (text: string) => decodeBase64(text) as Uint8Array;

describe('JSON signing vectors', () => {
  it('are all of a known kind', () => {
    expect(rowsOf('sign').length + rowsOf('verify').length + disputed.length).toBe(count);
  });
});

describe.each([nativeEd25519, tweetnaclEd25519])('JSON signing vectors by $name', (ed) => {
  it.each(rowsOf('sign'))('$id signs', ({ input, expected }) => {
    const { serverName, keyId } = input;
    const seed = bytes(input.seedBase64);
    const object = parseJson(stringifyJson(input.object)) as JsonObject;
    const signed = signJson(object, serverName, { keyId, seed }, ed);
    expect(encodeUnpaddedBase64(ed.publicKeyOf(seed))).toBe(input.publicKeyBase64);
    expect(signaturesOf(signed, serverName)).toEqual([{ keyId, signature: expected.signatureBase64 }]);
    expect(verifySignedJson(signed, serverName, keyId, bytes(input.publicKeyBase64), ed)).toBe(true);
  });

  it.each(rowsOf('verify'))('$id verifies as $expected.valid ($note)', ({ input, expected }) => {
    const { object, serverName, keyId } = input;
    expect(verifySignedJson(object, serverName, keyId, bytes(input.publicKeyBase64), ed)).toBe(
      expected.valid,
    );
  });

  // Upstream implementations disagree on these, so only that they do not throw is held.
  it.each(disputed)('$id gives an answer ($note)', ({ input }) => {
    const { object, serverName, keyId } = input;
    expect(verifySignedJson(object, serverName, keyId, bytes(input.publicKeyBase64), ed)).toBeTypeOf(
      'boolean',
    );
  });
});
