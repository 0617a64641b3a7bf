import { Inject } from '@nestjs/common';
import { Query, QueryHandler, type IQueryHandler } from '@nestjs/cqrs';
import type { Leaving } from '@exeunt/leaving';
import type { RoomId, UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { inviteView, knockView, leaveView } from './leave-view.js';

/** Where a user of ours is, is asked to be, asks to be, and is leaving. */
export class Memberships extends Query<JsonObject> {
  constructor(readonly userId: UserId) {
    super();
  }
}

@QueryHandler(Memberships)
export class MembershipsHandler implements IQueryHandler<Memberships> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute({ userId }: Memberships): Promise<JsonObject> {
    const { leaving, localMemberships } = this.side;
    const here = await localMemberships.of(userId);
    const isHere = new Set(here.map(({ roomId }) => roomId));
    const waiting = async (
      roomIds: readonly RoomId[],
      view: (roomId: RoomId, state: Leaving) => JsonObject | undefined,
    ): Promise<readonly JsonObject[]> => {
      const views: JsonObject[] = [];
      for (const roomId of roomIds) {
        // In a room that we are in by now, the room itself knows better.
        if (isHere.has(roomId)) continue;
        const shown = view(roomId, (await leaving.store.load({ userId, roomId })).state);
        if (shown !== undefined) views.push(shown);
      }
      return views;
    };
    const invites = await waiting(await leaving.store.invitesOf(userId), inviteView);
    const knocks = await waiting(await leaving.store.knocksOf(userId), knockView);
    const leaves: JsonObject[] = [];
    for (const { leaveId, ...key } of await leaving.store.underWayOf(userId)) {
      leaves.push(leaveView(key, leaveId, (await leaving.store.load(key)).events));
    }
    const having = (membership: string): readonly JsonObject[] =>
      here
        .filter((one) => one.membership === membership)
        .map(({ roomId, roomVersion, sender, eventId, event }) => ({
          room_id: roomId,
          room_version: roomVersion,
          sender,
          event_id: eventId,
          event,
        }));
    return {
      joins: having('join'),
      invites: [...having('invite'), ...invites],
      knocks: [...having('knock'), ...knocks],
      leaves,
    };
  }
}
