import { readFileSync } from 'node:fs';
import {
  decodeBase64,
  encodeCanonicalJson,
  encodeUnpaddedBase64,
  holdsOnlyCanonicalNumbers,
  nativeEd25519,
  parseJson,
  parseXMatrix,
  signedBytes,
  signJson,
  signRequest,
  requestToSign,
  tweetnaclEd25519,
  verifySignedJson,
} from '@exeunt/signing';
import type { JsonObject, RequestToSign } from '@exeunt/signing';
import { describe, expect, it } from 'vitest';

interface CanonicalRow {
  readonly id: string;
  readonly input_json_text: string;
  readonly expected: string;
  readonly expected_utf8_hex?: string;
}

interface HeaderRow {
  readonly id: string;
  readonly header: string;
  readonly expected: { origin: string; destination?: string; key: string; sig: string } | null;
}

interface SpecVectors {
  readonly signing_key: {
    readonly seed_unpadded_base64: string;
    readonly seed_hex: string;
    readonly server_name: string;
    readonly key_id: string;
  };
  readonly canonical_json: CanonicalRow[];
  readonly unpadded_base64: { id: string; input_ascii: string; expected: string }[];
  readonly json_signing: { id: string; input: JsonObject; signed_bytes_utf8: string; expected: JsonObject }[];
  readonly illustrative: { id: string; value: JsonObject }[];
  readonly other_spec_examples: { readonly x_matrix_header: HeaderRow[] };
  readonly derived: {
    readonly public_key_from_seed: { readonly public_key_unpadded_base64: string };
    readonly canonical_json: CanonicalRow[];
    readonly canonical_json_rejected_in_room_versions_6_plus: { input_json_text: string; why: string }[];
    readonly x_matrix_parse: HeaderRow[];
    readonly x_matrix_requests: {
      id: string;
      request_json: RequestToSign;
      signed_bytes_utf8: string;
      header: string;
    }[];
  };
}

const vectorFile = new URL('./vectors/spec-vectors.json', import.meta.url);
const spec = JSON.parse(readFileSync(vectorFile, 'utf8')) as SpecVectors;
const serverName = spec.signing_key.server_name;
const key = {
  keyId: spec.signing_key.key_id,
  seed: decodeBase64(spec.signing_key.seed_unpadded_base64) as Uint8Array,
};
const publicKey = decodeBase64(spec.derived.public_key_from_seed.public_key_unpadded_base64) as Uint8Array;
const utf8 = (bytes: Uint8Array) => Buffer.from(bytes).toString('utf8');

describe("the spec's signing key (TV-01)", () => {
  it('decodes in spite of its non-zero trailing bits', () => {
    expect(Buffer.from(key.seed).toString('hex')).toBe(spec.signing_key.seed_hex);
  });

  it.each([nativeEd25519, tweetnaclEd25519])('gives the public key by $name', (ed) => {
    expect(ed.publicKeyOf(key.seed)).toEqual(publicKey);
  });
});

describe('canonical JSON of the spec (TV-02)', () => {
  it.each([...spec.canonical_json, ...spec.derived.canonical_json])('$id', (row) => {
    const canonical = encodeCanonicalJson(parseJson(row.input_json_text));
    expect(canonical).toBe(row.expected);
    if (row.expected_utf8_hex !== undefined) {
      expect(Buffer.from(canonical).toString('hex')).toBe(row.expected_utf8_hex);
    }
  });

  it.each(spec.derived.canonical_json_rejected_in_room_versions_6_plus)(
    '$input_json_text is refused from version 6 on: $why',
    (row) => {
      expect(holdsOnlyCanonicalNumbers(parseJson(row.input_json_text))).toBe(false);
    },
  );
});

describe('base64 of the spec (TV-03)', () => {
  it.each(spec.unpadded_base64)('$id', ({ input_ascii: text, expected }) => {
    const bytes = new TextEncoder().encode(text);
    expect(encodeUnpaddedBase64(bytes)).toBe(expected);
    expect(decodeBase64(expected)).toEqual(bytes);
  });
});

describe('JSON signing of the spec (TV-04, TV-05)', () => {
  it.each(spec.json_signing)('$id', (row) => {
    expect(utf8(signedBytes(row.input))).toBe(row.signed_bytes_utf8);
    expect(signJson(row.input, serverName, key)).toEqual(row.expected);
    expect(verifySignedJson(row.expected, serverName, key.keyId, publicKey)).toBe(true);
  });

  // TV-09: its signature is only for show.
  it.each(spec.illustrative)('$id does not verify', ({ value }) => {
    const keys = value['signing_keys'] as JsonObject;
    const shownKey = decodeBase64(keys['ed25519:1'] as string) as Uint8Array;
    expect(verifySignedJson(value, 'example.org', 'ed25519:1', shownKey)).toBe(false);
  });
});

describe('request authentication (TV-10)', () => {
  it.each([...spec.other_spec_examples.x_matrix_header, ...spec.derived.x_matrix_parse])('$id', (row) => {
    const result = parseXMatrix(row.header);
    if (row.expected === null) {
      expect(result).toHaveProperty('error');
      return;
    }
    const { key: keyId, sig: signature, ...servers } = row.expected;
    expect(result).toEqual({ ...servers, keyId, signature });
  });

  it.each(spec.derived.x_matrix_requests)('$id', (row) => {
    expect(utf8(signedBytes(requestToSign(row.request_json)))).toBe(row.signed_bytes_utf8);
    expect(signRequest(row.request_json, key)).toBe(row.header);
  });
});
