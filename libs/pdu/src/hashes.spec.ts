import { describe, expect, it } from 'vitest';
import { decodeBase64, encodeUnpaddedBase64, withKeys, withoutKeys, type JsonObject } from '@exeunt/signing';
import { isPduFault, parsePdu } from './format.js';
import {
  contentHash,
  contentHashMatches,
  eventIdOf,
  referenceHash,
  referenceTo,
  roomIdOfCreate,
  withRedactedContent,
} from './hashes.js';
import { everyVersion, leaveIn, versionNamed } from './leave.fixture.js';
import { redact } from './redaction.js';

function hashed(json: JsonObject): JsonObject {
  return withKeys(json, { hashes: { sha256: contentHash(json) } });
}

describe.each(everyVersion)('hashes in room version $id', (version) => {
  const json = hashed(leaveIn(version));

  it('the content hash covers all but unsigned, signatures and hashes', () => {
    const signatures = { h: { 'ed25519:1': 'x' } };
    expect(contentHashMatches(withKeys(json, { signatures, unsigned: { age: 1 } }))).toBe(true);
    expect(contentHashMatches(withKeys(json, { junk: 1 }))).toBe(false);
    expect(contentHashMatches(redact(json, version))).toBe(false);
  });

  it('the reference hash is the same for the full and the redacted event, whoever signed', () => {
    const hash = referenceHash(json, version);
    expect(hash).toHaveLength(32);
    expect(referenceHash(redact(json, version), version)).toEqual(hash);
    expect(referenceHash(withKeys(json, { signatures: { h: {} }, unsigned: {} }), version)).toEqual(hash);
    expect(referenceHash(withKeys(json, { hashes: { sha256: 'other' } }), version)).not.toEqual(hash);
    expect(referenceHash(withKeys(json, { depth: 13 }), version)).not.toEqual(hash);
  });

  it('a PDU continued as its redacted copy is still itself', () => {
    const pdu = parsePdu(json, version);
    if (isPduFault(pdu)) throw new Error(pdu.detail);
    const redacted = withRedactedContent(pdu);
    const content = { membership: 'leave' };
    expect(redacted).toEqual({ ...pdu, content, json: withKeys(pdu.json, { content }) });
    expect(eventIdOf(redacted.json, version)).toBe(pdu.eventId);
    expect(referenceTo(redacted)).toEqual(referenceTo(pdu));
  });

  it('a reference is one that a PDU of the version may hold', () => {
    const cited = parsePdu(json, version);
    if (isPduFault(cited)) throw new Error(cited.detail);
    expect(parsePdu(leaveIn(version, { prev_events: [referenceTo(cited)] }), version)).toMatchObject({
      prevEvents: [cited.eventId],
    });
    const hash = encodeUnpaddedBase64(referenceHash(json, version));
    expect(referenceTo(cited)).toEqual(
      version.referencesArePairs ? [cited.eventId, { sha256: hash }] : cited.eventId,
    );
  });

  it('only rooms of version 12 are named after their create event', () => {
    const make = () => roomIdOfCreate({ type: 'm.room.create', content: {} }, version);
    if (version.id === '12') expect(make()).toMatch(/^![\w-]{43}$/);
    else expect(make).toThrow(TypeError);
  });
});

describe('the claim in hashes.sha256', () => {
  const json = leaveIn(versionNamed('11'));
  const right = contentHash(json);
  const spareBits = `${right.slice(0, -1)}${nextCharacter(right.slice(-1))}`;

  it('may be padded, or have spare bits set', () => {
    expect(decodeBase64(spareBits)).toEqual(decodeBase64(right));
    for (const sha256 of [right, `${right}=`, spareBits]) {
      expect(contentHashMatches(withKeys(json, { hashes: { sha256 } }))).toBe(true);
    }
  });

  it.each(['', 'x', '%%%', right.slice(1), `${right}AAAA`, 1, null])('does not match as %j', (sha256) => {
    expect(contentHashMatches(withKeys(json, { hashes: { sha256 } }))).toBe(false);
  });

  it('does not match where it is missing', () => {
    expect(contentHashMatches(withoutKeys(json, 'hashes'))).toBe(false);
    expect(contentHashMatches(withKeys(json, { hashes: [right] }))).toBe(false);
  });
});

/** The next base64 character: the last of 43 has two bits that belong to no byte, and they are zero. */
function nextCharacter(character: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  return alphabet.charAt(alphabet.indexOf(character) + 1);
}

describe('the event ID in versions 1 and 2', () => {
  it.each(['1', '2'])('is the one stated, in version %s', (id) => {
    const version = versionNamed(id);
    expect(eventIdOf(leaveIn(version), version)).toBe('$leave:leaver.test');
    expect(() => eventIdOf(withoutKeys(leaveIn(version), 'event_id'), version)).toThrow(TypeError);
    expect(() => eventIdOf(leaveIn(version, { event_id: '$x' }), version)).toThrow(TypeError);
  });
});
