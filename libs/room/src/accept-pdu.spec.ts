import { describe, expect, it } from 'vitest';
import { isPduFault, parsePdu, redact, referenceTo, type Pdu, type ServerName } from '@exeunt/pdu';
import { roomVersionIds } from '@exeunt/room-version';
import {
  encodeUnpaddedBase64,
  selectEd25519,
  signJson,
  withKeys,
  type JsonObject,
  type SigningKey,
} from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import type { Decision } from './accept-pdu.js';
import { leaveTemplate } from './draft-event.js';
import { isRefusal } from './refusal.js';

const alice = '@alice:hub.example';
const bob = '@bob:away.example';
const carol = '@carol:third.example';
const zed = '@zed:outside.example';
const servers = ['hub.example', 'away.example', 'third.example', 'outside.example', 'policy.example'].map(
  (name) => paperServer(name),
);
const versions = [...roomVersionIds];
const hasKnocking = (version: string): boolean => Number(version) >= 7;

function room(version: string, joinRule = 'public'): RoomBuilder {
  return new RoomBuilder({ version, servers, creator: alice, joinRule });
}

/** A room in which bob has this membership. */
function roomWithBob(version: string, membership: string): RoomBuilder {
  const built = room(version, membership === 'knock' ? 'knock' : 'public');
  switch (membership) {
    case 'none':
      break;
    case 'join':
    case 'knock':
      built.member(bob, membership);
      break;
    case 'leave':
      built.member(bob, 'join');
      built.member(bob, 'leave');
      break;
    default:
      built.member(bob, membership, alice);
  }
  return built;
}

const leaveOf = (userId: string, sender = userId) => ({
  sender,
  type: 'm.room.member',
  stateKey: userId,
  content: { membership: 'leave' },
});

/** Where the room stands: what an old template cites. */
function placeIn({ room, version }: RoomBuilder, eventIds: readonly string[] = []): JsonObject {
  const ids = eventIds.length > 0 ? eventIds : room.forwardExtremities.map(({ eventId }) => eventId);
  return {
    prev_events: ids.map((id) =>
      version.referencesArePairs ? referenceTo(room.pdu(id as Pdu['eventId'])) : id,
    ),
  };
}

function expectNothingBroadcast({ broadcasts }: Decision): void {
  expect(broadcasts).toEqual([]);
}

function extremities({ room }: RoomBuilder): readonly string[] {
  return room.forwardExtremities.map(({ eventId }) => eventId);
}

describe('a user who leaves by their own hand', () => {
  it.each(
    versions.flatMap((version) =>
      ['join', 'invite', 'knock', 'leave', 'ban', 'none']
        .filter((membership) => membership !== 'knock' || hasKnocking(version))
        .map((membership) => [version, membership] as const),
    ),
  )(
    'in version %s with membership %s is let out where there is something to leave (AU-20, SL-14)',
    (version, membership) => {
      const built = roomWithBob(version, membership);
      const parents = extremities(built);
      const leave = built.make(leaveOf(bob));
      const decision = built.receive(leave);
      const [fact] = decision.domainEvents;
      if (['join', 'invite', 'knock'].includes(membership)) {
        expect(decision.refusal).toBeUndefined();
        expect(fact).toMatchObject({
          type: 'PduAccepted',
          eventId: leave.eventId,
          pdu: leave.json,
          origin: 'away.example',
          place: 'graph',
          stateAfter: 'current',
          changes: [
            {
              type: 'm.room.member',
              stateKey: bob,
              eventId: leave.eventId,
              membership: { from: membership, to: 'leave' },
            },
          ],
        });
        expect(built.room.membership(built.room.currentState(), bob)).toBe('leave');
        expect(extremities(built)).toEqual([leave.eventId]);
      } else {
        expect(fact).toMatchObject({ type: 'PduRejected', rule: 'AU-20' });
        expect(decision.refusal).toMatchObject({
          refused: 'not-authorised',
          rule: 'AU-20',
          state: 'auth-events',
        });
        expect(extremities(built)).toEqual(parents);
        expectNothingBroadcast(decision);
      }
    },
  );

  it.each(versions.filter((version) => !hasKnocking(version)))(
    'cannot have knocked before in version %s (KN-04)',
    (version) => {
      const built = room(version);
      const knock = built.make({ ...leaveOf(bob), content: { membership: 'knock' } });
      expect(built.receive(knock).domainEvents[0]).toMatchObject({ type: 'PduRejected', rule: 'AU-24' });
      expect(built.receive(built.make(leaveOf(bob))).refusal).toMatchObject({ rule: 'AU-20' });
    },
  );
});

