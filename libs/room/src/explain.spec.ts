import { describe, expect, it } from 'vitest';
import type { ServerName, UserId } from '@exeunt/pdu';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { explainLeave, explainPdu } from './explain.js';

const alice = '@alice:hub.example';
const bob = '@bob:away.example' as UserId;
const ourName = 'hub.example' as ServerName;
const leave = { sender: bob, type: 'm.room.member', stateKey: bob, content: { membership: 'leave' } };

function room(): RoomBuilder {
  const servers = ['hub.example', 'away.example'].map((name) => paperServer(name));
  const built = new RoomBuilder({ version: '11', servers, creator: alice });
  built.member(bob, 'join');
  return built;
}

function decidingState({ room }: RoomBuilder) {
  return [
    ['m.room.create', ''],
    ['m.room.power_levels', ''],
    ['m.room.member', bob],
  ].map(([type, stateKey]) => ({
    type,
    state_key: stateKey,
    event_id: room.entry(room.currentState(), type!, stateKey!),
  }));
}

describe('a PDU that has not come yet', () => {
  it('would be accepted, by the state that is shown, and nothing is decided', () => {
    const built = room();
    const pdu = built.make(leave);
    const before = built.room.header();
    expect(explainPdu(built.room, pdu)).toEqual({ accepted: true, state: decidingState(built) });
    expect(built.room.header()).toEqual(before);
    expect(built.room.known(pdu.eventId)).toBeUndefined();
  });

  it('would be refused for the reason that its acceptance gives', () => {
    const built = room();
    const pdu = built.make(leave);
    built.member(bob, 'ban', alice);
    const explained = explainPdu(built.room, pdu);
    expect(explained).toMatchObject({ accepted: false, refusal: { refused: 'soft-failed', rule: 'AU-20' } });
    expect(explained.refusal).toEqual(built.receive(pdu).refusal);
  });

  it('would be refused in another room', () => {
    const pdu = room().make(leave);
    expect(explainPdu(room().room, pdu)).toMatchObject({ accepted: false, refusal: { rule: 'SL-07' } });
  });

  it('cannot be judged where it cites what is unknown', () => {
    const built = room();
    const pdu = built.make({ ...leave, changes: { prev_events: [`$${'y'.repeat(43)}`] } });
    expect(explainPdu(built.room, pdu)).toMatchObject({ accepted: false, refusal: { rule: 'SL-13' } });
  });
});

describe('a PDU that has come', () => {
  it('shows what was decided on it then', () => {
    const built = room();
    const first = built.make(leave);
    const second = built.make(leave);
    built.receive(first);
    built.receive(second);
    const third = built.make(leave);
    built.receive(third);
    expect(explainPdu(built.room, first)).toMatchObject({ accepted: true, known: 'accepted' });
    expect(explainPdu(built.room, second)).toMatchObject({
      accepted: false,
      known: 'soft-failed',
      refusal: { refused: 'soft-failed', rule: 'AU-20' },
    });
    expect(explainPdu(built.room, third)).toMatchObject({
      accepted: false,
      known: 'rejected',
      refusal: { refused: 'not-authorised', rule: 'AU-20' },
    });
  });
});

describe('a user who asks how to leave', () => {
  it('would get a template while joined, and not after', () => {
    const built = room();
    const asked = { userId: bob, ourName, now: 1 };
    expect(explainLeave(built.room, asked)).toEqual({ accepted: true, state: decidingState(built) });
    built.member(bob, 'leave');
    expect(explainLeave(built.room, asked)).toMatchObject({
      accepted: false,
      refusal: { rule: 'AU-20' },
      state: decidingState(built),
    });
  });

  it('is shown no member event where there is none', () => {
    const built = room();
    const explained = explainLeave(built.room, { userId: '@nobody:away.example' as UserId, ourName, now: 1 });
    expect(explained.state.map(({ type }) => type)).toEqual(['m.room.create', 'm.room.power_levels']);
  });
});
