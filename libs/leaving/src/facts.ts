import { ROOM_EVENTS_TOPIC, type BusMessage } from '@exeunt/message-bus';
import { stringifyJson, type JsonObject } from '@exeunt/signing';
import type { LeavingEvent, LeavingKey } from './domain-events.js';

/** `ce_source` of facts of the leaving side. */
export const LEAVING_SOURCE = '/exeunt/leaving';

const types = {
  InviteReceived: 'exeunt.invite-received.v1',
  InviteRetracted: 'exeunt.invite-retracted.v1',
  LeaveHandshakeStarted: 'exeunt.leave-started.v1',
  LeaveCompleted: 'exeunt.leave-completed.v1',
  LeaveRefused: 'exeunt.leave-refused.v1',
  LeaveCancelled: 'exeunt.leave-cancelled.v1',
} as const;

type Fact = Extract<LeavingEvent, { readonly type: keyof typeof types }>;

/** Whether the rest of the platform is told: of invites, and of a leave's beginning and end, not of its steps. */
export function isFactForTheBus(event: LeavingEvent): event is Fact {
  return Object.hasOwn(types, event.type);
}

/** The message of a fact; the same fact gives the same message, `ce_id` included. */
export function messageOf(key: LeavingKey, position: number, fact: Fact): BusMessage {
  const traceparent = fact.type === 'LeaveHandshakeStarted' ? fact.traceparent : undefined;
  const subject = 'leaveId' in fact ? fact.leaveId : fact.eventId;
  return {
    topic: ROOM_EVENTS_TOPIC,
    key: key.roomId,
    headers: {
      ce_specversion: '1.0',
      ce_id: `${key.roomId}/${key.userId}/${position}`,
      ce_source: LEAVING_SOURCE,
      ce_type: types[fact.type],
      ce_subject: subject,
      ce_time: new Date(fact.at).toISOString(),
      ...(traceparent === undefined ? {} : { ce_traceparent: traceparent }),
      'content-type': 'application/json',
    },
    value: stringifyJson({ room_id: key.roomId, user_id: key.userId, ...valueOf(fact) }),
  };
}

function valueOf(fact: Fact): JsonObject {
  switch (fact.type) {
    case 'InviteReceived':
      return {
        event_id: fact.eventId,
        room_version: fact.roomVersion,
        sender: fact.sender,
        origin: fact.origin,
        pdu: fact.pdu,
      };
    case 'InviteRetracted':
      return { event_id: fact.eventId, sender: fact.sender, origin: fact.origin, pdu: fact.pdu };
    case 'LeaveHandshakeStarted':
      return {
        leave_id: fact.leaveId,
        candidates: fact.candidates,
        ...(fact.reason === undefined ? {} : { reason: fact.reason }),
      };
    case 'LeaveCompleted':
      return {
        leave_id: fact.leaveId,
        how: fact.how,
        ...(fact.server === undefined ? {} : { server: fact.server }),
        ...(fact.eventId === undefined ? {} : { event_id: fact.eventId }),
      };
    case 'LeaveRefused':
      return { leave_id: fact.leaveId };
    case 'LeaveCancelled':
      return { leave_id: fact.leaveId, why: fact.why };
    default:
      return fact satisfies never;
  }
}
