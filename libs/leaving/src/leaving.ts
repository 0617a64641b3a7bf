import type { EventId, ServerName } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import type { InviteReceived, LeaveSigned, LeavingEvent } from './domain-events.js';

/** What one server has come to in the round under way. `later`: may fare better; `no`; `never`: can't. */
export type Verdict = 'later' | 'no' | 'never';

/** How a leave stands. */
export type LeaveStatus =
  | { readonly kind: 'retrying'; readonly nextAttemptAt: number }
  | { readonly kind: 'completed' }
  | { readonly kind: 'refused' }
  | { readonly kind: 'cancelled' };

/** The signed leave that is under way. */
export interface SignedLeave {
  readonly eventId: EventId;
  readonly roomVersion: string;
  readonly pdu: JsonObject;
  readonly server: ServerName;
  readonly at: number;
  /** Servers that won't take it, other than the one that gave the template. */
  readonly refusedBy: ReadonlySet<ServerName>;
}

/** A user's leave of the room, from the wish to its end. */
export interface Leave {
  readonly leaveId: string;
  readonly reason: string | undefined;
  readonly candidates: readonly ServerName[];
  readonly roomVersions: readonly string[];
  /** Of the request that wished it: what is done for the leave belongs to that trace, however much later. */
  readonly traceparent: string | undefined;
  readonly startedAt: number;
  readonly status: LeaveStatus;
  readonly signed: SignedLeave | undefined;
  /** What the servers that were tried in this round have come to. */
  readonly round: ReadonlyMap<ServerName, Verdict>;
  /** Rounds that failed in a row, and of those at the end that many in which everybody said no. */
  readonly failedRounds: number;
  readonly refusedRounds: number;
}

/** One user and one room, as this server knows them without being in the room: the fold of the stream. */
export interface Leaving {
  /** The invite that waits for the user. */
  readonly invite: InviteReceived | undefined;
  /** The newest invite, waiting or not: where a leave may be sent. */
  readonly lastInvite: InviteReceived | undefined;
  /** Content hashes of the invites there were, by ID: a repeat brings none of them back. */
  readonly invites: ReadonlyMap<EventId, string>;
  /** The newest leave. */
  readonly leave: Leave | undefined;
}

/** Nothing has happened yet. */
export const initialLeaving: Leaving = {
  invite: undefined,
  lastInvite: undefined,
  invites: new Map(),
  leave: undefined,
};

/** The state after one more fact. Pure. */
export function evolve(state: Leaving, event: LeavingEvent): Leaving {
  switch (event.type) {
    case 'InviteReceived':
      return {
        ...state,
        invite: event,
        lastInvite: event,
        invites: new Map(state.invites).set(event.eventId, contentHashOf(event.pdu)),
      };
    case 'InviteRetracted':
      return { ...state, invite: undefined };
    case 'LeaveHandshakeStarted':
      return {
        ...state,
        invite: undefined,
        leave: {
          leaveId: event.leaveId,
          reason: event.reason,
          candidates: event.candidates,
          roomVersions: event.roomVersions,
          traceparent: event.traceparent,
          startedAt: event.at,
          status: { kind: 'retrying', nextAttemptAt: event.at },
          signed: undefined,
          round: new Map(),
          failedRounds: 0,
          refusedRounds: 0,
        },
      };
    default:
      return state.leave === undefined || state.leave.leaveId !== event.leaveId
        ? state
        : { ...state, leave: evolveLeave(state.leave, event) };
  }
}

function evolveLeave(
  leave: Leave,
  event: Exclude<LeavingEvent, { type: 'InviteReceived' | 'InviteRetracted' | 'LeaveHandshakeStarted' }>,
): Leave {
  switch (event.type) {
    case 'TemplateRefused':
      return withVerdict(leave, event.server, event.isFinal ? 'never' : 'no');
    case 'ResidentServerFailed':
    case 'SendOutcomeUnknown':
      return withVerdict(leave, event.server, 'later');
    case 'ResidentServerRefused':
      return {
        ...withVerdict(leave, event.server, 'no'),
        signed: event.step === 'make_leave' ? leave.signed : refused(leave.signed, event.server),
      };
    case 'LeaveSigned':
      return { ...leave, signed: signed(event) };
    case 'SignedLeaveAbandoned':
      return { ...leave, signed: undefined };
    case 'RoundFailed': {
      const everybodySaysNo = [...leave.round.values()].every((verdict) => verdict !== 'later');
      return {
        ...leave,
        status: { kind: 'retrying', nextAttemptAt: event.nextAttemptAt },
        round: new Map(),
        failedRounds: leave.failedRounds + 1,
        refusedRounds: everybodySaysNo ? leave.refusedRounds + 1 : 0,
      };
    }
    case 'LeaveRetried':
      return {
        ...leave,
        status: { kind: 'retrying', nextAttemptAt: event.at },
        failedRounds: 0,
        refusedRounds: 0,
      };
    case 'LeaveCompleted':
      return { ...leave, status: { kind: 'completed' }, signed: undefined };
    case 'LeaveRefused':
      return { ...leave, status: { kind: 'refused' }, round: new Map() };
    case 'LeaveCancelled':
      return { ...leave, status: { kind: 'cancelled' } };
    default:
      return event satisfies never;
  }
}

function signed({ eventId, roomVersion, pdu, server, at }: LeaveSigned): SignedLeave {
  return { eventId, roomVersion, pdu, server, at, refusedBy: new Set() };
}

/**
 * A signed leave that a server has refused. The server that gave the template knows best: after its no the event is
 * gone, and a new template may be asked for. Another one may only lag behind. (LV-14)
 */
function refused(leave: SignedLeave | undefined, server: ServerName): SignedLeave | undefined {
  if (leave === undefined || leave.server === server) return undefined;
  return { ...leave, refusedBy: new Set(leave.refusedBy).add(server) };
}

function withVerdict(leave: Leave, server: ServerName, verdict: Verdict): Leave {
  return { ...leave, round: new Map(leave.round).set(server, verdict) };
}

/** What tells two invites under one ID apart in versions 1 and 2, where the ID is no hash. */
export function contentHashOf(pdu: JsonObject): string {
  return JSON.stringify(pdu['hashes'] ?? null);
}
