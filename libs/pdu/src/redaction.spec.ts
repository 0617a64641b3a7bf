import { describe, expect, it } from 'vitest';
import type { JsonObject } from '@exeunt/signing';
import { everyVersion, leaveIn, versionNamed } from './leave.fixture.js';
import { redact } from './redaction.js';

/** The versions in which a key of `content` survives. */
const from = (first: number) => (id: string) => Number(id) >= first;
const until = (last: number) => (id: string) => Number(id) <= last;
const always = () => true;
const never = () => false;

const contentKeys: readonly [type: string, key: string, survives: (id: string) => boolean][] = [
  ['m.room.member', 'membership', always],
  ['m.room.member', 'reason', never],
  ['m.room.member', 'displayname', never],
  ['m.room.member', 'avatar_url', never],
  ['m.room.member', 'join_authorised_via_users_server', from(9)],
  ['m.room.create', 'creator', always],
  ['m.room.create', 'room_version', from(11)],
  ['m.room.create', 'm.federate', from(11)],
  ['m.room.create', 'additional_creators', from(11)],
  ['m.room.join_rules', 'join_rule', always],
  ['m.room.join_rules', 'allow', from(8)],
  ['m.room.power_levels', 'ban', always],
  ['m.room.power_levels', 'events', always],
  ['m.room.power_levels', 'events_default', always],
  ['m.room.power_levels', 'kick', always],
  ['m.room.power_levels', 'redact', always],
  ['m.room.power_levels', 'state_default', always],
  ['m.room.power_levels', 'users', always],
  ['m.room.power_levels', 'users_default', always],
  ['m.room.power_levels', 'invite', from(11)],
  ['m.room.power_levels', 'notifications', never],
  ['m.room.aliases', 'aliases', until(5)],
  ['m.room.history_visibility', 'history_visibility', always],
  ['m.room.redaction', 'redacts', from(11)],
  ['m.room.redaction', 'reason', never],
  ['m.room.message', 'body', never],
  ['constructor', 'name', never],
  ['__proto__', 'membership', never],
];

describe.each(everyVersion)('redaction in room version $id', (version) => {
  it.each(contentKeys)('content of %s: %s', (type, key, survives) => {
    const { content } = redact({ type, content: { [key]: 'x', 'org.example.other': 1 } }, version);
    const whole = type === 'm.room.create' && Number(version.id) >= 11;
    const kept = survives(version.id) ? { [key]: 'x' } : {};
    expect(content).toEqual(whole ? { ...kept, 'org.example.other': 1 } : kept);
  });

  it.each(['origin', 'membership', 'prev_state'])('top-level %s goes since version 11', (key) => {
    expect(key in redact(leaveIn(version, { [key]: 'x' }), version)).toBe(until(10)(version.id));
  });

  it('keeps the other fields of a PDU, stray event_id included, and drops the rest', () => {
    const json = leaveIn(version, { event_id: '$stray:h' });
    const extra = { unsigned: { age: 1 }, redacts: '$x', age_ts: 1, junk: {} };
    expect(redact({ ...json, ...extra }, version)).toEqual({ ...json, content: { membership: 'leave' } });
  });

  it('adds nothing but content', () => {
    expect(redact({}, version)).toEqual({ content: {} });
    expect(redact({ type: 'm.room.member', content: ['leave'] }, version)['content']).toEqual({});
    expect(redact({ content: { membership: 'leave' } }, version)['content']).toEqual({});
  });
});

describe('the third-party invite of a member event', () => {
  const signed = { mxid: '@k:h', token: 't', signatures: {} };
  it.each<[string, JsonObject, JsonObject]>([
    ['10', { third_party_invite: { signed, display_name: 'K' } }, {}],
    ['11', { third_party_invite: { signed, display_name: 'K' } }, { third_party_invite: { signed } }],
    ['12', { third_party_invite: { display_name: 'K' } }, { third_party_invite: {} }],
    ['12', { third_party_invite: 'x' }, {}],
  ])('in version %s', (id, content, kept) => {
    expect(redact({ type: 'm.room.member', content }, versionNamed(id))['content']).toEqual(kept);
  });
});
