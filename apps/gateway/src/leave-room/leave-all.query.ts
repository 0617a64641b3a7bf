import { Inject } from '@nestjs/common';
import { Query, QueryHandler, type IQueryHandler } from '@nestjs/cqrs';
import type { LeaveAllCounts, LeaveAllRun, OpenRoom } from '@exeunt/leaving';
import type { RoomId, UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { lastWords } from './leave-view.js';

/** How the user's newest run stands, with a page of the rooms that are not over and done with; undefined without one. */
export class LeaveAllStanding extends Query<JsonObject | undefined> {
  constructor(
    readonly userId: UserId,
    readonly page: { readonly after: RoomId | undefined; readonly limit: number },
  ) {
    super();
  }
}

@QueryHandler(LeaveAllStanding)
export class LeaveAllStandingHandler implements IQueryHandler<LeaveAllStanding> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute({ userId, page }: LeaveAllStanding): Promise<JsonObject | undefined> {
    const { store } = this.side.leaveAll;
    const run = await store.newestOf(userId);
    if (run === undefined) return undefined;
    const open = await store.openRoomsOf(run, page);
    const rooms: JsonObject[] = [];
    for (const room of open) rooms.push(await this.view(userId, room));
    const next = open.length === page.limit ? open.at(-1)?.roomId : undefined;
    return {
      ...runView(run, await store.countsOf(run)),
      rooms,
      ...(next === undefined ? {} : { next }),
    };
  }

  private async view(userId: UserId, room: OpenRoom): Promise<JsonObject> {
    const { roomId, membership, status, leaveId, nextAttemptAt, said } = room;
    const servers =
      leaveId === undefined || status === 'waiting'
        ? []
        : lastWords((await this.side.leaving.store.load({ userId, roomId })).events, leaveId);
    return {
      room_id: roomId,
      membership,
      status,
      ...(leaveId === undefined ? {} : { leave_id: leaveId }),
      ...(nextAttemptAt === undefined ? {} : { next_attempt_at: nextAttemptAt }),
      ...(said?.rule === undefined ? {} : { rule: said.rule }),
      ...(said === undefined ? {} : { error: said.detail }),
      servers,
    };
  }
}

/** A run as the platform sees it. */
export function runView(run: LeaveAllRun, counts: LeaveAllCounts): JsonObject {
  return {
    leave_all_id: run.leaveAllId,
    user_id: run.userId,
    status: run.status,
    include: run.include,
    ...(run.reason === undefined ? {} : { reason: run.reason }),
    started_at: run.startedAt,
    ...(run.completedAt === undefined ? {} : { completed_at: run.completedAt }),
    ...counts,
  };
}
