import { Inject } from '@nestjs/common';
import { Query, QueryHandler, type IQueryHandler } from '@nestjs/cqrs';
import { memberships, type MembershipToLeave } from '@exeunt/leaving';
import type { RoomId, UserId } from '@exeunt/pdu';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { inviteView, knockView, leaveView } from './leave-view.js';
import type { LocalMembership } from './local-memberships.js';

/** A room that a user of ours is in, is asked to be in, or asks to be in. */
export interface RoomOfUser {
  readonly roomId: RoomId;
  readonly membership: MembershipToLeave;
  /** The member event, where this server is in the room; else all that is known is in the user's leaving stream. */
  readonly here: LocalMembership | undefined;
}

/** Member events that are held at a time. */
const pageSize = 200;

/**
 * Every room that there is for the user to leave: those that this server is in, then those it is not in. Holds a page
 * of them at a time, however many there are. Each room comes once, unless the user moves on meanwhile.
 */
export async function* roomsOf(
  { leaving, localMemberships }: Pick<FederationSide, 'leaving' | 'localMemberships'>,
  userId: UserId,
): AsyncGenerator<RoomOfUser> {
  const isHere = new Set<RoomId>();
  for (let after: RoomId | undefined; ;) {
    const page = await localMemberships.page(userId, { after, limit: pageSize });
    for (const here of page) {
      const { roomId } = here;
      isHere.add(roomId);
      const membership = memberships.find((one) => one === here.membership);
      if (membership !== undefined) yield { roomId, membership, here };
    }
    after = page.at(-1)?.roomId;
    if (page.length < pageSize) break;
  }
  // In a room that we are in by now, the room itself knows better.
  for (const roomId of await leaving.store.invitesOf(userId)) {
    if (!isHere.has(roomId)) yield { roomId, membership: 'invite', here: undefined };
  }
  for (const roomId of await leaving.store.knocksOf(userId)) {
    if (!isHere.has(roomId)) yield { roomId, membership: 'knock', here: undefined };
  }
}

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
    const { leaving } = this.side;
    const rooms: Record<MembershipToLeave, JsonObject[]> = { join: [], invite: [], knock: [] };
    for await (const { roomId, membership, here } of roomsOf(this.side, userId)) {
      if (here !== undefined) {
        rooms[membership].push(localView(here));
        continue;
      }
      const { state } = await leaving.store.load({ userId, roomId });
      const shown = membership === 'knock' ? knockView(roomId, state) : inviteView(roomId, state);
      if (shown !== undefined) rooms[membership].push(shown);
    }
    const leaves: JsonObject[] = [];
    for (const { leaveId, ...key } of await leaving.store.underWayOf(userId)) {
      leaves.push(leaveView(key, leaveId, (await leaving.store.load(key)).events));
    }
    return { joins: rooms.join, invites: rooms.invite, knocks: rooms.knock, leaves };
  }
}

function localView({ roomId, roomVersion, sender, eventId, event }: LocalMembership): JsonObject {
  return { room_id: roomId, room_version: roomVersion, sender, event_id: eventId, event };
}
