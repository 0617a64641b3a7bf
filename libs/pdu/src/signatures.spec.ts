import { describe, expect, it } from 'vitest';
import type { RoomVersion } from '@exeunt/room-version';
import { nativeEd25519, withKeys, type JsonObject, type JsonValue } from '@exeunt/signing';
import { isPduFault, parsePdu } from './format.js';
import { contentHashMatches, withRedactedContent } from './hashes.js';
import { parseServerName } from './identifiers.js';
import { everyVersion, leaveIn, versionNamed } from './leave.fixture.js';
import type { Pdu, ServerName } from './pdu.js';
import {
  addSignature,
  checkPduSignatures,
  requiredSigners,
  signingKeysNamed,
  signPdu,
} from './signatures.js';

function server(text: string): ServerName {
  const serverName = parseServerName(text);
  if (serverName === undefined) throw new Error(text);
  return serverName;
}

const leaver = server('leaver.test');
const other = server('other.test');

/** Every server signs with a seed of its own, and another one a key. */
function keyOfServer(serverName: ServerName, keyId = 'ed25519:1') {
  const seed = new Uint8Array(32);
  seed.set(Buffer.from(`${serverName} ${keyId}`).subarray(0, 32));
  return { keyId, seed };
}

function signedBy(serverName: ServerName, json: JsonObject, version: RoomVersion): JsonObject {
  return signPdu(json, version, serverName, keyOfServer(serverName));
}

function alsoSignedBy(
  serverName: ServerName,
  json: JsonObject,
  version: RoomVersion,
  keyId?: string,
): JsonObject {
  return addSignature(json, version, serverName, keyOfServer(serverName, keyId));
}

function pduOf(json: JsonObject, version: RoomVersion): Pdu {
  const pdu = parsePdu(json, version);
  if (isPduFault(pdu)) throw new Error(`${pdu.rule}: ${pdu.detail}`);
  return pdu;
}

/** As though every key of every server were known and valid, but for those named. */
function keys({
  unknown = [],
  expired = [],
}: { unknown?: readonly string[]; expired?: readonly string[] } = {}) {
  return (serverName: ServerName, keyId: string) =>
    unknown.includes(keyId)
      ? undefined
      : {
          publicKey: nativeEd25519.publicKeyOf(keyOfServer(serverName, keyId).seed),
          validAt: () => !expired.includes(keyId),
        };
}

function check(json: JsonObject, version: RoomVersion, keyOf = keys()) {
  return checkPduSignatures(pduOf(json, version), keyOf, nativeEd25519);
}

function withSignature(
  json: JsonObject,
  serverName: ServerName,
  keyId: string,
  signature: JsonValue,
): JsonObject {
  const signatures = json['signatures'] as JsonObject;
  const ofServer = (signatures[serverName] ?? {}) as JsonObject;
  return withKeys(json, {
    signatures: withKeys(signatures, { [serverName]: withKeys(ofServer, { [keyId]: signature }) }),
  });
}

describe.each(everyVersion)('a leave of room version $id', (version) => {
  const signed = signedBy(leaver, leaveIn(version), version);
  const isOpaque = version.eventIdFormat === 'opaque-in-pdu';

  it('is hashed and signed by the leaving server', async () => {
    expect(contentHashMatches(signed)).toBe(true);
    expect(signingKeysNamed(pduOf(signed, version))).toEqual([{ server: leaver, keyId: 'ed25519:1' }]);
    expect(await check(signed, version)).toEqual({ ok: true });
  });

  it('still holds its signature as a redacted copy', async () => {
    const redacted = withRedactedContent(pduOf(signed, version));
    expect(await checkPduSignatures(redacted, keys(), nativeEd25519)).toEqual({ ok: true });
    const tampered = withKeys(signed, { content: { membership: 'leave', reason: 'put in later' } });
    expect(await check(tampered, version)).toEqual({ ok: true });
  });

  it('fails where a field that redaction keeps has changed', async () => {
    for (const changes of [{ content: { membership: 'ban' } }, { depth: 99 }, { hashes: { sha256: 'x' } }]) {
      expect(await check(withKeys(signed, changes), version)).toMatchObject({ ok: false, server: leaver });
    }
  });

  it('fails where nobody, or only another server, has signed', async () => {
    const unsigned = withKeys(signed, { signatures: {} });
    expect(await check(unsigned, version)).toMatchObject({ ok: false, server: leaver, lacksKey: false });
    expect(await check(signedBy(other, leaveIn(version), version), version)).toMatchObject({
      ok: false,
      server: leaver,
    });
  });

  it('fails where its only key is unknown or has expired', async () => {
    for (const known of [keys({ unknown: ['ed25519:1'] }), keys({ expired: ['ed25519:1'] })]) {
      expect(await check(signed, version, known)).toMatchObject({ ok: false, lacksKey: true });
    }
  });

  it('fails on one bad signature by a known key, passes over one by an unknown or expired key', async () => {
    const good = alsoSignedBy(leaver, signed, version, 'ed25519:2');
    expect(await check(good, version)).toEqual({ ok: true });
    for (const bad of ['A'.repeat(86), '', '!', 'AAAA']) {
      const json = withSignature(good, leaver, 'ed25519:1', bad);
      expect(await check(json, version)).toMatchObject({ ok: false, server: leaver, lacksKey: false });
      expect(await check(json, version, keys({ unknown: ['ed25519:1'] }))).toEqual({ ok: true });
      expect(await check(json, version, keys({ expired: ['ed25519:1'] }))).toEqual({ ok: true });
    }
  });

  it('does not count, and is not hurt by, unknown algorithms, policy servers and servers not asked', async () => {
    const extra = ['curve25519:1', 'ed25519:policy_server', 'ed25519:bad key', 'nonsense'];
    const json = extra.reduce((event, keyId) => withSignature(event, leaver, keyId, 'x'), signed);
    expect(await check(withSignature(json, other, 'ed25519:1', 'x'), version)).toEqual({ ok: true });
    expect(signingKeysNamed(pduOf(json, version))).toEqual([{ server: leaver, keyId: 'ed25519:1' }]);
    const onlyPolicy = addSignature(
      withKeys(signed, { signatures: {} }),
      version,
      leaver,
      keyOfServer(leaver, 'ed25519:policy_server'),
    );
    expect((await check(onlyPolicy, version)).ok).toBe(false);
  });

  it('asks whether the key was valid at origin_server_ts, and in which version', async () => {
    const asked: unknown[] = [];
    await checkPduSignatures(
      pduOf(signed, version),
      (serverName, keyId) => ({
        publicKey: nativeEd25519.publicKeyOf(keyOfServer(serverName, keyId).seed),
        validAt: (...when) => asked.push(when) > 0,
      }),
      nativeEd25519,
    );
    expect(asked).toEqual([[1_700_000_000_000, version]]);
  });

  it('with an event ID of another server needs that server too, in versions 1 and 2', async () => {
    const json = signedBy(leaver, leaveIn(version, { event_id: '$leave:other.test' }), version);
    expect((await check(json, version)).ok).toBe(!isOpaque);
    expect(await check(alsoSignedBy(other, json, version), version)).toEqual({ ok: true });
  });

  it('that names an authorising user needs the server of that user since version 8', async () => {
    const content = { membership: 'leave', join_authorised_via_users_server: '@admin:other.test' };
    const json = signedBy(leaver, leaveIn(version, { content }), version);
    const result = await check(json, version);
    if (version.restrictedJoins) expect(result).toMatchObject({ ok: false, server: other });
    else expect(result).toEqual({ ok: true });
    expect(await check(alsoSignedBy(other, json, version), version)).toEqual({ ok: true });
  });

  it.each([null, 1, '', 'admin', {}])(
    'that names %j as authorising user fails since version 8',
    async (named) => {
      const content = { membership: 'leave', join_authorised_via_users_server: named };
      const json = signedBy(leaver, leaveIn(version, { content }), version);
      expect((await check(json, version)).ok).toBe(!version.restrictedJoins);
      const message = signedBy(leaver, leaveIn(version, { content, type: 'm.room.message' }), version);
      expect(await check(message, version)).toEqual({ ok: true });
    },
  );
});

