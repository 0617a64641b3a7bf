import { Inject } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import type { LeaveAllRun, MembershipToLeave } from '@exeunt/leaving';
import type { UserId } from '@exeunt/pdu';
import type { Refusal } from '@exeunt/room';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { checkIsOurs, checkReason } from './leave-room.command.js';

/** A user of ours is to be taken out of every room: an account that is closed, or moves house. */
export class LeaveAll extends Command<LeaveAllRun | Refusal> {
  constructor(
    readonly userId: UserId,
    readonly reason: string | undefined,
    /** What of the user's memberships is to end. */
    readonly include: readonly MembershipToLeave[],
  ) {
    super();
  }
}

/**
 * Begins a run, durable when this resolves, with the rooms that the user is in now; or gives the one that is running,
 * whatever it was begun with. The leaving itself goes on behind.
 */
@CommandHandler(LeaveAll)
export class LeaveAllHandler implements ICommandHandler<LeaveAll> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute({ userId, reason, include }: LeaveAll): Promise<LeaveAllRun | Refusal> {
    const { leaveAll, ourName, now, randomId } = this.side;
    const refusal = checkIsOurs(userId, ourName) ?? checkReason(reason);
    if (refusal !== undefined) return refusal;
    const leaveAllId = randomId();
    const run = await leaveAll.store.begin({ userId, leaveAllId, reason, include, now: now() });
    // Should this end here, the runner looks the rooms through instead.
    if (run.leaveAllId === leaveAllId) await leaveAll.runner.sweep(run);
    return (await leaveAll.store.newestOf(userId)) ?? run;
  }
}
