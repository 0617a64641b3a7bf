import type { RedactionRules, RoomVersion } from '@exeunt/room-version';
import { isJsonObject, type JsonObject, type JsonValue } from '@exeunt/signing';

interface Rules {
  /** But for `content`, which has rules of its own. */
  readonly topLevel: readonly string[];
  /** A `Map`, so that an event of type `constructor` finds nothing. */
  readonly content: ReadonlyMap<string, readonly string[]>;
  /** True where `m.room.create` keeps its whole content. */
  readonly keepsCreateContent: boolean;
  /** True where a member event's `third_party_invite` survives, reduced to `signed`. */
  readonly keepsSignedThirdPartyInvite: boolean;
}

const topLevelOfR1 = [
  'event_id',
  'type',
  'room_id',
  'sender',
  'state_key',
  'hashes',
  'signatures',
  'depth',
  'prev_events',
  'prev_state',
  'auth_events',
  'origin',
  'origin_server_ts',
  'membership',
];

const powerLevelsOfR1 = [
  'ban',
  'events',
  'events_default',
  'kick',
  'redact',
  'state_default',
  'users',
  'users_default',
];

const r1: Rules = {
  topLevel: topLevelOfR1,
  content: new Map([
    ['m.room.member', ['membership']],
    ['m.room.create', ['creator']],
    ['m.room.join_rules', ['join_rule']],
    ['m.room.power_levels', powerLevelsOfR1],
    ['m.room.aliases', ['aliases']],
    ['m.room.history_visibility', ['history_visibility']],
  ]),
  keepsCreateContent: false,
  keepsSignedThirdPartyInvite: false,
};

const r6: Rules = { ...r1, content: new Map([...r1.content].filter(([type]) => type !== 'm.room.aliases')) };

const r8: Rules = { ...r6, content: new Map([...r6.content, ['m.room.join_rules', ['join_rule', 'allow']]]) };

const r9: Rules = {
  ...r8,
  content: new Map([...r8.content, ['m.room.member', ['membership', 'join_authorised_via_users_server']]]),
};

const r11: Rules = {
  topLevel: topLevelOfR1.filter((key) => !['origin', 'membership', 'prev_state'].includes(key)),
  content: new Map([
    ...r9.content,
    ['m.room.power_levels', [...powerLevelsOfR1, 'invite']],
    ['m.room.redaction', ['redacts']],
  ]),
  keepsCreateContent: true,
  keepsSignedThirdPartyInvite: true,
};

const rulesOf: Readonly<Record<RedactionRules, Rules>> = { R1: r1, R6: r6, R8: r8, R9: r9, R11: r11 };

/**
 * The PDU as the redaction algorithm of its version leaves it, a new object that shares what it keeps. Keeps
 * `signatures` and `hashes`, drops `unsigned`. There always is a `content`: `{}` where there was no object. Needs no
 * checked PDU. (requirements section 1, redaction table; RV-06 to RV-08, SG-02, SG-07)
 */
export function redact(json: JsonObject, version: RoomVersion): JsonObject {
  const rules = rulesOf[version.redaction];
  const kept: Record<string, JsonValue> = {};
  for (const key of rules.topLevel) {
    const value = json[key];
    if (value !== undefined) kept[key] = value;
  }
  kept['content'] = redactContent(json['content'], json['type'], rules);
  return kept;
}

function redactContent(
  content: JsonValue | undefined,
  type: JsonValue | undefined,
  rules: Rules,
): JsonObject {
  if (!isJsonObject(content) || typeof type !== 'string') return {};
  // Since version 11 nothing is removed from the content of a create event.
  if (type === 'm.room.create' && rules.keepsCreateContent) return content;
  const kept: Record<string, JsonValue> = {};
  for (const key of rules.content.get(type) ?? []) {
    const value = content[key];
    if (value !== undefined) kept[key] = value;
  }
  // Since version 11 the signed part of a third-party invite stays, for the auth rules read it.
  if (type === 'm.room.member' && rules.keepsSignedThirdPartyInvite) {
    const invite = content['third_party_invite'];
    if (isJsonObject(invite)) {
      const signed = invite['signed'];
      kept['third_party_invite'] = signed === undefined ? {} : { signed };
    }
  }
  return kept;
}