describe('a user who is made to leave by another', () => {
  const memberships = ['join', 'invite', 'knock', 'leave', 'ban', 'none'];
  it.each(
    ['6', '10', '12'].flatMap((version) =>
      memberships
        .filter((membership) => membership !== 'knock' || hasKnocking(version))
        .map((membership) => [version, membership] as const),
    ),
  )(
    'in version %s with membership %s is out where the other has the power (AU-21)',
    (version, membership) => {
      const built = roomWithBob(version, membership);
      const { refusal, domainEvents } = built.receive(built.make(leaveOf(bob, alice)));
      expect(refusal).toBeUndefined();
      expect(domainEvents[0]).toMatchObject({ changes: [{ membership: { from: membership, to: 'leave' } }] });
    },
  );

  it.each(memberships)('with membership %s stays where the other lacks it (AU-21, AU-22)', (membership) => {
    const built = roomWithBob('11', membership);
    if (membership === 'knock') built.member(carol, 'invite', alice);
    built.member(carol, 'join');
    expect(built.receive(built.make(leaveOf(bob, carol))).domainEvents).toMatchObject([
      { type: 'PduRejected', rule: 'AU-21' },
    ]);
  });

  it('stays where the other is not in the room (AU-21)', () => {
    const built = roomWithBob('11', 'join');
    expect(built.receive(built.make(leaveOf(bob, carol))).domainEvents).toMatchObject([
      { type: 'PduRejected', rule: 'AU-21' },
    ]);
  });
});

describe('a leave that comes again', () => {
  it.each(versions)(
    'is the same yes without a new fact or a second broadcast in version %s (SL-15)',
    (version) => {
      const built = roomWithBob(version, 'join');
      built.member(carol, 'join');
      const leave = built.make(leaveOf(bob));
      expect(built.receive(leave).broadcasts).toHaveLength(1);
      const position = built.room.position;
      expect(built.receive(leave)).toEqual({ domainEvents: [], broadcasts: [] });
      expect(built.room.position).toBe(position);
    },
  );

  it('is the same no, with the same rule, after it was refused', () => {
    const built = roomWithBob('11', 'leave');
    const leave = built.make(leaveOf(bob));
    const { refusal } = built.receive(leave);
    const again = built.receive(leave);
    expect(again.domainEvents).toEqual([]);
    expect(again.refusal).toMatchObject({
      refused: 'not-authorised',
      rule: refusal!.rule,
      detail: refusal!.detail,
    });
  });

  it.each(['1', '2'])('under the same ID with other content is refused in version %s (SL-15)', (version) => {
    const built = roomWithBob(version, 'join');
    const leave = built.make(leaveOf(bob));
    const other = built.make({
      ...leaveOf(bob),
      content: { membership: 'leave', reason: 'another' },
      changes: { event_id: leave.eventId },
    });
    built.receive(leave);
    expect(built.receive(other)).toMatchObject({
      domainEvents: [],
      broadcasts: [],
      refusal: { refused: 'wrong-parameter', rule: 'SL-15' },
    });
    expect(built.room.pdu(leave.eventId).json).toEqual(leave.json);
  });
});

describe('a second, different leave of the same user', () => {
  it.each(versions)(
    'is soft-failed where its template is as old, in version %s (SL-16, SL-12)',
    (version) => {
      const built = roomWithBob(version, 'join');
      built.member(carol, 'join');
      const [first, second] = [built.make(leaveOf(bob)), built.make(leaveOf(bob))];
      built.receive(first);
      const decision = built.receive(second);
      expect(decision.domainEvents).toMatchObject([{ type: 'PduSoftFailed', rule: 'AU-20' }]);
      expect(decision.refusal).toMatchObject({
        refused: 'soft-failed',
        rule: 'AU-20',
        state: 'current-state',
      });
      expectNothingBroadcast(decision);
      expect(extremities(built)).toEqual([first.eventId]);
      expect(built.receive(second)).toMatchObject({ domainEvents: [], refusal: { refused: 'soft-failed' } });
    },
  );

  it('is rejected where its template is newer (SL-16, PD-05)', () => {
    const built = roomWithBob('11', 'join');
    const joined = built.room.entry(built.room.currentState(), 'm.room.member', bob)!;
    built.receive(built.make(leaveOf(bob)));
    const again = built.make(leaveOf(bob));
    const authEvents = again.authEvents.map((id) =>
      built.room.pdu(id).type === 'm.room.member' ? joined : id,
    );
    const decision = built.receive(built.make({ ...leaveOf(bob), changes: { auth_events: authEvents } }));
    expect(decision.domainEvents).toMatchObject([{ type: 'PduRejected', rule: 'AU-20' }]);
    expect(decision.refusal).toMatchObject({ refused: 'not-authorised', state: 'state-before' });
  });
});

