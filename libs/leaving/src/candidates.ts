import { parseUserId, serverNameOf, type ServerName } from '@exeunt/pdu';
import { memberOf } from '@exeunt/signing';
import type { Pending } from './domain-events.js';

/** Most servers that one leave asks: whoever writes an invite could name thousands. */
export const maxCandidates = 10;

/**
 * The servers to ask for a template, in order: the inviter's, or those that the knock went by; those the caller names;
 * then those whose users the state shows that came with invite or knock. Each once, never ourselves, at most
 * {@link maxCandidates}. The room ID's domain is no reason to ask anybody. (LV-03, ID-07)
 */
export function candidatesFor(
  pending: Pending | undefined,
  via: readonly ServerName[],
  ourName: ServerName,
): readonly ServerName[] {
  const candidates = new Set<ServerName>([...serversOf(pending), ...via]);
  const shown = pending?.type === 'KnockMade' ? pending.knockRoomState : (pending?.inviteRoomState ?? []);
  for (const entry of shown) {
    for (const key of ['sender', 'state_key']) {
      const text = memberOf(entry, key);
      const user = typeof text === 'string' ? parseUserId(text) : undefined;
      if (user !== undefined) candidates.add(serverNameOf(user));
    }
  }
  candidates.delete(ourName);
  return [...candidates].slice(0, maxCandidates);
}

function serversOf(pending: Pending | undefined): readonly ServerName[] {
  if (pending === undefined) return [];
  return pending.type === 'KnockMade' ? pending.via : [pending.origin, serverNameOf(pending.sender)];
}

/** What a template may say its room version is; empty where any will do that we know. (LV-05, IN-02) */
export function roomVersionsOf(pending: Pending | undefined): readonly string[] {
  if (pending === undefined) return [];
  if (pending.type === 'InviteReceived' && !pending.isVersionStated) return ['1', '2'];
  return pending.roomVersion === undefined ? [] : [pending.roomVersion];
}
