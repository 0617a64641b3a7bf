import { Inject } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import { isPduFault, parsePdu, serverNameOf, signPdu, type Pdu, type RoomId, type UserId } from '@exeunt/pdu';
import { beginRoom, isRefusal, placeCreate, type Decision, type Refusal, type Room } from '@exeunt/room';
import type { RoomVersion } from '@exeunt/room-version';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { makingOf, sayLocally, type LocalWish } from './local-event.js';

/** What a new room is given besides its creator. */
export interface RoomSettings {
  readonly joinRule: string;
  /** Replaces the default levels as a whole. */
  readonly powerLevels: JsonObject | undefined;
  readonly serverAcl: JsonObject | undefined;
}

/** A local user makes a room; all of its first events become durable together, or none. */
export class CreateRoom extends Command<RoomId | Refusal> {
  constructor(
    readonly version: RoomVersion,
    readonly creator: UserId,
    readonly settings: RoomSettings,
  ) {
    super();
  }
}

/** Ends the command so that nothing of the room is kept. */
class RoomRefused extends Error {
  constructor(readonly refusal: Refusal) {
    super(refusal.detail);
  }
}

/** In version 12 the create event's hash is the room's ID: two rooms made alike in one millisecond are one. */
class RoomTaken extends Error {}

@CommandHandler(CreateRoom)
export class CreateRoomHandler implements ICommandHandler<CreateRoom> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute(command: CreateRoom): Promise<RoomId | Refusal> {
    const { creator } = command;
    const { ourName } = this.side;
    if (serverNameOf(creator) !== ourName) {
      return { refused: 'user-not-local', rule: 'SG-08', detail: `${creator} is not a user of ${ourName}` };
    }
    for (let createdAt = this.side.now(); ; createdAt++) {
      try {
        return await this.create(command, createdAt);
      } catch (thrown) {
        if (thrown instanceof RoomRefused) return thrown.refusal;
        if (!(thrown instanceof RoomTaken)) throw thrown;
      }
    }
  }

  private async create({ version, creator, settings }: CreateRoom, createdAt: number): Promise<RoomId> {
    const { ourName } = this.side;
    const create = this.createEvent(version, creator, createdAt);
    await this.side.rooms.executeAll(create.roomId, [
      (room) => {
        if (room.isKnown) throw new RoomTaken(create.roomId);
        const begun = beginRoom(create, create.roomId, 'creation');
        if (isRefusal(begun)) throw new RoomRefused(begun);
        return { domainEvents: [begun], broadcasts: [] };
      },
      (room) => ({
        domainEvents: [placeCreate(room, create, { origin: ourName, ourName, now: createdAt })],
        broadcasts: [],
      }),
      ...firstWishes(version, creator, settings).map((wish) => {
        const making = makingOf(this.side);
        return (room: Room): Decision => {
          const decision = sayLocally(room, wish, making, this.side);
          if (decision.refusal !== undefined) throw new RoomRefused(decision.refusal);
          return decision;
        };
      }),
    ]);
    return create.roomId;
  }

  private createEvent(version: RoomVersion, creator: UserId, createdAt: number): Pdu {
    const { ourName, signingKey, randomId } = this.side;
    const json: JsonObject = {
      auth_events: [],
      content: { room_version: version.id, ...(version.createHasCreator ? { creator } : {}) },
      depth: 1,
      ...(version.redactsInContent ? {} : { origin: ourName }),
      origin_server_ts: createdAt,
      prev_events: [],
      sender: creator,
      state_key: '',
      type: 'm.room.create',
      ...(version.roomIdFormat === 'domain' ? { room_id: `!${randomId()}:${ourName}` } : {}),
      ...(version.eventIdFormat === 'opaque-in-pdu' ? { event_id: `$${randomId()}:${ourName}` } : {}),
    };
    const pdu = parsePdu(signPdu(json, version, ourName, signingKey), version);
    if (isPduFault(pdu)) {
      throw new RoomRefused({ refused: 'bad-format', rule: pdu.rule, detail: pdu.detail });
    }
    return pdu;
  }
}

function firstWishes(
  version: RoomVersion,
  creator: UserId,
  { joinRule, powerLevels, serverAcl }: RoomSettings,
): readonly LocalWish[] {
  // Creators of version 12 have infinite power and must not be listed. (AU-31)
  const levels: JsonObject = powerLevels ?? {
    users: version.privilegedCreators ? {} : { [creator]: 100 },
    users_default: 0,
    events: {},
    events_default: 0,
    state_default: 50,
    ban: 50,
    kick: 50,
    redact: 50,
    invite: 0,
  };
  const state = (type: string, content: JsonObject): LocalWish => ({
    type,
    sender: creator,
    stateKey: '',
    content,
  });
  return [
    { type: 'm.room.member', sender: creator, stateKey: creator, content: { membership: 'join' } },
    state('m.room.power_levels', levels),
    state('m.room.join_rules', { join_rule: joinRule }),
    state('m.room.history_visibility', { history_visibility: 'shared' }),
    ...(serverAcl === undefined ? [] : [state('m.room.server_acl', serverAcl)]),
  ];
}
