import { answeredKnock, type Leaving, type LeavingEvent, type LeavingKey } from '@exeunt/leaving';
import type { JsonObject } from '@exeunt/signing';
import { stripped } from '../invite/invite-room-state.js';

/** A leave as the platform sees it: how it stands, and every step so far with what each server said. */
export function leaveView(key: LeavingKey, leaveId: string, events: readonly LeavingEvent[]): JsonObject {
  const own = events.filter((event) => 'leaveId' in event && event.leaveId === leaveId);
  return {
    leave_id: leaveId,
    user_id: key.userId,
    room_id: key.roomId,
    ...standing(own),
    steps: own.map(step),
  };
}

function standing(events: readonly LeavingEvent[]): JsonObject {
  let status: JsonObject = { status: 'retrying' };
  for (const event of events) {
    switch (event.type) {
      case 'LeaveHandshakeStarted':
      case 'LeaveRetried':
        status = { status: 'retrying', next_attempt_at: event.at };
        break;
      case 'RoundFailed':
        status = { status: 'retrying', next_attempt_at: event.nextAttemptAt };
        break;
      case 'LeaveCompleted':
        status = {
          status: 'completed',
          how: event.how,
          ...(event.eventId === undefined ? {} : { event_id: event.eventId }),
        };
        break;
      case 'LeaveRefused':
        status = { status: 'refused' };
        break;
      case 'LeaveCancelled':
        status = { status: 'cancelled', why: event.why };
        break;
      default:
    }
  }
  return status;
}

function step(event: LeavingEvent): JsonObject {
  const { at } = event;
  switch (event.type) {
    case 'LeaveHandshakeStarted':
      return { at, step: 'started', candidates: event.candidates };
    case 'TemplateRefused':
      return { at, step: 'template-refused', server: event.server, rule: event.rule, detail: event.detail };
    case 'ResidentServerRefused':
      return { at, step: `${event.step}-refused`, server: event.server, detail: event.detail };
    case 'ResidentServerFailed':
      return { at, step: 'make_leave-failed', server: event.server, detail: event.detail };
    case 'LeaveSigned':
      return { at, step: 'signed', server: event.server, event_id: event.eventId };
    case 'SendOutcomeUnknown':
      return { at, step: 'send_leave-outcome-unknown', server: event.server, detail: event.detail };
    case 'SignedLeaveAbandoned':
      return { at, step: 'signed-leave-abandoned', event_id: event.eventId };
    case 'RoundFailed':
      return { at, step: 'round-failed', next_attempt_at: event.nextAttemptAt };
    case 'LeaveRetried':
      return { at, step: 'retried' };
    case 'LeaveCompleted':
      return {
        at,
        step: 'completed',
        how: event.how,
        ...(event.server === undefined ? {} : { server: event.server }),
      };
    case 'LeaveRefused':
      return { at, step: 'refused' };
    case 'LeaveCancelled':
      return { at, step: 'cancelled', why: event.why };
    case 'InviteReceived':
    case 'InviteRetracted':
    case 'KnockMade':
    case 'KnockDenied':
      return { at, step: event.type };
    default:
      return event satisfies never;
  }
}

/** The invite that waits for the user, with the room's state as clients are shown it; undefined where none does. */
export function inviteView(roomId: string, { invite, answered }: Leaving): JsonObject | undefined {
  if (invite === undefined) return undefined;
  return {
    room_id: roomId,
    room_version: invite.roomVersion,
    sender: invite.sender,
    origin: invite.origin,
    received_at: invite.at,
    event_id: invite.eventId,
    event: invite.pdu,
    invite_room_state: invite.inviteRoomState.map(stripped),
    ...(answered === undefined ? {} : { answers_knock: answeredKnock(answered) }),
  };
}

/** The knock of the user that waits for the room, likewise. */
export function knockView(roomId: string, { knock }: Leaving): JsonObject | undefined {
  if (knock === undefined) return undefined;
  return {
    room_id: roomId,
    ...(knock.roomVersion === undefined ? {} : { room_version: knock.roomVersion }),
    via: knock.via,
    told_at: knock.at,
    ...(knock.eventId === undefined ? {} : { event_id: knock.eventId }),
    ...(knock.pdu === undefined ? {} : { event: knock.pdu }),
    knock_room_state: knock.knockRoomState.map(stripped),
  };
}

/** What each server said last in a leave, where it was no yes. */
export function lastWords(events: readonly LeavingEvent[], leaveId: string): readonly JsonObject[] {
  const words = new Map<string, JsonObject>();
  for (const event of events) {
    if (!('leaveId' in event) || event.leaveId !== leaveId) continue;
    if (!('server' in event) || !('detail' in event)) continue;
    words.set(event.server, { server: event.server, at: event.at, detail: event.detail });
  }
  return [...words.values()];
}
