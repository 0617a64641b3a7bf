import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { redact } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { parseJson, type JsonObject } from '@exeunt/signing';

interface Row {
  readonly id: string;
  readonly roomVersion: string;
  readonly input: { readonly event: JsonObject };
  readonly expected: { readonly redacted: JsonObject };
}

const { vectors } = parseJson(
  readFileSync(new URL('vectors/redaction.json', import.meta.url), 'utf8'),
) as unknown as { vectors: readonly Row[] };

describe('redaction', () => {
  it.each(vectors)('$id in version $roomVersion', ({ roomVersion: id, input, expected }) => {
    const version = roomVersion(id);
    if (version === undefined) throw new Error(`no room version ${id}`);
    const redacted = redact(input.event, version);
    expect(redacted).toEqual(expected.redacted);
    expect(redact(redacted, version)).toEqual(redacted);
  });
});
