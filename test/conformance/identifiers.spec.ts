import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { domainOfRoomId, hostOf, parseRoomId, parseServerName, parseUserId, portOf } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import { parseJson } from '@exeunt/signing';

interface Row<Expected> {
  readonly id: string;
  readonly kind: string;
  readonly input: { readonly value: string };
  readonly expected: Expected & { readonly valid: boolean };
}

const { vectors } = parseJson(
  readFileSync(new URL('vectors/identifiers.json', import.meta.url), 'utf8'),
) as unknown as { vectors: readonly Row<object>[] };

// Rows of kind `discovery` are about finding a server, not about grammar: see discovery.spec.ts.
function rowsOf<Expected>(kind: string): readonly Row<Expected>[] {
  return vectors.filter((row) => row.kind === kind) as unknown as readonly Row<Expected>[];
}

it('knows every kind of the vectors', () => {
  const kinds = new Set(vectors.map(({ kind }) => kind));
  expect([...kinds].sort()).toEqual(['discovery', 'roomId', 'serverName', 'userId']);
});

describe('server names', () => {
  it.each(rowsOf<{ host?: string; port?: number | null }>('serverName'))(
    '$id $input.value',
    ({ input, expected }) => {
      const serverName = parseServerName(input.value);
      expect(serverName).toBe(expected.valid ? input.value : undefined);
      if (serverName === undefined) return;
      expect(hostOf(serverName)).toBe(expected.host);
      expect(portOf(serverName) ?? null).toBe(expected.port);
    },
  );
});

describe('user IDs', () => {
  it.each(rowsOf<object>('userId'))('$id', ({ input, expected }) => {
    expect(parseUserId(input.value)).toBe(expected.valid ? input.value : undefined);
  });
});

describe('room IDs', () => {
  it.each(rowsOf<{ roomVersionClass: 'v1-v11' | 'v12' }>('roomId'))('$id', ({ input, expected }) => {
    const accepting = roomVersionIds.filter((id) => parseRoomId(input.value, roomVersion(id)) !== undefined);
    const ofClass = roomVersionIds.filter((id) => (id === '12') === (expected.roomVersionClass === 'v12'));
    expect(accepting).toEqual(expected.valid ? ofClass : []);
    const roomId = parseRoomId(input.value);
    expect(roomId).toBe(expected.valid ? input.value : undefined);
    if (roomId !== undefined)
      expect(domainOfRoomId(roomId) === undefined).toBe(expected.roomVersionClass === 'v12');
  });
});
