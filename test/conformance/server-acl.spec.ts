import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseJson, type JsonObject } from '@exeunt/signing';
import { isServerAllowed } from '../../libs/room/src/server-acl.js';

interface Row {
  readonly id: string;
  readonly source: { readonly test: string };
  readonly disputed?: boolean;
  /** `null` where the room has no `m.room.server_acl`. */
  readonly input: { readonly aclContent: JsonObject | null; readonly serverName: string };
  readonly expected: { readonly allowed: boolean };
}

const file = readFileSync(new URL('vectors/server-acl.json', import.meta.url), 'utf8');
const { vectors } = parseJson(file) as unknown as { readonly vectors: readonly Row[] };
const rows = vectors.filter(({ disputed }) => disputed !== true);

describe('server ACLs', () => {
  it.each(rows.map((row) => [`${row.id} ${row.source.test}`, row] as const))(
    '%s',
    (_name, { input, expected }) => {
      expect(isServerAllowed(input.aclContent ?? undefined, input.serverName)).toBe(expected.allowed);
    },
  );
});
