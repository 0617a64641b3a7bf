import type { EventId, Pdu, ServerName, UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import { candidatesFor, roomVersionsOf } from './candidates.js';
import type {
  Completion,
  HandshakeStep,
  InviteReceived,
  LeavingEvent,
  LeaveHandshakeStarted,
} from './domain-events.js';
import { contentHashOf, type Leave, type Leaving } from './leaving.js';
import { afterRound, signedLeaveLifeMs, type RetryBounds } from './retry-schedule.js';
import type { TemplateFault } from './template-checks.js';

/** An expected no of the leaving side. */
export interface LeavingRefusal {
  readonly refused:
    /** The ID is taken by an invite with other content, in versions 1 and 2. (SL-15) */
    | 'invite-known-otherwise'
    /** No invite waits that this event could take back. */
    | 'not-invited'
    /** Whoever took the invite back is neither its sender nor cites it. */
    | 'not-the-invites-room'
    /** There is a newer leave or invite, or the leave is over. */
    | 'leave-is-over';
  readonly detail: string;
}

/** New facts, or a no. No facts: it is so already. */
export type LeavingDecision = readonly LeavingEvent[] | LeavingRefusal;

export function isLeavingRefusal(decision: object): decision is LeavingRefusal {
  return 'refused' in decision;
}

/** An invite that passed all checks and is signed by us. A repeat changes nothing. (IN-09) */
export function receiveInvite(state: Leaving, invite: Omit<InviteReceived, 'type'>): LeavingDecision {
  const known = state.invites.get(invite.eventId);
  if (known !== undefined) {
    if (known === contentHashOf(invite.pdu)) return [];
    return { refused: 'invite-known-otherwise', detail: `${invite.eventId} is known with other content` };
  }
  // A new invite is a new question to the user: the answer to the old one must not reach it.
  const superseded: readonly LeavingEvent[] =
    state.leave?.status.kind === 'retrying'
      ? [{ type: 'LeaveCancelled', leaveId: state.leave.leaveId, why: 'invited-again', at: invite.at }]
      : [];
  return [...superseded, { type: 'InviteReceived', ...invite }];
}

/**
 * A leave or ban of our user by somebody else, its signatures checked. Without the room's state its power can't be
 * judged: the inviter's word is taken, and anybody's who cites the invite, as a real kick must. (peers.md, pain 21)
 */
export function retractInvite(
  state: Leaving,
  kick: {
    readonly eventId: EventId;
    readonly sender: UserId;
    readonly origin: ServerName;
    readonly authEvents: readonly EventId[];
    readonly pdu: JsonObject;
    readonly at: number;
  },
): LeavingDecision {
  const { authEvents, ...fact } = kick;
  const isUnderWay = state.leave?.status.kind === 'retrying';
  const invite = state.invite ?? (isUnderWay ? state.lastInvite : undefined);
  if (invite === undefined) return { refused: 'not-invited', detail: 'no invite waits in this room' };
  if (kick.sender !== invite.sender && !authEvents.includes(invite.eventId)) {
    return {
      refused: 'not-the-invites-room',
      detail: `${kick.sender} did not send the invite, and the event does not cite it`,
    };
  }
  const retracted: LeavingEvent = { type: 'InviteRetracted', ...fact };
  if (state.leave === undefined || !isUnderWay) return [retracted];
  const { leaveId } = state.leave;
  return [
    retracted,
    { type: 'LeaveCompleted', leaveId, how: 'retracted', eventId: kick.eventId, at: kick.at },
  ];
}

/** A user wants out of a room that this server is not in. */
export interface RequestLeave {
  /** Of the leave, should there be a new one. */
  readonly leaveId: string;
  readonly reason: string | undefined;
  /** Servers that the caller thinks are in the room. */
  readonly via: readonly ServerName[];
  readonly ourName: ServerName;
  readonly now: number;
  /** Of the request, where it is traced. */
  readonly traceparent?: string | undefined;
}

/**
 * The user is out with what this gives, whatever comes of the handshake. The same wish again changes nothing; one
 * after a refused or cancelled leave begins anew; one without anything to leave is done at once. (LV-17)
 */
export function requestLeave(state: Leaving, wish: RequestLeave): LeavingDecision {
  const { leave, invite } = state;
  if (invite === undefined && leave !== undefined) {
    if (leave.status.kind === 'retrying' || leave.status.kind === 'completed') return [];
  }
  const known = invite ?? (leave === undefined ? undefined : state.lastInvite);
  // One who was never invited has only the caller's word for where the room is; so has one whose invite is gone.
  const candidates = candidatesFor(known, wish.via, wish.ourName);
  const started = begin(wish, candidates, roomVersionsOf(known));
  if (candidates.length > 0) return [started];
  return [started, completed(wish, 'already-out')];
}

/** The leave of a user that this server decided as a resident: kept so that it can be asked about. */
export function recordLocalLeave(
  state: Leaving,
  leave: {
    readonly leaveId: string;
    readonly reason: string | undefined;
    readonly ourName: ServerName;
    readonly now: number;
    /** Absent where the user was out already. */
    readonly eventId?: EventId;
  },
): LeavingDecision {
  const superseded: readonly LeavingEvent[] =
    state.leave?.status.kind === 'retrying'
      ? [{ type: 'LeaveCompleted', leaveId: state.leave.leaveId, how: 'decided-here', at: leave.now }]
      : [];
  if (leave.eventId === undefined) {
    if (state.leave !== undefined && state.invite === undefined) return superseded;
    return [...superseded, begin(leave, [], []), completed(leave, 'already-out')];
  }
  return [
    ...superseded,
    begin(leave, [], []),
    {
      type: 'LeaveCompleted',
      leaveId: leave.leaveId,
      how: 'decided-here',
      server: leave.ourName,
      eventId: leave.eventId,
      at: leave.now,
    },
  ];
}

/** What the runner learnt of one server. */
export type HandshakeOutcome =
  | { readonly kind: 'template-refused'; readonly server: ServerName; readonly fault: TemplateFault }
  | {
      readonly kind: 'refused';
      readonly server: ServerName;
      readonly step: HandshakeStep;
      readonly detail: string;
    }
  | {
      readonly kind: 'failed';
      readonly server: ServerName;
      readonly step: HandshakeStep;
      readonly detail: string;
    }
  | { readonly kind: 'signed'; readonly server: ServerName; readonly pdu: Pdu }
  | { readonly kind: 'accepted'; readonly server: ServerName; readonly eventId: EventId };

/** Takes in what became of one request, or of one template. Refused where the leave is not under way any more. */
export function noteOutcome(
  state: Leaving,
  leaveId: string,
  outcome: HandshakeOutcome,
  at: number,
): LeavingDecision {
  // An acceptance counts even where the leave was cancelled meanwhile: it is what happened.
  const leave = outcome.kind === 'accepted' ? currentLeave(state, leaveId) : leaveUnderWay(state, leaveId);
  if (isLeavingRefusal(leave)) return leave;
  const { server } = outcome;
  switch (outcome.kind) {
    case 'template-refused': {
      const { rule, detail, isFinal } = outcome.fault;
      return [{ type: 'TemplateRefused', leaveId, server, rule, detail, isFinal, at }];
    }
    case 'refused': {
      const { step, detail } = outcome;
      return [{ type: 'ResidentServerRefused', leaveId, server, step, detail, at }];
    }
    case 'failed': {
      const type = outcome.step === 'make_leave' ? 'ResidentServerFailed' : 'SendOutcomeUnknown';
      return [{ type, leaveId, server, detail: outcome.detail, at }];
    }
    case 'signed': {
      // One at a time: a second event while the fate of the first is open would be a second leave. (LV-15)
      if (leave.signed !== undefined) {
        return { refused: 'leave-is-over', detail: `${leave.signed.eventId} is signed and not yet refused` };
      }
      const { eventId, roomVersion, json } = outcome.pdu;
      return [{ type: 'LeaveSigned', leaveId, server, eventId, roomVersion: roomVersion.id, pdu: json, at }];
    }
    case 'accepted':
      if (leave.status.kind === 'completed') return [];
      return [{ type: 'LeaveCompleted', leaveId, how: 'accepted', server, eventId: outcome.eventId, at }];
    default:
      return outcome satisfies never;
  }
}

/** The signed leave has had its time: nobody answers for it any more. */
export function abandonSigned(state: Leaving, leaveId: string, at: number): LeavingDecision {
  const leave = leaveUnderWay(state, leaveId);
  if (isLeavingRefusal(leave)) return leave;
  if (leave.signed === undefined) return [];
  return [{ type: 'SignedLeaveAbandoned', leaveId, eventId: leave.signed.eventId, at }];
}

/** Everybody was tried. */
export function finishRound(
  state: Leaving,
  leaveId: string,
  facts: { readonly now: number; readonly random: number; readonly bounds: RetryBounds },
): LeavingDecision {
  const leave = leaveUnderWay(state, leaveId);
  if (isLeavingRefusal(leave)) return leave;
  const after = afterRound(leave, facts);
  return after.again
    ? [{ type: 'RoundFailed', leaveId, nextAttemptAt: after.nextAttemptAt, at: facts.now }]
    : [{ type: 'LeaveRefused', leaveId, at: facts.now }];
}

/** An operator wants it tried now; a refused or cancelled leave goes on again. */
export function retryLeave(state: Leaving, leaveId: string, at: number): LeavingDecision {
  const leave = currentLeave(state, leaveId);
  if (isLeavingRefusal(leave)) return leave;
  if (leave.status.kind === 'completed') return [];
  if (leave.status.kind !== 'retrying' && state.invite !== undefined) {
    return { refused: 'leave-is-over', detail: 'the user was invited again since' };
  }
  return [{ type: 'LeaveRetried', leaveId, at }];
}

/** An operator wants nothing more sent. The user stays out. */
export function cancelLeave(state: Leaving, leaveId: string, at: number): LeavingDecision {
  const leave = currentLeave(state, leaveId);
  if (isLeavingRefusal(leave)) return leave;
  if (leave.status.kind !== 'retrying') return [];
  return [{ type: 'LeaveCancelled', leaveId, why: 'operator', at }];
}

/** What the runner does next for a leave. */
export type NextStep =
  /** Send the signed leave to these, in order, until one takes it. (LV-11, LV-15) */
  | { readonly step: 'send'; readonly servers: readonly ServerName[] }
  /** Ask these for a template, in order. */
  | { readonly step: 'ask'; readonly servers: readonly ServerName[] }
  | { readonly step: 'abandon-signed' }
  | { readonly step: 'finish-round' }
  | { readonly step: 'nothing' };

/** Decides from the facts alone, so that whoever takes over after a crash does the same. Pure. */
export function nextStep(leave: Leave | undefined, now: number): NextStep {
  if (leave?.status.kind !== 'retrying' || now < leave.status.nextAttemptAt) return { step: 'nothing' };
  const untried = leave.candidates.filter((server) => !leave.round.has(server));
  const { signed } = leave;
  if (signed === undefined) {
    return untried.length === 0 ? { step: 'finish-round' } : { step: 'ask', servers: untried };
  }
  if (now - signed.at >= signedLeaveLifeMs) return { step: 'abandon-signed' };
  const servers = [signed.server, ...untried.filter((server) => server !== signed.server)].filter(
    (server) => !leave.round.has(server) && !signed.refusedBy.has(server),
  );
  return servers.length === 0 ? { step: 'finish-round' } : { step: 'send', servers };
}

function begin(
  wish: Pick<RequestLeave, 'leaveId' | 'reason' | 'now' | 'traceparent'>,
  candidates: readonly ServerName[],
  roomVersions: readonly string[],
): LeaveHandshakeStarted {
  return {
    type: 'LeaveHandshakeStarted',
    leaveId: wish.leaveId,
    ...(wish.reason === undefined ? {} : { reason: wish.reason }),
    candidates,
    roomVersions,
    ...(wish.traceparent === undefined ? {} : { traceparent: wish.traceparent }),
    at: wish.now,
  };
}

function completed(wish: { readonly leaveId: string; readonly now: number }, how: Completion): LeavingEvent {
  return { type: 'LeaveCompleted', leaveId: wish.leaveId, how, at: wish.now };
}

function currentLeave(state: Leaving, leaveId: string): Leave | LeavingRefusal {
  return state.leave?.leaveId === leaveId
    ? state.leave
    : { refused: 'leave-is-over', detail: 'there is a newer leave of this user and room' };
}

function leaveUnderWay(state: Leaving, leaveId: string): Leave | LeavingRefusal {
  const leave = currentLeave(state, leaveId);
  if (isLeavingRefusal(leave) || leave.status.kind === 'retrying') return leave;
  return { refused: 'leave-is-over', detail: `the leave is ${leave.status.kind}` };
}
