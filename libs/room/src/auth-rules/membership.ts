import { parseUserId, type Pdu } from '@exeunt/pdu';
import { memberOf } from '@exeunt/signing';
import { comparePower, creatorOf, type LevelKey } from './power-levels.js';
import type { RoomView } from './room-view.js';
import { checkThirdPartyInvite } from './third-party-invite.js';
import { allowed, refused, type AuthVerdict } from './verdict.js';

/**
 * The rules for `m.room.member`, against a room state.
 *
 * That the server of `join_authorised_via_users_server` has signed is checked with the other signatures
 * (`requiredSigners` in `@exeunt/pdu`), for it needs that server's keys.
 *
 * AU-05 to AU-07, AU-20 to AU-25; rooms/v1 rule 5, rooms/v6 rule 4, rooms/v12 rule 5.
 */
export function checkMembership(pdu: Pdu, room: RoomView): AuthVerdict {
  // No state_key, or no membership in the content: reject.
  const target = pdu.stateKey;
  if (target === undefined) return refused('AU-05', 'A membership event needs a state_key.');
  const membership = memberOf(pdu.content, 'membership');
  if (membership === undefined) return refused('AU-05', 'A membership event needs a content.membership.');

  // Since version 8: a join_authorised_via_users_server whose server has not signed: reject, whatever the
  // membership. What isn't a user ID has no server that could.
  if (room.version.restrictedJoins) {
    const authorisingUser = memberOf(pdu.content, 'join_authorised_via_users_server');
    if (authorisingUser !== undefined && !isUserId(authorisingUser)) {
      return refused('AU-05', 'join_authorised_via_users_server is not a user ID.');
    }
  }

  switch (membership) {
    case 'join':
      return checkJoin(pdu, target, room);
    case 'invite':
      return checkInvite(pdu, target, room);
    case 'leave':
      return checkLeave(pdu, target, room);
    case 'ban':
      return checkBan(pdu, target, room);
    case 'knock':
      return checkKnock(pdu, target, room);
    default:
      // The membership is unknown: reject.
      return refused('AU-25', `The membership ${JSON.stringify(membership)} is unknown.`);
  }
}

/** AU-06; rooms/v1 rule 5.2, rooms/v12 rule 5.3. */
function checkJoin(pdu: Pdu, target: string, room: RoomView): AuthVerdict {
  const { version, create } = room;

  // The only previous event is the create event, and the state_key is the creator: allow. The text leaves the
  // sender open; everyone requires it to be the creator too, or any server could join the creator.
  const isFirstJoin = pdu.prevEvents.length === 1 && pdu.prevEvents[0] === create.eventId;
  if (isFirstJoin && creatorOf(create, version) === target && pdu.sender === target) return allowed;

  // The sender isn't the state_key: reject.
  if (pdu.sender !== target) return refused('AU-06', `${pdu.sender} cannot join ${target}.`);

  // The sender is banned: reject.
  const membership = room.membershipOf(target);
  if (membership === 'ban') return refused('AU-06', `${target} is banned.`);

  const isInvitedOrJoined = membership === 'invite' || membership === 'join';
  const rule = room.joinRule();

  // Join rule invite (since version 7: or knock): allow those invited or joined.
  if (rule === 'invite' || (version.knocking && rule === 'knock')) {
    if (isInvitedOrJoined) return allowed;
    return refused('AU-06', `The join rule is ${rule} and the membership of ${target} is ${membership}.`);
  }

  // Since version 8, join rule restricted (since version 10: or knock_restricted): allow those invited or joined;
  // otherwise the authorising user must be joined and have the power to invite.
  if (
    (version.restrictedJoins && rule === 'restricted') ||
    (version.knockRestricted && rule === 'knock_restricted')
  ) {
    if (isInvitedOrJoined) return allowed;
    const authorisingUser = memberOf(pdu.content, 'join_authorised_via_users_server');
    if (!isUserId(authorisingUser)) {
      return refused('AU-06', `The join rule is ${rule} and no user authorised the join of ${target}.`);
    }
    const authorisingMembership = room.membershipOf(authorisingUser);
    if (authorisingMembership !== 'join') {
      return refused(
        'AU-06',
        `The membership of ${authorisingUser}, who authorised, is ${authorisingMembership}.`,
      );
    }
    return requireLevel(authorisingUser, 'invite', room, 'AU-06') ?? allowed;
  }

  // Join rule public: allow.
  if (rule === 'public') return allowed;

  // Otherwise: reject.
  return refused('AU-06', `The join rule ${JSON.stringify(rule)} lets nobody join.`);
}

