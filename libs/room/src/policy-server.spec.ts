import { describe, expect, it } from 'vitest';
import { isPduFault, parsePdu, redact, type Pdu } from '@exeunt/pdu';
import { encodeUnpaddedBase64, selectEd25519, signJson, withKeys, type JsonObject } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { checkPolicyServer, policyServerOf } from './policy-server.js';

const alice = '@alice:hub.example';
const bob = '@bob:away.example';
const guard = '@guard:policy.example';
const seed = Buffer.alloc(32, 3);
const publicKey = selectEd25519().publicKeyOf(seed);
const policy: JsonObject = {
  via: 'policy.example',
  public_keys: { ed25519: encodeUnpaddedBase64(publicKey) },
};

function room(version = '11'): RoomBuilder {
  const servers = ['hub.example', 'away.example', 'policy.example'].map((name) => paperServer(name));
  const built = new RoomBuilder({ version, servers, creator: alice });
  built.member(bob, 'join');
  return built;
}

function withPolicy(content: JsonObject, built = room(), isJoined = true): RoomBuilder {
  if (isJoined) built.member(guard, 'join');
  built.say({ sender: alice, type: 'm.room.policy', stateKey: '', content });
  return built;
}

function signedBy(built: RoomBuilder, pdu: Pdu, keyId: string, server = 'policy.example', by = seed): Pdu {
  const signed = signJson(redact(pdu.json, built.version), server, { keyId, seed: by });
  const again = parsePdu(withKeys(pdu.json, { signatures: signed['signatures']! }), built.version);
  if (isPduFault(again)) throw new Error(again.detail);
  return again;
}

describe('a room that names a policy server', () => {
  it('uses it while it has a joined user (PS-01)', () => {
    const built = withPolicy(policy);
    expect(policyServerOf(built.room)).toEqual({ via: 'policy.example', publicKey });
  });

  it('uses none where that server has nobody joined (PS-01)', () => {
    expect(policyServerOf(withPolicy(policy, room(), false).room)).toBeUndefined();
  });

  it('uses none where nothing names one', () => {
    expect(policyServerOf(room().room)).toBeUndefined();
  });

  it.each<[string, JsonObject]>([
    ['no via', { public_keys: policy['public_keys']! }],
    ['a via that is no text', { ...policy, via: 7 }],
    ['a via that is no server name', { ...policy, via: 'not a server' }],
    ['no keys', { via: 'policy.example' }],
    ['keys that are a list', { ...policy, public_keys: [] }],
    ['a key that is no text', { ...policy, public_keys: { ed25519: 7 } }],
    ['a key that is no base64', { ...policy, public_keys: { ed25519: '%%' } }],
  ])('uses none with %s (PS-01)', (_name, content) => {
    expect(policyServerOf(withPolicy(content).room)).toBeUndefined();
  });

  it('takes an event under another state key for nothing', () => {
    const built = room();
    built.member(guard, 'join');
    built.say({ sender: alice, type: 'm.room.policy', stateKey: 'other', content: policy });
    expect(policyServerOf(built.room)).toBeUndefined();
  });
});

describe('an event in a room with a policy server', () => {
  const leave = { sender: bob, type: 'm.room.member', stateKey: bob, content: { membership: 'leave' } };

  it.each(['1', '6', '11', '12'])('passes with its signature in version %s (PD-07, PS-01)', (version) => {
    const built = withPolicy(policy, room(version));
    const pdu = built.make(leave);
    expect(checkPolicyServer(built.room, pdu)).toMatchObject({ refused: 'soft-failed', rule: 'PS-01' });
    expect(checkPolicyServer(built.room, signedBy(built, pdu, 'ed25519:policy_server'))).toBeUndefined();
  });

  it('does not pass by another key ID, another server’s signature, or a wrong one', () => {
    const built = withPolicy(policy);
    const pdu = built.make(leave);
    for (const signed of [
      signedBy(built, pdu, 'ed25519:1'),
      signedBy(built, pdu, 'ed25519:policy_server', 'hub.example'),
      signedBy(built, pdu, 'ed25519:policy_server', 'policy.example', Buffer.alloc(32, 4)),
    ]) {
      expect(checkPolicyServer(built.room, signed)).toMatchObject({ rule: 'PS-01' });
    }
  });

  it('is signed over what redaction leaves, so that a redacted copy passes too', () => {
    const built = withPolicy(policy);
    const pdu = signedBy(
      built,
      built.make({ ...leave, content: { membership: 'leave', reason: 'bored' } }),
      'ed25519:policy_server',
    );
    const redacted = parsePdu(redact(pdu.json, built.version), built.version);
    if (isPduFault(redacted)) throw new Error(redacted.detail);
    expect(redacted.content).toEqual({ membership: 'leave' });
    expect(checkPolicyServer(built.room, redacted)).toBeUndefined();
  });

  it('needs none where it is the event that names the server (PS-01)', () => {
    const built = withPolicy(policy);
    built.say({ sender: alice, type: 'm.room.policy', stateKey: '', content: {} });
    expect(policyServerOf(built.room)).toBeUndefined();
  });

  it('needs one under another state key', () => {
    const built = withPolicy(policy);
    const other = built.make({ sender: alice, type: 'm.room.policy', stateKey: 'x', content: {} });
    expect(checkPolicyServer(built.room, other)).toMatchObject({ rule: 'PS-01' });
  });
});
