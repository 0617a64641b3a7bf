import { Inject } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import type { EventId, RoomId } from '@exeunt/pdu';
import { type Refusal, type Room } from '@exeunt/room';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { makingOf, sayLocally, type LocalWish } from './local-event.js';

/** A local user sends a state event: settings of the room, a kick, a ban, an invite of another local user. */
export class SendState extends Command<EventId | Refusal> {
  constructor(
    readonly roomId: RoomId,
    readonly wish: LocalWish & { readonly stateKey: string },
  ) {
    super();
  }
}

@CommandHandler(SendState)
export class SendStateHandler implements ICommandHandler<SendState> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute({ roomId, wish }: SendState): Promise<EventId | Refusal> {
    const making = makingOf(this.side);
    let eventId: EventId | undefined;
    const { refusal } = await this.side.rooms.execute(roomId, (room) => {
      const absent = checkIsKnown(room, this.side);
      if (absent !== undefined) return { domainEvents: [], broadcasts: [], refusal: absent };
      const decision = sayLocally(room, wish, making, this.side);
      eventId = decision.pdu?.eventId;
      return decision;
    });
    if (refusal !== undefined) return refusal;
    if (eventId === undefined) throw new Error('a state event was accepted that was never made');
    return eventId;
  }
}

/** Whether the room is one that a local user can act in at all. */
export function checkIsKnown(room: Room, { ourName }: FederationSide): Refusal | undefined {
  if (room.isKnown) {
    room.require({ residents: [ourName] });
    if (room.joinedMembersOf(ourName) > 0) return undefined;
  }
  return { refused: 'not-resident', rule: 'ML-16', detail: 'no user of this server is joined to the room' };
}