describe('an invite', () => {
  const version = versionNamed('11');
  const invite = (content: JsonObject, changes: JsonObject = {}) =>
    leaveIn(version, {
      content: { membership: 'invite', ...content },
      state_key: '@bob:other.test',
      ...changes,
    });
  const thirdParty = { third_party_invite: { signed: {} } };

  it.each<[string, JsonObject, readonly string[], readonly string[]]>([
    ['both servers', invite({}), ['leaver.test', 'other.test'], ['leaver.test']],
    ['one server once', invite({}, { state_key: '@bob:leaver.test' }), ['leaver.test'], ['leaver.test']],
    ['only the invitee for a third-party invite', invite(thirdParty), ['other.test'], []],
    [
      'both where third_party_invite is no object',
      invite({ third_party_invite: 1 }),
      ['leaver.test', 'other.test'],
      ['leaver.test'],
    ],
    [
      'the sender where the invitee is nobody',
      invite(thirdParty, { state_key: 'bob' }),
      ['leaver.test'],
      ['leaver.test'],
    ],
    [
      'the sender where it is no state event',
      leaveIn(version, { type: 'x', content: { membership: 'invite', ...thirdParty } }),
      ['leaver.test'],
      ['leaver.test'],
    ],
  ])('is signed by %s', (_, json, signers, signersBefore) => {
    const pdu = pduOf(json, version);
    expect(requiredSigners(pdu).map((signer) => signer.server)).toEqual(signers);
    const before = requiredSigners(pdu, { awaitsInvitee: true });
    expect(before.map((signer) => signer.server)).toEqual(signersBefore);
  });

  it('is first signed by the sender, then by the invitee', async () => {
    const sent = signedBy(leaver, invite({}), version);
    const inFlight = await checkPduSignatures(pduOf(sent, version), keys(), nativeEd25519, {
      awaitsInvitee: true,
    });
    expect(inFlight).toEqual({ ok: true });
    expect(await check(sent, version)).toMatchObject({ ok: false, server: other });

    const returned = alsoSignedBy(other, sent, version);
    expect(returned['hashes']).toEqual(sent['hashes']);
    expect(await check(returned, version)).toEqual({ ok: true });
    expect(requiredSigners(pduOf(returned, version))).toEqual([
      { server: leaver, why: 'sender' },
      { server: other, why: 'invitee' },
    ]);
  });
});

describe('signing an event', () => {
  const version = versionNamed('10');

  it('replaces hashes and signatures that came along, keeps unsigned', () => {
    const plain = leaveIn(version, { unsigned: { age: 1 } });
    const stale = withKeys(plain, { hashes: { sha256: 'x' }, signatures: { h: { 'ed25519:1': 'x' } } });
    const signed = signedBy(leaver, stale, version);
    expect(signed).toEqual(signedBy(leaver, plain, version));
    expect(Object.keys(signed['signatures'] as JsonObject)).toEqual([leaver]);
    expect(signed['unsigned']).toEqual({ age: 1 });
  });

  it('leaves the event given as it was', () => {
    const plain = leaveIn(version);
    alsoSignedBy(other, signedBy(leaver, plain, version), version);
    expect(plain).toEqual(leaveIn(version));
  });
});
