/** Which keys a redaction keeps; letters as in docs/spec-map.md. (requirements section 1, redaction table) */
export type RedactionRules = 'R1' | 'R6' | 'R8' | 'R9' | 'R11';

/** What differs between room versions, as data. Algorithms ask for the property they need, never for the number. */
export interface RoomVersion {
  /** The opaque identifier, e.g. `"10"`; never compare it by order. (RV-01) */
  readonly id: string;
  /** `opaque-in-pdu`: versions 1 and 2; `reference-hash`: version 3; `url-safe-reference-hash`: 4 and later. */
  readonly eventIdFormat: 'opaque-in-pdu' | 'reference-hash' | 'url-safe-reference-hash';
  /** True where `auth_events` and `prev_events` are `[id, {"sha256": hash}]` pairs. (EV-04) */
  readonly referencesArePairs: boolean;
  /** Largest `depth` a PDU may have. (EV-06) */
  readonly maxDepth: bigint;
  readonly redaction: RedactionRules;
  readonly stateResolution: 'v1' | 'v2' | 'v2.1';
  /** True where a PDU with a number that canonical JSON forbids is invalid. (CJ-04, CJ-05) */
  readonly strictCanonicalJson: boolean;
  /** How loosely levels in `m.room.power_levels` are read. (PL-03, PL-04) */
  readonly powerLevelValues: 'integers-strings-floats' | 'integers-strings' | 'integers';
  /** True where a verify key must have been valid at `origin_server_ts`. (KY-09) */
  readonly enforcesKeyValidity: boolean;
  /** `domain`: `!localpart:domain`; `create-hash`: the create event's ID with `!` for `$`. (ID-07, ID-08) */
  readonly roomIdFormat: 'domain' | 'create-hash';
  /** True where the create event must name its creator in `content.creator`. (RV-06) */
  readonly createHasCreator: boolean;
  /** True where `m.room.create` is left out of `auth_events`, and creators have infinite power. (AE-04, PL-02) */
  readonly privilegedCreators: boolean;
  /** True where `m.room.aliases` has an auth rule of its own. (AU-04) */
  readonly aliasesRule: boolean;
  /** True where redactions are decided by the auth rules. (AU-33, RV-09) */
  readonly redactionAuthRule: boolean;
  /** True where a redaction names its target in `content.redacts`, not at the top level. (RV-06) */
  readonly redactsInContent: boolean;
  /** True where changes of `notifications` in power levels are checked. (AU-32) */
  readonly checksNotificationLevels: boolean;
  readonly knocking: boolean;
  readonly restrictedJoins: boolean;
  readonly knockRestricted: boolean;
}
