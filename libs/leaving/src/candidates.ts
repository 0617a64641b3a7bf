import { parseUserId, serverNameOf, type ServerName } from '@exeunt/pdu';
import { memberOf } from '@exeunt/signing';
import type { InviteReceived } from './domain-events.js';

/** Most servers that one leave asks: whoever writes an invite could name thousands. */
export const maxCandidates = 10;

/**
 * The servers to ask for a template, in order: the inviter's, those the caller names, then those whose users the
 * invite's state shows. Each once, never ourselves, at most {@link maxCandidates}. The room ID's domain is no reason
 * to ask anybody. (LV-03, ID-07)
 */
export function candidatesFor(
  invite: InviteReceived | undefined,
  via: readonly ServerName[],
  ourName: ServerName,
): readonly ServerName[] {
  const candidates = new Set<ServerName>();
  if (invite !== undefined) candidates.add(invite.origin).add(serverNameOf(invite.sender));
  for (const server of via) candidates.add(server);
  for (const entry of invite?.inviteRoomState ?? []) {
    for (const key of ['sender', 'state_key']) {
      const text = memberOf(entry, key);
      const user = typeof text === 'string' ? parseUserId(text) : undefined;
      if (user !== undefined) candidates.add(serverNameOf(user));
    }
  }
  candidates.delete(ourName);
  return [...candidates].slice(0, maxCandidates);
}

/** What a template may say its room version is; empty where any will do that we know. (LV-05, IN-02) */
export function roomVersionsOf(invite: InviteReceived | undefined): readonly string[] {
  if (invite === undefined) return [];
  return invite.isVersionStated ? [invite.roomVersion] : ['1', '2'];
}
