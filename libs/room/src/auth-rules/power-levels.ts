import type { Pdu } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { isJsonObject, JsonNumber, memberOf, type JsonObject, type JsonValue } from '@exeunt/signing';

/**
 * A user's power: an integer without bounds, since versions 1 to 9 do not bound one, or the infinite power of a
 * creator since version 12. Levels that an action requires are always integers.
 */
export type Power = bigint | 'infinite';

/** Negative where `x` is less; creators are equal to one another and above everyone else. (PL-02) */
export function comparePower(x: Power, y: Power): number {
  if (x === y) return 0;
  if (x === 'infinite') return 1;
  if (y === 'infinite') return -1;
  return x < y ? -1 : 1;
}

/** The levels that stand by themselves in the content of `m.room.power_levels`, in the spec's order. */
export const levelKeys = [
  'users_default',
  'events_default',
  'state_default',
  'ban',
  'redact',
  'kick',
  'invite',
] as const;

export type LevelKey = (typeof levelKeys)[number];

/** What a missing key means, and what a missing event means. (PL-01; spec v1.19, m.room.power_levels) */
const defaultLevels: Readonly<Record<LevelKey, bigint>> = {
  users_default: 0n,
  events_default: 0n,
  state_default: 50n,
  ban: 50n,
  redact: 50n,
  kick: 50n,
  invite: 0n,
};

const integerText = /^\s*([+-]?)([0-9]+)\s*$/;
const numberToken = /^(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$/;

/**
 * The level that a JSON value stands for in this room version, without loss; `undefined` if it stands for none.
 * Versions 1 to 9 take integers in strings, versions 1 to 5 take numbers with a fraction or an exponent, which are
 * truncated towards zero; a number outside the range of a double is no level.
 *
 * PL-03, PL-04; rooms/v1, m.room.power_levels events accept values as strings, … as floats.
 */
export function readLevel(value: JsonValue, version: RoomVersion): bigint | undefined {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : undefined;
  if (typeof value === 'string' && version.powerLevelValues !== 'integers') {
    const [, sign, digits] = integerText.exec(value) ?? [];
    return digits === undefined ? undefined : signed(sign, BigInt(digits));
  }
  if (value instanceof JsonNumber && version.powerLevelValues === 'integers-strings-floats') {
    return truncated(value.source);
  }
  return undefined;
}

function signed(sign: string | undefined, magnitude: bigint): bigint {
  return sign === '-' ? -magnitude : magnitude;
}

function truncated(source: string): bigint | undefined {
  const [, sign, whole, fraction = '', exponent = '0'] = numberToken.exec(source) ?? [];
  if (whole === undefined || !Number.isFinite(Number(source))) return undefined;
  // Exponent first, then the cut: where the point ends up among the significant digits. As the number is finite,
  // that is at most 309 digits to the right.
  const digits = whole + fraction;
  const significant = digits.replace(/^0+/, '');
  const point = whole.length + Number(exponent) - (digits.length - significant.length);
  if (significant === '' || point <= 0) return 0n;
  return signed(sign, BigInt(significant.slice(0, point).padEnd(point, '0')));
}

/**
 * The users who created the room, whose power is infinite since version 12: the create event's sender and its
 * `additional_creators`.
 *
 * PL-02; rooms/v12, Authorisation rules, note on room creators.
 */
export function isPrivilegedCreator(userId: string, create: Pdu): boolean {
  if (create.sender === userId) return true;
  const additional = memberOf(create.content, 'additional_creators');
  return Array.isArray(additional) && additional.includes(userId);
}

/** The user who created the room: named in the content until version 10, the sender since. (RV-06) */
export function creatorOf(create: Pdu, version: RoomVersion): JsonValue | undefined {
  return version.createHasCreator ? memberOf(create.content, 'creator') : create.sender;
}

/**
 * Power levels as a room state has them. A value in it that is no level counts as missing: rule AU-31 lets no such
 * event in, but a state taken over from another server may hold one.
 *
 * PL-01 to PL-05; spec v1.19, m.room.power_levels and server-server-api, Definitions.
 */
export class PowerLevels {
  readonly #version: RoomVersion;
  readonly #content: JsonObject | undefined;
  readonly #create: Pdu | undefined;

  /** `event` is the `m.room.power_levels` event, `create` the create event, each `undefined` where there is none. */
  constructor(
    version: RoomVersion,
    state: { readonly event: Pdu | undefined; readonly create: Pdu | undefined },
  ) {
    this.#version = version;
    this.#content = state.event?.content;
    this.#create = state.create;
  }

  /** The level that this action requires, or this default. */
  level(key: LevelKey): bigint {
    return (this.#content && this.#read(this.#content, key)) ?? defaultLevels[key];
  }

  powerOf(userId: string): Power {
    const create = this.#create;
    // Since version 12 creators stand above every level, whatever the event says.
    if (this.#version.privilegedCreators && create !== undefined && isPrivilegedCreator(userId, create)) {
      return 'infinite';
    }
    // Without an event, until version 11: the creator has 100, everyone else 0.
    if (this.#content === undefined) {
      const isCreator = create !== undefined && creatorOf(create, this.#version) === userId;
      return isCreator && !this.#version.privilegedCreators ? 100n : 0n;
    }
    return this.#readWithin('users', userId) ?? this.level('users_default');
  }

  /** The level required to send an event of this type; `isState` says whether it would have a state_key. */
  requiredFor(type: string, isState: boolean): bigint {
    return this.#readWithin('events', type) ?? this.level(isState ? 'state_default' : 'events_default');
  }

  #readWithin(map: string, key: string): bigint | undefined {
    const entries = this.#content && memberOf(this.#content, map);
    return isJsonObject(entries) ? this.#read(entries, key) : undefined;
  }

  #read(object: JsonObject, key: string): bigint | undefined {
    const value = memberOf(object, key);
    return value === undefined ? undefined : readLevel(value, this.#version);
  }
}
