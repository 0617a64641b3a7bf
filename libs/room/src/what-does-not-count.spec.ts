import { describe, expect, it } from 'vitest';
import { referenceTo, type ServerName } from '@exeunt/pdu';
import { roomVersionIds } from '@exeunt/room-version';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { admitServer } from './accept-leave.js';
import { acceptPdu } from './accept-pdu.js';

/** What the checks on receipt must not look at. */

const alice = '@alice:hub.example';
const bob = '@bob:away.example';
const away = 'away.example' as ServerName;
const third = 'third.example' as ServerName;
const ourName = 'hub.example' as ServerName;
const servers = [paperServer(ourName), paperServer(away)];

function roomWithBob(version: string): RoomBuilder {
  const built = new RoomBuilder({ version, servers, creator: alice });
  built.member(bob, 'join');
  return built;
}

const leave = { sender: bob, type: 'm.room.member', stateKey: bob, content: { membership: 'leave' } };

describe('the depth of a leave', () => {
  it.each(roomVersionIds)(
    'may be any, for it is not compared with its parents’, in version %s (SL-09)',
    (version) => {
      for (const depth of [0, 1, 1_000_000]) {
        const built = roomWithBob(version);
        const decision = built.receive(built.make({ ...leave, changes: { depth } }));
        expect(decision.domainEvents).toMatchObject([{ type: 'PduAccepted' }]);
        expect(built.room.membership(built.room.currentState(), bob)).toBe('leave');
      }
    },
  );
});

describe('a server ACL', () => {
  it.each(['1', '6', '11', '12'])(
    'is about who asks, not about whose event it is or what it rests on, in version %s (AC-07)',
    (version) => {
      const built = roomWithBob(version);
      const ofBob = built.say({ sender: bob, content: { body: 'before' } });
      built.say({
        sender: alice,
        type: 'm.room.server_acl',
        stateKey: '',
        content: { allow: ['*'], deny: [away] },
      });
      expect(admitServer(built.room, { origin: away, ourName })).toMatchObject({ rule: 'AC-05' });
      expect(admitServer(built.room, { origin: third, ourName })).toBeUndefined();
      // Bob's leave, on a parent of his, comes by another server: the auth rules know nothing of the ACL.
      const pdu = built.make({
        ...leave,
        changes: { prev_events: [referenceTo(ofBob)] },
      });
      const decision = acceptPdu(built.room, {
        pdu,
        origin: third,
        ourName,
        now: 1,
        against: 'current-state',
      });
      expect(decision.refusal).toBeUndefined();
      expect(decision.domainEvents).toMatchObject([{ type: 'PduAccepted', origin: third }]);
    },
  );
});
