import { domainOfRoomId, parseEventId, parseUserId, serverNameOf, type Pdu } from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { memberOf } from '@exeunt/signing';
import { checkMembership, requireJoined, requireLevel } from './membership.js';
import { checkPowerLevelChange } from './power-level-change.js';
import { comparePower } from './power-levels.js';
import { RoomView, type StateLookup } from './room-view.js';
import { allowed, refused, type AuthVerdict } from './verdict.js';

export { checkAuthEvents } from './check-auth-events.js';
export type { StateLookup } from './room-view.js';
export type { AuthVerdict } from './verdict.js';

/**
 * Whether the auth rules allow a PDU in a room state: the rules that depend on state, and those for the create
 * event. `state` is asked only for the entries a rule looks at, never for the create event: `facts.create` is
 * that of the state (until version 11), or the one that the room ID names (version 12). The order is the spec's,
 * the first rule that decides does. Malformed content is a refusal; what `state` throws passes through.
 *
 * Not checked here: `auth_events`, by {@link checkAuthEvents}, and signatures.
 *
 * AU-01 to AU-34; rooms/v1 to rooms/v12, Authorisation rules.
 */
export function checkAuthRules(
  pdu: Pdu,
  version: RoomVersion,
  state: StateLookup,
  facts: { readonly create: Pdu | undefined },
): AuthVerdict {
  // 1. The create event.
  if (pdu.type === 'm.room.create') return checkCreate(pdu, version);

  // Without a create event there is no room. (Until version 11 rule 2.4, since version 12 rule 2.)
  const { create } = facts;
  if (create === undefined) {
    return refused(version.privilegedCreators ? 'AE-06' : 'AE-04', 'The room has no create event.');
  }
  // Nor one with the create event of another room. (Rule 2.5, since version 12 rules 2 and 3.5.)
  if (create.roomId !== pdu.roomId) {
    return refused(
      version.privilegedCreators ? 'AE-06' : 'AE-05',
      `The create event is of ${create.roomId}, not of ${pdu.roomId}.`,
    );
  }
  const room = new RoomView(version, create, state);

  // m.federate of the create event is false, and the sender isn't of its sender's server: reject.
  const server = serverNameOf(pdu.sender);
  if (memberOf(create.content, 'm.federate') === false && server !== serverNameOf(create.sender)) {
    return refused(
      'AU-03',
      `The room is not federated, and ${pdu.sender} is not of ${serverNameOf(create.sender)}.`,
    );
  }

  // Until version 5, aliases: without a state_key, or with one that isn't the sender's server: reject; else allow.
  if (pdu.type === 'm.room.aliases' && version.aliasesRule) {
    if (pdu.stateKey === undefined) return refused('AU-04', 'Aliases need a state_key.');
    if (pdu.stateKey !== server) {
      return refused(
        'AU-04',
        `Aliases of ${JSON.stringify(pdu.stateKey)} cannot be set by a user of ${server}.`,
      );
    }
    return allowed;
  }

  // Membership: rules of their own.
  if (pdu.type === 'm.room.member') return checkMembership(pdu, room);

  // The sender isn't joined: reject.
  const notJoined = requireJoined(pdu.sender, room, 'AU-30');
  if (notJoined !== undefined) return notJoined;

  // Third-party invite: allow if and only if the sender has the invite level.
  if (pdu.type === 'm.room.third_party_invite') {
    return requireLevel(pdu.sender, 'invite', room, 'AU-30') ?? allowed;
  }

  // The level required for the event type is above the sender's power: reject.
  const power = room.powerLevels().powerOf(pdu.sender);
  const required = room.powerLevels().requiredFor(pdu.type, pdu.stateKey !== undefined);
  if (comparePower(required, power) > 0) {
    return refused(
      'AU-30',
      `The power of ${pdu.sender} is ${power}, below the level ${required} for ${JSON.stringify(pdu.type)}.`,
    );
  }

  // The state_key starts with @ and isn't the sender: reject.
  if (pdu.stateKey?.startsWith('@') === true && pdu.stateKey !== pdu.sender) {
    return refused(
      'AU-30',
      `The state_key ${JSON.stringify(pdu.stateKey)} is not the sender, ${pdu.sender}.`,
    );
  }

  // Power levels: rules of their own.
  if (pdu.type === 'm.room.power_levels') return checkPowerLevelChange(pdu, room);

  // Redaction, in versions 1 and 2: rules of their own.
  if (pdu.type === 'm.room.redaction' && version.redactionAuthRule) return checkRedaction(pdu, room);

  // Otherwise: allow. (AU-34)
  return allowed;
}

/** AU-01; rule 1 of each version. */
function checkCreate(pdu: Pdu, version: RoomVersion): AuthVerdict {
  // It has prev_events: reject.
  if (pdu.prevEvents.length > 0) return refused('AU-01', 'A create event cannot have prev_events.');

  if (version.roomIdFormat === 'create-hash') {
    // Since version 12: it has a room_id: reject.
    if (Object.hasOwn(pdu.json, 'room_id')) return refused('AU-01', 'A create event cannot have a room_id.');
  } else {
    // Until version 11: room_id and sender are not of the same domain: reject.
    const domain = domainOfRoomId(pdu.roomId);
    const sender = parseUserId(pdu.sender);
    if (domain === undefined || sender === undefined || domain !== serverNameOf(sender)) {
      return refused('AU-01', `The domain of ${pdu.roomId} is not that of ${pdu.sender}.`);
    }
  }

  // room_version is there and not a recognised version: reject.
  const id = memberOf(pdu.content, 'room_version');
  if (id !== undefined && (typeof id !== 'string' || roomVersion(id) === undefined)) {
    return refused('AU-01', 'The room_version is not a recognised one.');
  }

  // Until version 10: there is no creator: reject.
  if (version.createHasCreator && memberOf(pdu.content, 'creator') === undefined) {
    return refused('AU-01', 'The create event names no creator.');
  }

  // Since version 12: additional_creators is there and not an array of user IDs: reject.
  const additional = memberOf(pdu.content, 'additional_creators');
  if (version.privilegedCreators && additional !== undefined) {
    const areUserIds =
      Array.isArray(additional) &&
      additional.every((userId) => typeof userId === 'string' && parseUserId(userId) !== undefined);
    if (!areUserIds) return refused('AU-01', 'additional_creators is not an array of user IDs.');
  }

  // Otherwise: allow.
  return allowed;
}

/** AU-33; rooms/v1 rule 11. Since version 3 a redaction is judged when it is applied. (RV-09) */
function checkRedaction(pdu: Pdu, room: RoomView): AuthVerdict {
  // The sender has the redact level: allow.
  const belowLevel = requireLevel(pdu.sender, 'redact', room, 'AU-33');
  if (belowLevel === undefined) return allowed;

  // The redacted event's ID is of the same domain as the redaction's: allow. Otherwise: reject.
  const redacts = memberOf(pdu.json, 'redacts');
  const redacted = typeof redacts === 'string' ? parseEventId(redacts, room.version) : undefined;
  if (redacted !== undefined && serverNameOf(redacted) === serverNameOf(pdu.eventId)) return allowed;
  return belowLevel;
}
