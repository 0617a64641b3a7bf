import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  checkPduSignatures,
  contentHash,
  contentHashMatches,
  eventIdOf,
  parseEventId,
  parsePdu,
  parseRoomId,
  parseUserId,
  requiredSigners,
  roomIdOfCreate,
  signPdu,
  parseServerName,
  type Pdu,
  type ServerName,
} from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { decodeBase64, isJsonObject, nativeEd25519, parseJson, type JsonObject } from '@exeunt/signing';

interface Row<Input, Expected> {
  readonly id: string;
  readonly kind: string;
  readonly roomVersion: string;
  readonly input: Input & { readonly event: JsonObject };
  readonly expected: Expected;
}

const { vectors } = parseJson(
  readFileSync(new URL('vectors/event-crypto.json', import.meta.url), 'utf8'),
) as unknown as { vectors: readonly Row<object, object>[] };

function rowsOf<Input, Expected>(kind: string): readonly Row<Input, Expected>[] {
  return vectors.filter((row) => row.kind === kind) as unknown as readonly Row<Input, Expected>[];
}

function versionOf(row: { readonly roomVersion: string }): RoomVersion {
  return required(roomVersion(row.roomVersion));
}

function required<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the vector holds what does not parse');
  return value;
}

function bytes(base64: string): Uint8Array {
  return required(decodeBase64(base64));
}

function text(value: unknown): string {
  if (typeof value !== 'string') throw new Error('the vector holds no string here');
  return value;
}

/** Most events of these vectors lack fields that a PDU must have, so `parsePdu` cannot be asked for them. */
function pduOfPart(event: JsonObject, version: RoomVersion): Pdu {
  const stateKey = event['state_key'];
  const content = event['content'];
  return {
    roomVersion: version,
    eventId:
      version.eventIdFormat === 'opaque-in-pdu'
        ? required(parseEventId(text(event['event_id']), version))
        : eventIdOf(event, version),
    roomId: required(parseRoomId(text(event['room_id']), version)),
    type: text(event['type']),
    sender: required(parseUserId(text(event['sender']))),
    ...(typeof stateKey === 'string' ? { stateKey } : {}),
    content: isJsonObject(content) ? content : {},
    prevEvents: [],
    authEvents: [],
    depth: 1,
    originServerTs: Number(event['origin_server_ts']),
    json: event,
  };
}

it('knows every kind of the vectors', () => {
  const kinds = new Set(vectors.map(({ kind }) => kind));
  expect([...kinds].sort()).toEqual([
    'contentHash',
    'eventId',
    'hashAndSign',
    'requiredSigners',
    'roomIdFromCreate',
    'verifySignature',
  ]);
});

interface Signing {
  readonly seedBase64: string;
  readonly publicKeyBase64: string;
  readonly serverName: string;
  readonly keyId: string;
}

describe('hashing and signing an event', () => {
  it.each(
    rowsOf<Signing, { contentHashSha256: string; signatureBase64: string; eventId?: string }>('hashAndSign'),
  )('$id in version $roomVersion', (row) => {
    const { input, expected } = row;
    const serverName = required(parseServerName(input.serverName));
    const key = { keyId: input.keyId, seed: bytes(input.seedBase64) };
    const signed = signPdu(input.event, versionOf(row), serverName, key);
    expect(signed['hashes']).toEqual({ sha256: expected.contentHashSha256 });
    expect(signed['signatures']).toEqual({ [serverName]: { [input.keyId]: expected.signatureBase64 } });
    expect(nativeEd25519.publicKeyOf(key.seed)).toEqual(bytes(input.publicKeyBase64));
    if (expected.eventId !== undefined) expect(eventIdOf(signed, versionOf(row))).toBe(expected.eventId);
  });
});

describe('checking the signature of an event', () => {
  it.each(rowsOf<Omit<Signing, 'seedBase64'>, { valid: boolean }>('verifySignature'))(
    '$id in version $roomVersion',
    async (row) => {
      const { input, expected } = row;
      const keyOf = (server: ServerName, keyId: string) =>
        server === input.serverName && keyId === input.keyId
          ? { publicKey: bytes(input.publicKeyBase64), validAt: () => true }
          : undefined;
      const check = await checkPduSignatures(pduOfPart(input.event, versionOf(row)), keyOf, nativeEd25519);
      expect(check.ok).toBe(expected.valid);
    },
  );
});

describe('the content hash', () => {
  it.each(rowsOf<object, { computed: string; matchesClaim: boolean }>('contentHash'))(
    '$id in version $roomVersion',
    ({ input, expected }) => {
      expect(contentHash(input.event)).toBe(expected.computed);
      expect(contentHashMatches(input.event)).toBe(expected.matchesClaim);
    },
  );
});

describe('the event ID', () => {
  it.each(rowsOf<object, { eventId: string; contentHashSha256?: string }>('eventId'))(
    '$id in version $roomVersion',
    (row) => {
      expect(eventIdOf(row.input.event, versionOf(row))).toBe(row.expected.eventId);
      // Whole events all, so that the path of a received PDU must come to the same.
      expect(parsePdu(row.input.event, versionOf(row))).toMatchObject({ eventId: row.expected.eventId });
    },
  );
});

describe('the room ID made by a create event', () => {
  it.each(rowsOf<object, { eventId: string; roomId: string }>('roomIdFromCreate'))(
    '$id in version $roomVersion',
    (row) => {
      expect(roomIdOfCreate(row.input.event, versionOf(row))).toBe(row.expected.roomId);
      expect(parsePdu(row.input.event, versionOf(row))).toMatchObject(row.expected);
    },
  );
});

describe('the servers that must have signed', () => {
  it.each(rowsOf<object, { servers: readonly string[] }>('requiredSigners'))(
    '$id in version $roomVersion',
    (row) => {
      const signers = requiredSigners(pduOfPart(row.input.event, versionOf(row)));
      expect(signers.map(({ server }) => server).sort()).toEqual(row.expected.servers);
    },
  );
});
