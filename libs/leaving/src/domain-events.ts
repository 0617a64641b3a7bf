import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';

/** Which stream: one user and one room that this server is not in. */
export interface LeavingKey {
  readonly userId: UserId;
  readonly roomId: RoomId;
}

/** Our user was invited; all that the leaving side will ever know of the room. (IN-09) */
export interface InviteReceived {
  readonly type: 'InviteReceived';
  readonly eventId: EventId;
  readonly sender: UserId;
  /** The server that handed it in, which is the sender's. */
  readonly origin: ServerName;
  readonly roomVersion: string;
  /** False where the invite came by v1, which names no version: then it is 1 or 2. (IN-02) */
  readonly isVersionStated: boolean;
  /** With our signature on it, without `unsigned`. */
  readonly pdu: JsonObject;
  /** As it was sent, within bounds. (IN-07) */
  readonly inviteRoomState: readonly JsonObject[];
  /** Ms since the epoch, as every `at` here. */
  readonly at: number;
}

/** Somebody in the room took the invite back, or banned the user. */
export interface InviteRetracted {
  readonly type: 'InviteRetracted';
  /** Of the leave or ban. */
  readonly eventId: EventId;
  readonly sender: UserId;
  readonly origin: ServerName;
  readonly pdu: JsonObject;
  readonly at: number;
}

/** The user is out from here on; what follows tells the room. Retires the invite. (LV-17) */
export interface LeaveHandshakeStarted {
  readonly type: 'LeaveHandshakeStarted';
  readonly leaveId: string;
  readonly reason?: string;
  /** Servers to ask, in order. Empty where there was nothing to tell anybody. (LV-03) */
  readonly candidates: readonly ServerName[];
  /** What a template may say its room version is; empty where we don't know. (LV-05) */
  readonly roomVersions: readonly string[];
  /** Of the request that wished it, as W3C writes it; absent where that was not traced, and before there were traces. */
  readonly traceparent?: string;
  readonly at: number;
}

/** A resident server gave a template that we don't sign. (LV-04, LV-05, LV-09) */
export interface TemplateRefused {
  readonly type: 'TemplateRefused';
  readonly leaveId: string;
  readonly server: ServerName;
  readonly rule: string;
  readonly detail: string;
  /** True where no later template of that room can do either: its version is not known here. */
  readonly isFinal: boolean;
  readonly at: number;
}

/** Which request of the handshake. */
export type HandshakeStep = 'make_leave' | 'send_leave';

/** A server understood and said no. (LV-14) */
export interface ResidentServerRefused {
  readonly type: 'ResidentServerRefused';
  readonly leaveId: string;
  readonly server: ServerName;
  readonly step: HandshakeStep;
  /** Status, errcode and words of the server. */
  readonly detail: string;
  readonly at: number;
}

/** A server gave no template for a reason that may pass: not reached, out of time, broken. */
export interface ResidentServerFailed {
  readonly type: 'ResidentServerFailed';
  readonly leaveId: string;
  readonly server: ServerName;
  readonly detail: string;
  readonly at: number;
}

/** The leave as it will go out, durable before it does. (LV-15) */
export interface LeaveSigned {
  readonly type: 'LeaveSigned';
  readonly leaveId: string;
  /** That gave the template, and is asked first. (LV-11) */
  readonly server: ServerName;
  readonly eventId: EventId;
  readonly roomVersion: string;
  readonly pdu: JsonObject;
  readonly at: number;
}

/** The signed leave was sent, and whether it was taken is not known: it is repeated as it is. (LV-15) */
export interface SendOutcomeUnknown {
  readonly type: 'SendOutcomeUnknown';
  readonly leaveId: string;
  readonly server: ServerName;
  readonly detail: string;
  readonly at: number;
}

/** Nobody has taken the signed leave for so long that it counts as lost; the next template may be another's. */
export interface SignedLeaveAbandoned {
  readonly type: 'SignedLeaveAbandoned';
  readonly leaveId: string;
  readonly eventId: EventId;
  readonly at: number;
}

/** Every candidate was tried; they are tried again at `nextAttemptAt`. */
export interface RoundFailed {
  readonly type: 'RoundFailed';
  readonly leaveId: string;
  readonly nextAttemptAt: number;
  readonly at: number;
}

/** An operator wants the leave tried now. */
export interface LeaveRetried {
  readonly type: 'LeaveRetried';
  readonly leaveId: string;
  readonly at: number;
}

/** How it came that the room knows the user is out, or need not be told. */
export type Completion =
  /** A resident server took our event. */
  | 'accepted'
  /** This server is in the room and decided it. */
  | 'decided-here'
  /** The user was out already. */
  | 'already-out'
  /** Somebody in the room took the invite back meanwhile. */
  | 'retracted';

/** The leave is done. */
export interface LeaveCompleted {
  readonly type: 'LeaveCompleted';
  readonly leaveId: string;
  readonly how: Completion;
  readonly server?: ServerName;
  readonly eventId?: EventId;
  readonly at: number;
}

/** Every candidate refuses, again and again: nothing more is tried. The user stays out here. */
export interface LeaveRefused {
  readonly type: 'LeaveRefused';
  readonly leaveId: string;
  readonly at: number;
}

/** Nothing more is tried, by an operator's wish or because the user was invited anew. */
export interface LeaveCancelled {
  readonly type: 'LeaveCancelled';
  readonly leaveId: string;
  readonly why: 'operator' | 'invited-again';
  readonly at: number;
}

/** The facts that a stream is made of. */
export type LeavingEvent =
  | InviteReceived
  | InviteRetracted
  | LeaveHandshakeStarted
  | TemplateRefused
  | ResidentServerRefused
  | ResidentServerFailed
  | LeaveSigned
  | SendOutcomeUnknown
  | SignedLeaveAbandoned
  | RoundFailed
  | LeaveRetried
  | LeaveCompleted
  | LeaveRefused
  | LeaveCancelled;
