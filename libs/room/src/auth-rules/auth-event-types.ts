import type { Pdu } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { isJsonObject, memberOf } from '@exeunt/signing';

/**
 * Which state entries an event must cite in `auth_events`, where the room has them. No pair comes twice. Malformed
 * content names no entry. For a leave by the user's own hand: create (until version 11), power levels, and the
 * leaver's membership; never the join rules. (TOP-02)
 *
 * AE-07; spec v1.19, server-server-api, Auth events selection.
 */
export function authEventTypes(
  event: Pick<Pdu, 'type' | 'sender' | 'content'> & { readonly stateKey?: string | undefined },
  version: RoomVersion,
): readonly { readonly type: string; readonly stateKey: string }[] {
  // The create event of a room has none.
  if (event.type === 'm.room.create') return [];

  const selected: { readonly type: string; readonly stateKey: string }[] = [];
  // The create event, until version 11: since version 12 the room ID implies it.
  if (!version.privilegedCreators) selected.push({ type: 'm.room.create', stateKey: '' });
  // The power levels, and the sender's membership.
  selected.push({ type: 'm.room.power_levels', stateKey: '' });
  selected.push({ type: 'm.room.member', stateKey: event.sender });
  if (event.type !== 'm.room.member') return selected;

  const members = new Set<string>([event.sender]);
  const selectMember = (userId: string): void => {
    if (members.has(userId)) return;
    members.add(userId);
    selected.push({ type: 'm.room.member', stateKey: userId });
  };

  // For a membership event, the target's membership too.
  if (event.stateKey !== undefined) selectMember(event.stateKey);

  // The join rules for a join, an invite or a knock.
  const membership = memberOf(event.content, 'membership');
  if (membership === 'join' || membership === 'invite' || membership === 'knock') {
    selected.push({ type: 'm.room.join_rules', stateKey: '' });
  }

  // The third-party invite that an invite redeems, by its token.
  if (membership === 'invite') {
    const thirdPartyInvite = memberOf(event.content, 'third_party_invite');
    const signed = isJsonObject(thirdPartyInvite) ? memberOf(thirdPartyInvite, 'signed') : undefined;
    const token = isJsonObject(signed) ? memberOf(signed, 'token') : undefined;
    if (typeof token === 'string') selected.push({ type: 'm.room.third_party_invite', stateKey: token });
  }

  // Since version 8: the membership of the user whose server authorised a join to a restricted room.
  if (membership === 'join' && version.restrictedJoins) {
    const authorisingUser = memberOf(event.content, 'join_authorised_via_users_server');
    if (typeof authorisingUser === 'string') selectMember(authorisingUser);
  }
  return selected;
}
