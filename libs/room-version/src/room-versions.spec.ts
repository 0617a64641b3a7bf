import { describe, expect, it } from 'vitest';
import { defaultRoomVersion, isRoomVersionId, roomVersion, roomVersionIds } from './index.js';

const big = 2n ** 63n - 1n;
const safe = 2n ** 53n - 1n;
const opaque = 'opaque-in-pdu';
const hash = 'reference-hash';
const urlSafe = 'url-safe-reference-hash';
const floats = 'integers-strings-floats';
const strings = 'integers-strings';
const integers = 'integers';

/** Requirements section 1, column by column. */
// prettier-ignore
const matrix = [
  //        event ID  pairs  depth  redact  state   strict power    keys   room ID        creator knock restr. knock+restr.
  ['1',  opaque,  true,  big,  'R1',  'v1',   false, floats,   false, 'domain',      true,  false, false, false],
  ['2',  opaque,  true,  big,  'R1',  'v2',   false, floats,   false, 'domain',      true,  false, false, false],
  ['3',  hash,    false, big,  'R1',  'v2',   false, floats,   false, 'domain',      true,  false, false, false],
  ['4',  urlSafe, false, big,  'R1',  'v2',   false, floats,   false, 'domain',      true,  false, false, false],
  ['5',  urlSafe, false, big,  'R1',  'v2',   false, floats,   true,  'domain',      true,  false, false, false],
  ['6',  urlSafe, false, safe, 'R6',  'v2',   true,  strings,  true,  'domain',      true,  false, false, false],
  ['7',  urlSafe, false, safe, 'R6',  'v2',   true,  strings,  true,  'domain',      true,  true,  false, false],
  ['8',  urlSafe, false, safe, 'R8',  'v2',   true,  strings,  true,  'domain',      true,  true,  true,  false],
  ['9',  urlSafe, false, safe, 'R9',  'v2',   true,  strings,  true,  'domain',      true,  true,  true,  false],
  ['10', urlSafe, false, safe, 'R9',  'v2',   true,  integers, true,  'domain',      true,  true,  true,  true],
  ['11', urlSafe, false, safe, 'R11', 'v2',   true,  integers, true,  'domain',      false, true,  true,  true],
  ['12', urlSafe, false, safe, 'R11', 'v2.1', true,  integers, true,  'create-hash', false, true,  true,  true],
] as const;

const expected = matrix.map(
  ([
    id,
    eventIdFormat,
    pairs,
    maxDepth,
    redaction,
    stateResolution,
    strict,
    power,
    keys,
    roomId,
    creator,
    ...joining
  ]) => ({
    id,
    eventIdFormat,
    referencesArePairs: pairs,
    maxDepth,
    redaction,
    stateResolution,
    strictCanonicalJson: strict,
    powerLevelValues: power,
    enforcesKeyValidity: keys,
    roomIdFormat: roomId,
    createHasCreator: creator,
    knocking: joining[0],
    restrictedJoins: joining[1],
    knockRestricted: joining[2],
    // What the rules of sections 1 and 8 add to the columns, by the versions that have it.
    privilegedCreators: id === '12',
    aliasesRule: ['1', '2', '3', '4', '5'].includes(id),
    redactionAuthRule: ['1', '2'].includes(id),
    redactsInContent: ['11', '12'].includes(id),
    checksNotificationLevels: !['1', '2', '3', '4', '5'].includes(id),
  }),
);

describe('the room versions matrix', () => {
  it.each(expected)('version $id', (version) => {
    expect(roomVersion(version.id)).toEqual(version);
  });

  it('lists the twelve in order', () => {
    expect(roomVersionIds).toEqual(matrix.map(([id]) => id));
  });

  it.each(['', '0', '01', '13', '1.0', ' 1', 'org.matrix.msc3083', '__proto__', 'constructor'])(
    'does not know %j',
    (id) => {
      expect(roomVersion(id)).toBeUndefined();
    },
  );

  it('gives one frozen record a version', () => {
    expect(roomVersion('10')).toBe(roomVersion('10'));
    expect(Object.isFrozen(roomVersion('10'))).toBe(true);
    expect(roomVersionIds).toContain(defaultRoomVersion.id);
  });
});

describe('the grammar of a room version', () => {
  it.each(['1', '1.2', '1.2-beta', 'com.example.version', '-', 'a'.repeat(32)])('has %j', (id) => {
    expect(isRoomVersionId(id)).toBe(true);
  });

  it.each(['', 'a'.repeat(33), 'A', '1_2', '1 2', '1\n', 'é', '１'])('has not %j', (id) => {
    expect(isRoomVersionId(id)).toBe(false);
  });
});
