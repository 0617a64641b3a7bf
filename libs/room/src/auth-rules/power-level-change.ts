import { parseUserId, type Pdu } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { isJsonObject, memberOf, stringifyJson, type JsonObject, type JsonValue } from '@exeunt/signing';
import { comparePower, isPrivilegedCreator, levelKeys, readLevel, type Power } from './power-levels.js';
import type { RoomView } from './room-view.js';
import { allowed, refused, type AuthVerdict } from './verdict.js';

type Levels = ReadonlyMap<string, bigint>;

/**
 * The rules for `m.room.power_levels`, against a room state. That the sender may send the event at all has been
 * decided before.
 *
 * AU-31, AU-32; rooms/v1 rule 10, rooms/v6 rule 9, rooms/v12 rule 10.
 */
export function checkPowerLevelChange(pdu: Pdu, room: RoomView): AuthVerdict {
  const { version } = room;
  const { content } = pdu;

  // Since version 10: one of the seven level keys is there and not an integer: reject. Before, the text asks only
  // about users; a level that nobody can read is refused all the same, as other servers do. (PL-03, PL-04)
  const newLevels = readLevels(pickLevelKeys(content), version);
  if (newLevels instanceof Unreadable) return refusedUnreadable(newLevels, undefined, version);

  // Since version 10: events or notifications is there and not an object of integers: reject. In versions 1 to 5
  // no rule looks at notifications.
  const newEvents = readLevels(memberOf(content, 'events'), version);
  if (newEvents instanceof Unreadable) return refusedUnreadable(newEvents, 'events', version);
  const newNotifications = version.checksNotificationLevels
    ? readLevels(memberOf(content, 'notifications'), version)
    : new Map<string, bigint>();
  if (newNotifications instanceof Unreadable)
    return refusedUnreadable(newNotifications, 'notifications', version);

  // users isn't an object that maps valid user IDs to integers (until version 9: or strings that are integers):
  // reject. Without users it counts as empty. (PL-05)
  const newUsers = readLevels(memberOf(content, 'users'), version);
  if (newUsers instanceof Unreadable) return refusedUnreadable(newUsers, 'users', version);
  for (const userId of newUsers.keys()) {
    if (parseUserId(userId) === undefined) {
      return refused('AU-31', `${JSON.stringify(userId)} in users is not a user ID.`);
    }
    // Since version 12: users names a creator: reject.
    if (version.privilegedCreators && isPrivilegedCreator(userId, room.create)) {
      return refused('AU-31', `${userId} created the room and cannot have a level in users.`);
    }
  }

  // There is no previous power levels event: allow.
  const previous = room.powerLevelsEvent();
  if (previous === undefined) return allowed;

  const power = room.powerLevels().powerOf(pdu.sender);
  const current = (key: string): Levels => readableLevels(memberOf(previous.content, key), version);

  return (
    // Of the seven level keys, one was added, changed or removed: reject if its current or its new value is
    // above the sender's power.
    checkOldValues(readableLevels(pickLevelKeys(previous.content), version), newLevels, power, 'level') ??
    checkNewValues(readableLevels(pickLevelKeys(previous.content), version), newLevels, power, 'level') ??
    // In events (since version 6: and in notifications), an entry was changed or removed: reject if its current
    // value is above the sender's power; was added or changed: reject if its new value is.
    checkOldValues(current('events'), newEvents, power, 'level in events') ??
    (version.checksNotificationLevels
      ? checkOldValues(current('notifications'), newNotifications, power, 'level in notifications')
      : undefined) ??
    checkNewValues(current('events'), newEvents, power, 'level in events') ??
    (version.checksNotificationLevels
      ? checkNewValues(current('notifications'), newNotifications, power, 'level in notifications')
      : undefined) ??
    // In users, an entry other than the sender's own was changed or removed: reject if its current value is the
    // sender's power or above.
    checkOthers(current('users'), newUsers, power, pdu.sender) ??
    // In users, an entry was added or changed, the sender's own included: reject if its new value is above the
    // sender's power.
    checkNewValues(current('users'), newUsers, power, 'level in users') ??
    // Otherwise: allow.
    allowed
  );
}

function checkOldValues(old: Levels, new_: Levels, power: Power, what: string): AuthVerdict | undefined {
  for (const [key, level] of old) {
    if (new_.get(key) !== level && comparePower(level, power) > 0) {
      return refused(
        'AU-32',
        `The ${what} of ${JSON.stringify(key)} is ${level}, above the sender's power ${power}.`,
      );
    }
  }
  return undefined;
}

function checkNewValues(old: Levels, new_: Levels, power: Power, what: string): AuthVerdict | undefined {
  for (const [key, level] of new_) {
    if (old.get(key) !== level && comparePower(level, power) > 0) {
      return refused(
        'AU-32',
        `The new ${what} of ${JSON.stringify(key)} is ${level}, above the sender's power ${power}.`,
      );
    }
  }
  return undefined;
}

function checkOthers(old: Levels, new_: Levels, power: Power, sender: string): AuthVerdict | undefined {
  for (const [userId, level] of old) {
    if (userId !== sender && new_.get(userId) !== level && comparePower(level, power) >= 0) {
      return refused('AU-32', `The level of ${userId} is ${level}, not below the sender's power ${power}.`);
    }
  }
  return undefined;
}

/** A part of power levels that holds something else than levels; `key` is absent where it is no object at all. */
class Unreadable {
  constructor(
    readonly value: JsonValue,
    readonly key?: string,
  ) {}
}

function refusedUnreadable(
  { value, key }: Unreadable,
  part: string | undefined,
  version: RoomVersion,
): AuthVerdict {
  const where = [part, key].filter((name) => name !== undefined).map((name) => JSON.stringify(name));
  return refused(
    'AU-31',
    `${stringifyJson(value).slice(0, 100)} at ${where.join(' ')} is no ${key === undefined ? 'object' : 'power level'} in room version ${version.id}.`,
  );
}

/** The entries as levels, a missing part as none; the first thing that is not a level instead. */
function readLevels(part: JsonValue | undefined, version: RoomVersion): Levels | Unreadable {
  const levels = new Map<string, bigint>();
  if (part === undefined) return levels;
  if (!isJsonObject(part)) return new Unreadable(part);
  for (const [key, value] of Object.entries(part)) {
    const level = readLevel(value, version);
    if (level === undefined) return new Unreadable(value, key);
    levels.set(key, level);
  }
  return levels;
}

/** The entries that are levels, of a part that has been let in: what is none counts as missing. */
function readableLevels(part: JsonValue | undefined, version: RoomVersion): Levels {
  const levels = new Map<string, bigint>();
  for (const [key, value] of isJsonObject(part) ? Object.entries(part) : []) {
    const level = readLevel(value, version);
    if (level !== undefined) levels.set(key, level);
  }
  return levels;
}

function pickLevelKeys(content: JsonObject): JsonObject {
  return Object.fromEntries(
    levelKeys.flatMap((key) => {
      const value = memberOf(content, key);
      return value === undefined ? [] : [[key, value]];
    }),
  );
}
