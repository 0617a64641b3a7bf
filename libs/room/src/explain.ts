import type { Pdu, ServerName, UserId } from '@exeunt/pdu';
import { earlierDecision } from './accept-pdu.js';
import { leaveTemplate } from './draft-event.js';
import { judge, stateThatDecides } from './judge.js';
import { isRefusal, type Refusal } from './refusal.js';
import type { Room } from './room.js';
import { typeAndStateKeyOf } from './state-resolution/state-key.js';

/** What would become of something, and the current state entries that decide it. */
export interface Explained {
  readonly accepted: boolean;
  readonly refusal?: Refusal;
  readonly state: readonly { readonly type: string; readonly state_key: string; readonly event_id: string }[];
  /** What was decided on the PDU when it came, where it did. */
  readonly known?: 'accepted' | 'rejected' | 'soft-failed';
}

/** What accepting the PDU now would give. The same judgement that acceptance makes; nothing is decided. */
export function explainPdu(room: Room, pdu: Pdu): Explained {
  const state = decidingState(room, pdu);
  if (pdu.roomId !== room.id) {
    const detail = `the event's room is ${pdu.roomId}`;
    return { accepted: false, refusal: { refused: 'wrong-parameter', rule: 'SL-07', detail }, state };
  }
  const earlier = earlierDecision(room, pdu);
  if (earlier !== undefined) {
    const known = room.known(pdu.eventId)!.status;
    return earlier.refusal === undefined
      ? { accepted: true, state, known }
      : { accepted: false, refusal: earlier.refusal, state, known };
  }
  const judged = judge(room, pdu, 'current-state');
  return judged.verdict === 'allowed'
    ? { accepted: true, state }
    : { accepted: false, refusal: judged.refusal, state };
}

/** What `make_leave` would say to this user now. */
export function explainLeave(
  room: Room,
  asked: { readonly userId: UserId; readonly ourName: ServerName; readonly now: number },
): Explained {
  const { userId } = asked;
  const content = { membership: 'leave' };
  const state = decidingState(room, { type: 'm.room.member', sender: userId, stateKey: userId, content });
  const template = leaveTemplate(room, asked);
  return isRefusal(template) ? { accepted: false, refusal: template, state } : { accepted: true, state };
}

function decidingState(room: Room, event: Parameters<typeof stateThatDecides>[1]): Explained['state'] {
  const keys = stateThatDecides(room, event);
  room.require({ state: keys });
  return keys.flatMap((key) => {
    const eventId = room.entryOf(room.currentState(), key);
    const { type, stateKey } = typeAndStateKeyOf(key);
    return eventId === undefined ? [] : [{ type, state_key: stateKey, event_id: eventId }];
  });
}
