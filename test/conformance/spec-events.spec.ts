import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  contentHashMatches,
  eventIdOf,
  parseEventId,
  parsePdu,
  parseRoomId,
  parseServerName,
  redact,
  referenceHash,
  referenceTo,
  signPdu,
  isPduFault,
} from '@exeunt/pdu';
import { isRoomVersionId, roomVersion, roomVersionIds, type RoomVersion } from '@exeunt/room-version';
import {
  decodeBase64,
  encodeUnpaddedBase64,
  parseJson,
  signedBytes,
  type JsonObject,
  type SigningKey,
} from '@exeunt/signing';

interface SigningExample {
  readonly id: string;
  readonly input: JsonObject;
  readonly signed_bytes_utf8: string;
  readonly expected: JsonObject;
  readonly valid_for_redaction_of_room_versions: readonly string[];
}

interface LeaveEvent {
  readonly id: string;
  readonly room_version: string;
  readonly input: JsonObject;
  readonly expected_hashes: JsonObject;
  readonly expected_signatures: JsonObject;
  readonly reference_hash_unpadded_base64: string;
  readonly event_id: string;
}

interface SpecVectors {
  readonly signing_key: {
    readonly seed_unpadded_base64: string;
    readonly server_name: string;
    readonly key_id: string;
  };
  readonly event_signing: readonly SigningExample[];
  readonly other_spec_examples: {
    readonly server_names_valid: { readonly values: readonly string[] };
    readonly room_versions_valid: { readonly values: readonly string[] };
    readonly event_id_examples: { readonly values: readonly { room_version: string; value: string }[] };
    readonly room_id_examples: { readonly values: readonly { room_version: string; value: string }[] };
  };
  readonly derived: {
    readonly leave_events: readonly LeaveEvent[];
    readonly event_signing_v11: readonly {
      readonly id: string;
      readonly same_input_as: string;
      readonly room_version_redaction: string;
      readonly expected_hashes: JsonObject;
      readonly expected_signatures: JsonObject;
    }[];
    readonly reference_hashes_of_spec_events: readonly {
      readonly of: string;
      readonly room_version: string;
      readonly event_id?: string;
      readonly reference_hash_unpadded_base64?: string;
    }[];
  };
}

const vectors = parseJson(
  readFileSync(new URL('vectors/spec-vectors.json', import.meta.url), 'utf8'),
) as unknown as SpecVectors;

function required<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the vector holds what does not parse');
  return value;
}

function version(id: string): RoomVersion {
  return required(roomVersion(id));
}

/** `4-10` as the vectors write it, by the order in which the versions are listed. */
function versionsOf(range: string): readonly RoomVersion[] {
  const [first, last] = range.split('-');
  const from = roomVersionIds.indexOf(required(first));
  const to = last === undefined ? from : roomVersionIds.indexOf(last);
  return roomVersionIds.slice(from, to + 1).map(version);
}

function exampleNamed(name: string): SigningExample {
  return required(vectors.event_signing.find(({ id }) => name.startsWith(id)));
}

const serverName = required(parseServerName(vectors.signing_key.server_name));
const key: SigningKey = {
  keyId: vectors.signing_key.key_id,
  seed: required(decodeBase64(vectors.signing_key.seed_unpadded_base64)),
};

describe("the spec's event signing examples", () => {
  const rows = vectors.event_signing.flatMap((example) =>
    example.valid_for_redaction_of_room_versions.map((id) => ({ ...example, versionId: id })),
  );
  it.each(rows)('$id under the redaction of version $versionId', ({ input, expected, ...row }) => {
    const signed = signPdu(input, version(row.versionId), serverName, key);
    expect(signed).toEqual(expected);
    expect(new TextDecoder().decode(signedBytes(redact(signed, version(row.versionId))))).toBe(
      row.signed_bytes_utf8,
    );
  });

  it.each(vectors.derived.event_signing_v11)('$id: $same_input_as in version 11', (row) => {
    const { input } = exampleNamed(row.same_input_as);
    const signed = signPdu(input, version(row.room_version_redaction), serverName, key);
    expect(signed['hashes']).toEqual(row.expected_hashes);
    expect(signed['signatures']).toEqual(row.expected_signatures);
  });

  it.each(vectors.derived.reference_hashes_of_spec_events)(
    'reference hash of $of in $room_version',
    (row) => {
      for (const roomVersionOfRow of versionsOf(row.room_version)) {
        const signed = signPdu(exampleNamed(row.of).input, roomVersionOfRow, serverName, key);
        if (row.event_id !== undefined) expect(eventIdOf(signed, roomVersionOfRow)).toBe(row.event_id);
        if (row.reference_hash_unpadded_base64 !== undefined) {
          const hash = encodeUnpaddedBase64(referenceHash(signed, roomVersionOfRow));
          expect(hash).toBe(row.reference_hash_unpadded_base64);
        }
      }
    },
  );
});

describe('leave events derived from the spec', () => {
  it.each(vectors.derived.leave_events)('$id in version $room_version', (row) => {
    const signed = signPdu(row.input, version(row.room_version), serverName, key);
    expect(signed['hashes']).toEqual(row.expected_hashes);
    expect(signed['signatures']).toEqual(row.expected_signatures);
    expect(contentHashMatches(signed)).toBe(true);

    const pdu = parsePdu(signed, version(row.room_version));
    if (isPduFault(pdu)) throw new Error(pdu.detail);
    expect(pdu.eventId).toBe(row.event_id);
    expect(encodeUnpaddedBase64(referenceHash(pdu.json, pdu.roomVersion))).toBe(
      row.reference_hash_unpadded_base64,
    );
    expect(referenceTo(pdu)).toEqual(
      pdu.roomVersion.referencesArePairs
        ? [row.event_id, { sha256: row.reference_hash_unpadded_base64 }]
        : row.event_id,
    );
  });
});

describe("the spec's identifiers", () => {
  const examples = vectors.other_spec_examples;

  it.each(examples.server_names_valid.values)('server name %s', (text) => {
    expect(parseServerName(text)).toBe(text);
  });

  it.each(examples.room_versions_valid.values)('room version %s', (text) => {
    expect(isRoomVersionId(text)).toBe(true);
  });

  it.each(examples.event_id_examples.values)(
    'event ID of version $room_version',
    ({ room_version: id, value }) => {
      expect(parseEventId(value, version(id))).toBe(value);
      expect(parseEventId(value)).toBe(value);
    },
  );

  it.each(examples.room_id_examples.values)(
    'room ID of versions $room_version',
    ({ room_version: range, value }) => {
      for (const each of versionsOf(range)) expect(parseRoomId(value, each)).toBe(value);
      expect(parseRoomId(value)).toBe(value);
    },
  );
});
