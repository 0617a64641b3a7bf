import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { isKeyUsableForEvent, readServerKeys } from '@exeunt/key-ring';
import { parseServerName } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { parseJson, stringifyJson, type JsonValue } from '@exeunt/signing';

type KeyVector =
  | {
      id: string;
      kind: 'keyUsableForEvent';
      roomVersion: string;
      input: { atTs: number; validUntilTs: number | null; expiredTs: number | null; nowTs: number };
      expected: { usable: boolean };
      note?: string;
    }
  | {
      id: string;
      kind: 'serverKeyResponse';
      input: { askedFor: string; response: JsonValue };
      expected: { accepted: boolean; usableKeys?: string[] };
      note?: string;
    };

const { count, vectors } = JSON.parse(
  readFileSync(new URL('./vectors/keys.json', import.meta.url), 'utf8'),
) as { count: number; vectors: KeyVector[] };

/** When the responses of the vectors were made. */
const nowTs = 1_700_000_000_000;

describe('key vectors', () => {
  it('are all here', () => expect(vectors).toHaveLength(count));

  it.each(vectors)('$id: $kind, $note', (vector) => {
    switch (vector.kind) {
      case 'keyUsableForEvent': {
        const { atTs, validUntilTs, expiredTs, nowTs } = vector.input;
        const version = roomVersion(vector.roomVersion);
        const isUsable = isKeyUsableForEvent({
          enforcesKeyValidity: version?.enforcesKeyValidity ?? false,
          atTs,
          nowTs,
          ...(validUntilTs === null ? {} : { validUntilTs }),
          ...(expiredTs === null ? {} : { expiredTs }),
        });
        expect(version).toBeDefined();
        expect(isUsable).toBe(vector.expected.usable);
        return;
      }
      case 'serverKeyResponse': {
        const askedFor = parseServerName(vector.input.askedFor);
        if (askedFor === undefined) throw new Error(`${vector.input.askedFor} is no server name`);
        const keys = readServerKeys(parseJson(stringifyJson(vector.input.response)), askedFor, nowTs);
        expect('fault' in keys).toBe(!vector.expected.accepted);
        if ('fault' in keys) return;
        expect([...keys.verifyKeys.keys(), ...keys.oldVerifyKeys.keys()].toSorted()).toEqual(
          vector.expected.usableKeys?.toSorted(),
        );
        return;
      }
      default:
        throw new Error(`unknown kind ${(vector satisfies never as { kind: string }).kind}`);
    }
  });
});
