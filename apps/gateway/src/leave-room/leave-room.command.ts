import { Inject } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import { recordLocalLeave, requestLeave } from '@exeunt/leaving';
import { serverNameOf, type EventId, type RoomId, type ServerName, type UserId } from '@exeunt/pdu';
import { isRefusal, type Refusal, type Room } from '@exeunt/room';
import { currentTraceparent } from '@exeunt/tracing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { makingOf, sayLocally } from '../rooms/local-event.js';
import { checkIsKnown } from '../rooms/send-state.command.js';
import { logLeave } from '../send-leave/leave-log.js';

/** A user of ours wants out of a room: leaves it, rejects its invite, retracts a knock. Gives the leave's ID. */
export class LeaveRoom extends Command<string | Refusal> {
  constructor(
    readonly userId: UserId,
    readonly roomId: RoomId,
    readonly reason: string | undefined,
    /** Servers that the caller thinks are in the room. */
    readonly via: readonly ServerName[],
    /** False: the answer does not wait for what the room's servers say. */
    readonly waits = true,
  ) {
    super();
  }
}

/** A reason that would leave too little of the event's 64 KiB for the rest of it. */
const maxReasonBytes = 32_768;

/** What this server, being in the room, made of the wish. */
type Local =
  | { readonly kind: 'not-resident' }
  | { readonly kind: 'left'; readonly eventId: EventId }
  | { readonly kind: 'already-out' };

/**
 * Decided here where we are in the room; else the user is out at once, and the handshake goes on behind. Resolves
 * when its first round is over, or after the deadline. To be out already is a success. (LV-01, LV-17, LV-18)
 */
@CommandHandler(LeaveRoom)
export class LeaveRoomHandler implements ICommandHandler<LeaveRoom> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute(command: LeaveRoom): Promise<string | Refusal> {
    const { ourName, log } = this.side;
    const { userId, roomId, reason } = command;
    const foreign = checkIsOurs(userId, ourName);
    if (foreign !== undefined) return foreign;
    const tooLong = checkReason(reason);
    if (tooLong !== undefined) return tooLong;
    const local = await this.leaveHere(command);
    if (isRefusal(local)) {
      logLeave(log, { roomId, origin: ourName }, local);
      return local;
    }
    if (local.kind === 'left') logLeave(log, { roomId, eventId: local.eventId, origin: ourName });
    return local.kind === 'not-resident' ? this.leaveFromAfar(command) : this.record(command, local);
  }

  private async leaveHere({ userId, roomId, reason }: LeaveRoom): Promise<Local | Refusal> {
    const { rooms } = this.side;
    const making = makingOf(this.side);
    let local: Local = { kind: 'not-resident' };
    const { refusal } = await rooms.execute(roomId, (room) => {
      const nothing = { domainEvents: [], broadcasts: [] };
      local = { kind: 'not-resident' };
      if (checkIsKnown(room, this.side) !== undefined) return nothing;
      if (isOut(room, userId)) {
        local = { kind: 'already-out' };
        return nothing;
      }
      const content = { membership: 'leave', ...(reason === undefined ? {} : { reason }) };
      const wish = { type: 'm.room.member', sender: userId, stateKey: userId, content };
      const decision = sayLocally(room, wish, making, this.side);
      if (decision.pdu !== undefined) local = { kind: 'left', eventId: decision.pdu.eventId };
      return decision;
    });
    return refusal ?? local;
  }

  /** After the room's log, so that a crash in between leaves a leave without a record and not the reverse. */
  private async record({ userId, roomId, reason }: LeaveRoom, local: Local): Promise<string> {
    const { leaving, ourName, now, randomId } = this.side;
    const { state } = await leaving.store.execute({ userId, roomId }, (state) =>
      recordLocalLeave(state, {
        leaveId: randomId(),
        reason,
        ourName,
        now: now(),
        ...(local.kind === 'left' ? { eventId: local.eventId } : {}),
      }),
    );
    return state.leave!.leaveId;
  }

  private async leaveFromAfar({ userId, roomId, reason, via, waits }: LeaveRoom): Promise<string> {
    const { leaving, ourName, now, randomId, log } = this.side;
    const leaveId = randomId();
    // Before it begins, or its first round might be over before anybody looks.
    const first = leaving.runner.follow(leaveId, waits ? leaving.deadlineMs : 0);
    const { state } = await leaving.store
      .execute({ userId, roomId }, (state) =>
        requestLeave(state, {
          leaveId,
          reason,
          via,
          ourName,
          now: now(),
          traceparent: currentTraceparent(),
        }),
      )
      .catch((cause: unknown) => {
        first.giveUp();
        throw cause;
      });
    const leave = state.leave!;
    const isNew = leave.leaveId === leaveId;
    log.info(
      { leave_id: leave.leaveId, room_id: roomId, candidates: leave.candidates },
      isNew ? 'leave begun' : 'leave known already',
    );
    // One that was under way before is not waited for again; its next attempt may be hours off.
    if (!waits || !isNew || leave.status.kind !== 'retrying') first.giveUp();
    await first.ended;
    return leave.leaveId;
  }
}

/** Whether we may speak for the user. (LV-18) */
export function checkIsOurs(userId: UserId, ourName: ServerName): Refusal | undefined {
  if (serverNameOf(userId) === ourName) return undefined;
  return { refused: 'user-not-local', rule: 'LV-18', detail: `${userId} is not a user of ${ourName}` };
}

/** Whether a leave has room for its reason. (EV-07) */
export function checkReason(reason: string | undefined): Refusal | undefined {
  if (reason === undefined || Buffer.byteLength(reason) <= maxReasonBytes) return undefined;
  return { refused: 'too-large', rule: 'EV-07', detail: `reason has more than ${maxReasonBytes} bytes` };
}

function isOut(room: Room, userId: UserId): boolean {
  const membership = room.membership(room.currentState(), userId);
  return membership !== 'join' && membership !== 'invite' && membership !== 'knock';
}
