import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { UserId } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { parseJson, type JsonObject } from '@exeunt/signing';
import { authEventTypes } from '../../libs/room/src/auth-rules/auth-event-types.js';

interface Row {
  readonly id: string;
  readonly source: { readonly test: string };
  readonly roomVersion: string;
  readonly disputed?: boolean;
  readonly input: {
    readonly event: {
      readonly type: string;
      readonly sender: string;
      readonly state_key?: string;
      readonly content: JsonObject;
    };
  };
  readonly expected: { readonly typeStateKeyPairs: readonly (readonly [string, string])[] };
}

const file = readFileSync(new URL('vectors/auth-selection.json', import.meta.url), 'utf8');
const { vectors } = parseJson(file) as unknown as { readonly vectors: readonly Row[] };
const rows = vectors.filter(({ disputed }) => disputed !== true);

describe('auth events selection', () => {
  it.each(rows.map((row) => [`${row.id} v${row.roomVersion} ${row.source.test}`, row] as const))(
    '%s',
    (_name, row) => {
      const { type, sender, state_key: stateKey, content } = row.input.event;
      const selected = authEventTypes(
        { type, sender: sender as UserId, stateKey, content },
        roomVersion(row.roomVersion)!,
      );
      const pairs = selected.map((pair) => [pair.type, pair.stateKey]);
      expect(pairs.sort()).toEqual([...row.expected.typeStateKeyPairs].sort());
    },
  );
});
