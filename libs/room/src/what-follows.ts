import { parseUserId, serverNameOf, type ServerName } from '@exeunt/pdu';
import type { PduAccepted, StateChange } from './domain-events.js';
import type { Room } from './room.js';

/**
 * The servers whose last joined member goes with these changes, sorted: from here on they are in the room no longer.
 * The room is as before the changes.
 */
export function serversThatLeave(room: Room, changes: readonly StateChange[]): readonly ServerName[] {
  const moves = new Map<ServerName, number>();
  for (const { stateKey, membership } of changes) {
    const user = membership === undefined ? undefined : parseUserId(stateKey);
    if (user === undefined || (membership?.from === 'join') === (membership?.to === 'join')) continue;
    const server = serverNameOf(user);
    moves.set(server, (moves.get(server) ?? 0) + (membership?.to === 'join' ? 1 : -1));
  }
  return [...moves]
    .filter(([server, move]) => move < 0 && room.joinedMembersOf(server) + move === 0)
    .map(([server]) => server)
    .sort();
}

/**
 * Memberships that state resolution gave back to users who had left or were banned, without an event of theirs that
 * says so now: what people call a state reset. The rules allow it; whoever runs the room wants to hear of it.
 */
export function membershipsThatReturn({ eventId, place, changes }: PduAccepted): readonly StateChange[] {
  if (place !== 'graph') return [];
  return changes.filter(({ eventId: holder, membership }) => {
    if (holder === eventId || membership === undefined) return false;
    const wasOut = membership.from === 'leave' || membership.from === 'ban';
    return wasOut && (membership.to === 'join' || membership.to === 'invite' || membership.to === 'knock');
  });
}
