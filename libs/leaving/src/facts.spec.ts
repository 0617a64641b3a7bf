import { describe, expect, it } from 'vitest';
import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import type { InviteReceived, KnockMade, LeavingKey } from './domain-events.js';
import { isFactForTheBus, messageOf } from './facts.js';

const key: LeavingKey = { userId: '@bob:ours.example' as UserId, roomId: '!r:x.example' as RoomId };
const x = 'x.example' as ServerName;
const knock: KnockMade = {
  type: 'KnockMade',
  knockId: '/platform one',
  via: [x],
  knockRoomState: [],
  at: 1_700_000_000_000,
};
const invite: InviteReceived = {
  type: 'InviteReceived',
  eventId: '$invite' as EventId,
  sender: '@i:x.example' as UserId,
  origin: x,
  roomVersion: '11',
  isVersionStated: true,
  pdu: {},
  inviteRoomState: [],
  at: 1,
};
const valueOf = (...[fact]: [Parameters<typeof messageOf>[2]]): object =>
  JSON.parse(messageOf(key, 3, fact).value) as object;

describe('what the bus is told of a knock', () => {
  it('is what is known of it, keyed by the room, and the same each time', () => {
    expect(isFactForTheBus(knock)).toBe(true);
    expect(messageOf(key, 3, knock)).toMatchObject({
      topic: 'exeunt.room-events.v1',
      key: '!r:x.example',
      headers: {
        ce_id: '!r:x.example/@bob:ours.example/3',
        ce_type: 'exeunt.knock-made.v1',
        ce_subject: '@bob:ours.example',
        ce_time: '2023-11-14T22:13:20.000Z',
      },
    });
    const known = { room_id: '!r:x.example', user_id: '@bob:ours.example', via: ['x.example'] };
    expect(valueOf(knock)).toEqual(known);
    const whole = {
      ...knock,
      eventId: '$knock' as EventId,
      roomVersion: '7',
      pdu: {},
      answeredBy: invite.eventId,
    };
    expect(valueOf(whole)).toEqual({
      ...known,
      event_id: '$knock',
      room_version: '7',
      pdu: {},
      answered_by: '$invite',
    });
    expect(messageOf(key, 3, whole).headers['ce_subject']).toBe('$knock');
  });

  it('is how it ends: that it is denied, or which invite answers it (IN-13)', () => {
    const denied = {
      type: 'KnockDenied',
      eventId: '$denial' as EventId,
      sender: '@mod:x.example' as UserId,
      origin: x,
      pdu: {},
      at: 1,
    } as const;
    expect(messageOf(key, 4, denied).headers).toMatchObject({
      ce_type: 'exeunt.knock-denied.v1',
      ce_subject: '$denial',
    });
    expect(valueOf(denied)).toMatchObject({
      event_id: '$denial',
      sender: '@mod:x.example',
      origin: 'x.example',
    });
    expect(valueOf(invite)).not.toHaveProperty('answers_knock');
    const answer = { ...invite, answersKnock: { eventId: '$knock' as EventId, at: 7 } };
    expect(valueOf(answer)).toMatchObject({ answers_knock: { event_id: '$knock', told_at: 7 } });
  });
});