describe('a user who was banned after the template was made', () => {
  it.each(versions)('does not get out in version %s (PD-06, PD-11)', (version) => {
    const built = roomWithBob(version, 'join');
    built.member(carol, 'join');
    const leave = built.make(leaveOf(bob));
    const ban = built.member(bob, 'ban', alice);
    const decision = built.receive(leave);
    expect(decision.domainEvents).toMatchObject([
      { type: 'PduSoftFailed', rule: 'AU-20', eventId: leave.eventId },
    ]);
    expect(decision.refusal).toMatchObject({
      refused: 'soft-failed',
      state: 'current-state',
      detail: expect.stringContaining('ban'),
      events: expect.arrayContaining([ban.eventId]),
    });
    expectNothingBroadcast(decision);
    expect(built.room.membership(built.room.currentState(), bob)).toBe('ban');
    // PD-10, ML-12: neither is it a forward extremity, nor does a template cite it.
    expect(extremities(built)).toEqual([ban.eventId]);
    const template = leaveTemplate(built.room, {
      userId: carol as Pdu['sender'],
      ourName: 'hub.example' as ServerName,
      now: 1,
    });
    if (isRefusal(template)) throw new Error(template.detail);
    expect(JSON.stringify(template['prev_events'])).not.toContain(leave.eventId);
  });

  it('counts as having left for who builds on the soft-failed leave (PD-10)', () => {
    const built = roomWithBob('11', 'join');
    const leave = built.make(leaveOf(bob));
    built.member(bob, 'ban', alice);
    built.receive(leave);
    const onTop = built.make({ sender: bob, content: {}, changes: placeIn(built, [leave.eventId]) });
    expect(built.receive(onTop).domainEvents).toMatchObject([{ type: 'PduRejected', rule: 'AU-30' }]);
    const ours = built.make({ sender: alice, content: {}, changes: placeIn(built, [leave.eventId]) });
    expect(built.receive(ours).domainEvents).toMatchObject([{ type: 'PduAccepted' }]);
  });
});

describe('a leave that cites what cannot be used', () => {
  const unknown = `$${'x'.repeat(43)}`;

  it('is not recorded where a parent is unknown (SL-13)', () => {
    const built = roomWithBob('11', 'join');
    const position = built.room.position;
    const decision = built.receive(built.make({ ...leaveOf(bob), changes: { prev_events: [unknown] } }));
    expect(decision).toMatchObject({
      domainEvents: [],
      broadcasts: [],
      refusal: { refused: 'unknown-reference', rule: 'SL-13', events: [unknown] },
    });
    expect(built.room.position).toBe(position);
  });

  it('is not recorded where an auth event is unknown', () => {
    const built = roomWithBob('11', 'join');
    const decision = built.receive(built.make({ ...leaveOf(bob), changes: { auth_events: [unknown] } }));
    expect(decision).toMatchObject({
      domainEvents: [],
      refusal: { refused: 'unknown-reference', events: [unknown] },
    });
  });

  it('is rejected where it has no parents (SL-13)', () => {
    const built = roomWithBob('11', 'join');
    expect(
      built.receive(built.make({ ...leaveOf(bob), changes: { prev_events: [] } })).domainEvents,
    ).toMatchObject([{ type: 'PduRejected', rule: 'SL-13', stateAfter: 'none' }]);
  });

  it.each(['1', '6', '12'])(
    'is rejected where an auth event was rejected, in version %s (AE-03, PD-08)',
    (version) => {
      const built = roomWithBob(version, 'invite');
      // A join that the rules refuse: bob's own invite is left out of what it cites, in a room of invited people.
      built.say({ sender: alice, type: 'm.room.join_rules', stateKey: '', content: { join_rule: 'invite' } });
      const rejected = built.make({
        sender: bob,
        type: 'm.room.member',
        stateKey: bob,
        content: { membership: 'ban' },
      });
      expect(built.receive(rejected).domainEvents).toMatchObject([{ type: 'PduRejected' }]);
      const leave = built.make(leaveOf(bob));
      const references = leave.authEvents.map((id) => {
        const cited = built.room.pdu(id).stateKey === bob ? rejected : built.room.pdu(id);
        return built.version.referencesArePairs ? referenceTo(cited) : cited.eventId;
      });
      const citing = built.make({ ...leaveOf(bob), changes: { auth_events: references } });
      expect(built.receive(citing).domainEvents).toMatchObject([{ type: 'PduRejected', rule: 'AE-03' }]);
      expect(built.receive(leave).refusal).toBeUndefined();
    },
  );

  it.each(['1', '6', '11', '12'])(
    'is rejected where it cites the join rules, in version %s (AE-02, TOP-02)',
    (version) => {
      const built = roomWithBob(version, 'join');
      const leave = built.make(leaveOf(bob));
      const rules = built.room.statePdu(built.room.currentState(), 'm.room.join_rules', '')!;
      const json = leave.json['auth_events'] as readonly string[];
      const more = [...json, built.version.referencesArePairs ? referenceTo(rules) : rules.eventId];
      expect(
        built.receive(built.make({ ...leaveOf(bob), changes: { auth_events: more } })).domainEvents,
      ).toMatchObject([{ type: 'PduRejected', rule: 'AE-02' }]);
    },
  );
});

