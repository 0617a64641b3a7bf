import { readFileSync } from 'node:fs';
import { encodeCanonicalJson, holdsOnlyCanonicalNumbers, parseJson } from '@exeunt/signing';
import { describe, expect, it } from 'vitest';

interface Row {
  readonly id: string;
  readonly kind: 'canonicalise' | 'strictNumbers';
  readonly roomVersion?: string;
  readonly input: { readonly jsonText: string };
  readonly expected: { readonly canonical: string; readonly utf8Hex: string; readonly accepted: boolean };
}

const vectorFile = new URL('./vectors/canonical-json.json', import.meta.url);
const { vectors, count } = JSON.parse(readFileSync(vectorFile, 'utf8')) as { vectors: Row[]; count: number };
const rowsOf = (kind: Row['kind']) => vectors.filter((row) => row.kind === kind);

/** The first room version that enforces canonical JSON; rooms/v6. */
const firstStrictVersion = 6;

describe('canonical JSON vectors', () => {
  it('are all of a known kind', () => {
    expect(rowsOf('canonicalise').length + rowsOf('strictNumbers').length).toBe(count);
  });

  it.each(rowsOf('canonicalise'))('$id: $input.jsonText', ({ input, expected }) => {
    const canonical = encodeCanonicalJson(parseJson(input.jsonText));
    expect(canonical).toBe(expected.canonical);
    expect(Buffer.from(canonical, 'utf8').toString('hex')).toBe(expected.utf8Hex);
  });

  it.each(rowsOf('strictNumbers'))(
    '$id: $input.jsonText in version $roomVersion',
    ({ roomVersion, input, expected }) => {
      const isStrict = Number(roomVersion) >= firstStrictVersion;
      const isAccepted = !isStrict || holdsOnlyCanonicalNumbers(parseJson(input.jsonText));
      expect(isAccepted).toBe(expected.accepted);
    },
  );
});
