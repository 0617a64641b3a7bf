import { parseServerName, redact, type Pdu, type ServerName } from '@exeunt/pdu';
import { decodeBase64, isJsonObject, memberOf, signaturesOf, verifyJsonSignature } from '@exeunt/signing';
import type { Refusal } from './refusal.js';
import type { Room } from './room.js';
import { stateKeyOf } from './state-resolution/state-key.js';

/** The policy server that a room uses, and the key its signatures are checked with. */
export interface PolicyServer {
  readonly via: ServerName;
  readonly publicKey: Uint8Array;
}

const policyServerKeyId = 'ed25519:policy_server';

/**
 * The policy server of the room's current state; undefined where it uses none: no `m.room.policy`, a malformed one,
 * or one whose server has no joined user. (PS-01)
 */
export function policyServerOf(room: Room): PolicyServer | undefined {
  room.require({ state: [stateKeyOf('m.room.policy', '')] });
  const policy = room.statePdu(room.currentState(), 'm.room.policy', '');
  if (policy === undefined) return undefined;
  const via = memberOf(policy.content, 'via');
  const publicKeys = memberOf(policy.content, 'public_keys');
  const key = isJsonObject(publicKeys) ? memberOf(publicKeys, 'ed25519') : undefined;
  const server = typeof via === 'string' ? parseServerName(via) : undefined;
  const publicKey = typeof key === 'string' ? decodeBase64(key) : undefined;
  if (server === undefined || publicKey === undefined) return undefined;
  return room.joinedMembersOf(server) > 0 ? { via: server, publicKey } : undefined;
}

/**
 * Check 7 on receipt: where the room uses a policy server, every event but the one that names it needs its signature,
 * leaves included. (PD-07, PS-01)
 */
export function checkPolicyServer(room: Room, pdu: Pdu): Refusal | undefined {
  if (pdu.type === 'm.room.policy' && pdu.stateKey === '') return undefined;
  const policy = policyServerOf(room);
  if (policy === undefined) return undefined;
  const redacted = redact(pdu.json, pdu.roomVersion);
  const isSigned = signaturesOf(redacted, policy.via).some(
    ({ keyId, signature }) =>
      keyId === policyServerKeyId && verifyJsonSignature(redacted, signature, policy.publicKey),
  );
  if (isSigned) return undefined;
  return {
    refused: 'soft-failed',
    rule: 'PS-01',
    detail: `the room's policy server ${policy.via} has not signed the event`,
    state: 'current-state',
  };
}