describe('an event whose parent is a rejected state event', () => {
  it.each(['1', '6', '11', '12'])(
    'stands, in the state as if that had not been, in version %s (PD-08)',
    (version) => {
      const built = roomWithBob(version, 'join');
      const rejected = built.make({
        sender: bob,
        type: 'm.room.topic',
        stateKey: '',
        content: { topic: 'mine' },
      });
      expect(built.receive(rejected).domainEvents).toMatchObject([{ type: 'PduRejected', rule: 'AU-30' }]);
      const leave = built.make({ ...leaveOf(bob), changes: placeIn(built, [rejected.eventId]) });
      expect(built.receive(leave).refusal).toBeUndefined();
      const after = built.room.known(leave.eventId)!.stateAfter!;
      expect(built.room.entry(after, 'm.room.topic', '')).toBeUndefined();
      expect(built.room.membership(after, bob)).toBe('leave');
      expect(built.room.membership(built.room.currentState(), bob)).toBe('leave');
    },
  );
});

describe('who is told of an accepted leave', () => {
  const destinationsOf = (built: RoomBuilder, userId: string, sender = userId): readonly string[] => {
    const leave = built.make(leaveOf(userId, sender));
    const { broadcasts, refusal } = built.receive(leave);
    expect(refusal).toBeUndefined();
    // BR-04: what is sent is what came in.
    for (const broadcast of broadcasts)
      expect(broadcast).toMatchObject({ eventId: leave.eventId, pdu: leave.json });
    return broadcasts.flatMap(({ destinations }) => destinations);
  };

  it.each(versions)(
    'are the resident servers but us and the leaving one, in version %s (BR-01, BR-02)',
    (version) => {
      const built = room(version);
      for (const userId of [bob, '@bea:away.example', carol, zed]) built.member(userId, 'join');
      expect(destinationsOf(built, bob)).toEqual(['outside.example', 'third.example']);
    },
  );

  it('are the others too where it was the last user of its server (BR-02)', () => {
    const built = room('11');
    built.member(bob, 'join');
    built.member(carol, 'join');
    expect(destinationsOf(built, bob)).toEqual(['third.example']);
    expect(built.room.residentServers()).not.toContain('away.example');
    expect(destinationsOf(built, carol)).toEqual([]);
  });

  it('is nobody where nobody else is there', () => {
    const built = roomWithBob('11', 'join');
    const decision = built.receive(built.make(leaveOf(bob)));
    expect(decision.domainEvents).toHaveLength(1);
    expectNothingBroadcast(decision);
  });

  it('is not the server of somebody who was only invited, nor of one who left', () => {
    const built = room('11');
    built.member(bob, 'join');
    built.member(zed, 'invite', alice);
    built.member(carol, 'join');
    built.member(carol, 'leave');
    expect(destinationsOf(built, bob)).toEqual([]);
  });

  it('is the server of one who was made to leave, for it was there before (BR-02)', () => {
    const built = room('11');
    built.member(bob, 'join');
    expect(destinationsOf(built, bob, alice)).toEqual(['away.example']);
  });

  it.each(['6', '11'])(
    'is the server of one whose invite is taken back, in version %s (BR-06)',
    (version) => {
      const built = room(version);
      built.member(carol, 'join');
      built.member(zed, 'invite', alice);
      expect(destinationsOf(built, zed, alice)).toEqual(['outside.example', 'third.example']);
    },
  );

  it('is the server of one whose knock is refused or who is banned on knocking (BR-06)', () => {
    const built = room('11', 'knock');
    built.member(zed, 'knock');
    expect(destinationsOf(built, zed, alice)).toEqual(['outside.example']);
    built.member(zed, 'knock');
    const ban = built.make({ ...leaveOf(zed, alice), content: { membership: 'ban' } });
    expect(built.receive(ban).broadcasts).toMatchObject([{ destinations: ['outside.example'] }]);
  });

  it('is not the server of one who is invited on knocking: it hears of it by the invite itself', () => {
    const built = room('11', 'knock');
    built.member(zed, 'knock');
    const invite = built.make({ ...leaveOf(zed, alice), content: { membership: 'invite' } });
    expect(built.receive(invite).broadcasts).toEqual([]);
  });

  it('is a resident server that the server ACL denies, too (BR-03)', () => {
    const built = room('11');
    built.member(bob, 'join');
    built.member(carol, 'join');
    built.say({
      sender: alice,
      type: 'm.room.server_acl',
      stateKey: '',
      content: { allow: ['*'], deny: ['third.example'] },
    });
    expect(destinationsOf(built, bob)).toEqual(['third.example']);
  });

  it('is nobody where the leave is rejected or soft-failed (BR-05)', () => {
    const built = room('11');
    built.member(carol, 'join');
    const rejected = built.receive(built.make(leaveOf(bob)));
    expect(rejected.domainEvents).toMatchObject([{ type: 'PduRejected' }]);
    expectNothingBroadcast(rejected);
    built.member(bob, 'join');
    const old = built.make(leaveOf(bob));
    built.member(bob, 'leave');
    const softFailed = built.receive(old);
    expect(softFailed.domainEvents).toMatchObject([{ type: 'PduSoftFailed' }]);
    expectNothingBroadcast(softFailed);
  });
});