/** AU-07; rooms/v1 rule 5.3, rooms/v12 rule 5.4. */
function checkInvite(pdu: Pdu, target: string, room: RoomView): AuthVerdict {
  // The content has a third_party_invite: a rule of its own.
  const thirdPartyInvite = memberOf(pdu.content, 'third_party_invite');
  if (thirdPartyInvite !== undefined) return checkThirdPartyInvite(pdu, target, thirdPartyInvite, room);

  // The sender isn't joined: reject.
  const notJoined = requireJoined(pdu.sender, room, 'AU-07');
  if (notJoined !== undefined) return notJoined;

  // The target is joined or banned: reject.
  const membership = room.membershipOf(target);
  if (membership === 'join' || membership === 'ban') {
    return refused('AU-07', `The membership of ${target} is ${membership} already.`);
  }

  // The sender has the invite level: allow. Otherwise: reject.
  return requireLevel(pdu.sender, 'invite', room, 'AU-07') ?? allowed;
}

/** AU-20 to AU-22; rooms/v1 rule 5.4, rooms/v7 rule 4.4, rooms/v8 rule 4.5, rooms/v12 rule 5.5. */
function checkLeave(pdu: Pdu, target: string, room: RoomView): AuthVerdict {
  // The sender is the state_key: allow if and only if invited or joined (since version 7: or knocking). No power
  // is needed, and a ban cannot be left.
  if (pdu.sender === target) {
    const membership = room.membershipOf(target);
    if (membership === 'invite' || membership === 'join') return allowed;
    if (room.version.knocking && membership === 'knock') return allowed;
    return refused('AU-20', `The membership of ${target} is ${membership}, so there is nothing to leave.`);
  }

  // The sender isn't joined: reject.
  const notJoined = requireJoined(pdu.sender, room, 'AU-21');
  if (notJoined !== undefined) return notJoined;

  // The target is banned and the sender lacks the ban level: reject.
  if (room.membershipOf(target) === 'ban') {
    const cannotUnban = requireLevel(pdu.sender, 'ban', room, 'AU-21');
    if (cannotUnban !== undefined) return cannotUnban;
  }

  // The sender has the kick level and more power than the target: allow. Otherwise: reject.
  return (
    requireLevel(pdu.sender, 'kick', room, 'AU-21') ??
    requireAbove(pdu.sender, target, room, 'AU-21') ??
    allowed
  );
}

/** AU-23; rooms/v1 rule 5.5, rooms/v12 rule 5.6. */
function checkBan(pdu: Pdu, target: string, room: RoomView): AuthVerdict {
  return (
    // The sender isn't joined: reject.
    requireJoined(pdu.sender, room, 'AU-23') ??
    // The sender has the ban level and more power than the target: allow. Otherwise: reject.
    requireLevel(pdu.sender, 'ban', room, 'AU-23') ??
    requireAbove(pdu.sender, target, room, 'AU-23') ??
    allowed
  );
}

/** AU-24; rooms/v7 rule 4.6, rooms/v10 rule 4.7, rooms/v12 rule 5.7. */
function checkKnock(pdu: Pdu, target: string, room: RoomView): AuthVerdict {
  const { version } = room;
  // Below version 7 the membership is unknown: reject.
  if (!version.knocking) return refused('AU-24', `Room version ${version.id} has no knocking.`);

  // The join rule is neither knock nor (since version 10) knock_restricted: reject.
  const rule = room.joinRule();
  if (rule !== 'knock' && !(version.knockRestricted && rule === 'knock_restricted')) {
    return refused('AU-24', `The join rule is ${JSON.stringify(rule)}, which allows no knocking.`);
  }

  // The sender isn't the state_key: reject.
  if (pdu.sender !== target) return refused('AU-24', `${pdu.sender} cannot knock for ${target}.`);

  // The sender is neither banned, invited nor joined: allow. Otherwise: reject.
  const membership = room.membershipOf(target);
  if (membership === 'ban' || membership === 'invite' || membership === 'join') {
    return refused('AU-24', `The membership of ${target} is ${membership}.`);
  }
  return allowed;
}

/** A refusal unless the user is joined. */
export function requireJoined(userId: string, room: RoomView, rule: string): AuthVerdict | undefined {
  const membership = room.membershipOf(userId);
  if (membership === 'join') return undefined;
  return refused(rule, `The membership of ${userId} is ${membership}, not join.`);
}

/** A refusal unless the user has the level that an action requires. */
export function requireLevel(
  userId: string,
  action: LevelKey,
  room: RoomView,
  rule: string,
): AuthVerdict | undefined {
  const levels = room.powerLevels();
  const power = levels.powerOf(userId);
  const required = levels.level(action);
  if (comparePower(power, required) >= 0) return undefined;
  return refused(rule, `The power of ${userId} is ${power}, below the ${action} level ${required}.`);
}

/** A refusal unless the user has more power than the target. */
function requireAbove(userId: string, target: string, room: RoomView, rule: string): AuthVerdict | undefined {
  const levels = room.powerLevels();
  const power = levels.powerOf(userId);
  const targetPower = levels.powerOf(target);
  if (comparePower(targetPower, power) < 0) return undefined;
  return refused(rule, `The power of ${userId} is ${power}, not above the ${targetPower} of ${target}.`);
}

function isUserId(value: unknown): value is string {
  return typeof value === 'string' && parseUserId(value) !== undefined;
}