describe('a room with a policy server', () => {
  const key: SigningKey = { keyId: 'ed25519:policy_server', seed: Buffer.alloc(32, 7) };
  const publicKey = encodeUnpaddedBase64(selectEd25519().publicKeyOf(key.seed));
  const policyRoom = (): RoomBuilder => {
    const built = room('11');
    built.member(bob, 'join');
    built.member('@guard:policy.example', 'join');
    built.say({
      sender: alice,
      type: 'm.room.policy',
      stateKey: '',
      content: { via: 'policy.example', public_keys: { ed25519: publicKey } },
    });
    return built;
  };
  const withPolicySignature = (built: RoomBuilder, pdu: Pdu, by = key): Pdu => {
    const signed = signJson(redact(pdu.json, built.version), 'policy.example', by);
    const again = parsePdu(withKeys(pdu.json, { signatures: signed['signatures']! }), built.version);
    if (isPduFault(again)) throw new Error(again.detail);
    return again;
  };

  it('soft-fails a leave that the policy server has not signed (PD-07, PS-01)', () => {
    const built = policyRoom();
    const parents = extremities(built);
    const decision = built.receive(built.make(leaveOf(bob)));
    expect(decision.domainEvents).toMatchObject([{ type: 'PduSoftFailed', rule: 'PS-01' }]);
    expect(decision.refusal).toMatchObject({ refused: 'soft-failed', rule: 'PS-01' });
    expectNothingBroadcast(decision);
    expect(extremities(built)).toEqual(parents);
  });

  it('takes a leave that it has signed, and sends it on with the signature (PS-01)', () => {
    const built = policyRoom();
    const leave = withPolicySignature(built, built.make(leaveOf(bob)));
    const decision = built.receive(leave);
    expect(decision.refusal).toBeUndefined();
    expect(decision.broadcasts).toMatchObject([{ pdu: leave.json, destinations: ['policy.example'] }]);
  });

  it('soft-fails a leave that is signed with another key', () => {
    const built = policyRoom();
    const other = { ...key, seed: Buffer.alloc(32, 8) };
    const leave = withPolicySignature(built, built.make(leaveOf(bob)), other);
    expect(built.receive(leave).domainEvents).toMatchObject([{ type: 'PduSoftFailed', rule: 'PS-01' }]);
  });

  it('needs no signature for history that is imported', () => {
    const built = policyRoom();
    expect(built.receive(built.make(leaveOf(bob)), 'history').refusal).toBeUndefined();
  });
});

describe('a leave whose template was made for another room', () => {
  it('is rejected (AE-05)', () => {
    const [one, other] = [roomWithBob('11', 'join'), roomWithBob('11', 'join')];
    const leave = one.make({ ...leaveOf(bob), changes: { room_id: other.roomId } });
    expect(one.receive(leave).domainEvents).toMatchObject([{ type: 'PduRejected', rule: 'AE-05' }]);
  });
});
