import { createHash, randomBytes, randomInt } from 'node:crypto';
import {
  addSignature,
  isPduFault,
  parsePdu,
  parseUserId,
  serverNameOf,
  signPdu,
  type Pdu,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import {
  acceptPdu,
  beginRoom,
  draftEvent,
  evolve,
  initialRoom,
  isRefusal,
  placeCreate,
  type Decision,
  type DomainEvent,
  type Room,
} from '@exeunt/room';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { isJsonObject, withKeys, type JsonObject, type SigningKey } from '@exeunt/signing';

/** A server that signs events in a built room. */
export interface BuilderServer {
  readonly name: ServerName;
  readonly key: SigningKey;
}

/** A server that exists on paper alone. Its key follows from its name, so that a room can be built twice alike. */
export function paperServer(name: string): BuilderServer {
  const seed = createHash('sha256').update(name).digest();
  return { name: name as ServerName, key: { keyId: 'ed25519:paper', seed } };
}

/** What somebody says in a built room. */
export interface Saying {
  readonly sender: string;
  readonly type?: string;
  readonly stateKey?: string;
  readonly content: JsonObject;
  /** Ms since the epoch; a millisecond after the event before, unless told. */
  readonly ts?: number;
  /** Replaces what the draft says, before it is signed: parents, depth, anything. */
  readonly changes?: JsonObject;
}

/**
 * A room grown event by event, each hashed, signed by its sender's server and accepted by the rules: what a test or a
 * benchmark imports, or decides on. People are `@name:server`.
 */
export class RoomBuilder {
  readonly version: RoomVersion;
  /** The fold of {@link domainEvents}. */
  readonly room: Room = initialRoom();
  readonly domainEvents: DomainEvent[] = [];
  readonly pdus: Pdu[] = [];
  readonly #servers: ReadonlyMap<string, BuilderServer>;
  readonly #ourName: ServerName;
  readonly #nextName: () => string;
  #now: number;

  /** The room is made by `creator`, who joins it; the server of `creator` decides, as ours would. */
  constructor(options: {
    readonly version: string;
    readonly servers: readonly BuilderServer[];
    readonly creator: string;
    readonly joinRule?: string;
    readonly powerLevels?: JsonObject;
    readonly startTs?: number;
    /** Goes into the create event's content. */
    readonly createContent?: JsonObject;
    /** False leaves `room_version` out of the create event. */
    readonly namesVersion?: boolean;
    /** Names the room and, in versions 1 and 2, its events; random unless told. */
    readonly nextName?: () => string;
  }) {
    this.version = roomVersion(options.version)!;
    this.#servers = new Map(options.servers.map((server) => [server.name, server]));
    const creator = options.creator as UserId;
    this.#ourName = serverNameOf(creator);
    // In version 12 two rooms that somebody makes in one millisecond are one.
    this.#now = options.startTs ?? Date.now() - 86_400_000 - randomInt(10_000_000);
    this.#nextName = options.nextName ?? (() => randomBytes(12).toString('base64url'));
    const create = this.#sign(
      {
        auth_events: [],
        content: {
          ...(options.namesVersion === false ? {} : { room_version: options.version }),
          ...(this.version.createHasCreator ? { creator } : {}),
          ...options.createContent,
        },
        depth: 1,
        origin_server_ts: this.#now,
        prev_events: [],
        sender: creator,
        state_key: '',
        type: 'm.room.create',
        ...(this.version.roomIdFormat === 'domain'
          ? { room_id: `!${this.#nextName()}:${this.#ourName}` }
          : {}),
      },
      creator,
    );
    const begun = beginRoom(create, create.roomId, 'creation');
    if (isRefusal(begun)) throw new Error(begun.detail);
    this.#take([begun]);
    const context = { origin: this.#ourName, ourName: this.#ourName, now: this.#now };
    this.#take([placeCreate(this.room, create, context)]);
    this.pdus.push(create);
    this.member(creator, 'join');
    this.say({
      sender: creator,
      type: 'm.room.power_levels',
      stateKey: '',
      content: options.powerLevels ?? { users: this.version.privilegedCreators ? {} : { [creator]: 100 } },
    });
    this.say({
      sender: creator,
      type: 'm.room.join_rules',
      stateKey: '',
      content: { join_rule: options.joinRule ?? 'public' },
    });
  }

  get roomId(): RoomId {
    return this.room.id;
  }

  /** A user changes their own membership, or `sender` changes it. */
  member(userId: string, membership: string, sender = userId, more: Partial<Saying> = {}): Pdu {
    return this.say({ sender, type: 'm.room.member', stateKey: userId, content: { membership }, ...more });
  }

  /** Makes the event and has it accepted; fails where the rules refuse it. */
  say(saying: Saying): Pdu {
    const pdu = this.make(saying);
    const { refusal } = this.receive(pdu);
    if (refusal !== undefined) throw new Error(`${refusal.rule}: ${refusal.detail}`);
    this.pdus.push(pdu);
    return pdu;
  }

  /** The signed event, without the room's taking it. */
  make(saying: Saying): Pdu {
    const sender = saying.sender as UserId;
    this.#now = saying.ts ?? this.#now + 1;
    const draft = draftEvent(this.room, {
      type: saying.type ?? 'm.room.message',
      sender,
      ...(saying.stateKey === undefined ? {} : { stateKey: saying.stateKey }),
      content: saying.content,
      originServerTs: this.#now,
      origin: serverNameOf(sender),
    });
    return this.#sign(withKeys(draft, saying.changes ?? {}), sender);
  }

  /** Decides on a PDU and takes in what follows. */
  receive(pdu: Pdu, against: 'history' | 'current-state' = 'current-state'): Decision {
    const decision = acceptPdu(this.room, {
      pdu,
      origin: serverNameOf(pdu.sender),
      ourName: this.#ourName,
      now: this.#now,
      against,
    });
    this.#take(decision.domainEvents);
    return decision;
  }

  #take(domainEvents: readonly DomainEvent[]): void {
    for (const domainEvent of domainEvents) evolve(this.room, domainEvent);
    this.domainEvents.push(...domainEvents);
  }

  #sign(json: JsonObject, sender: UserId): Pdu {
    const server = this.#servers.get(serverNameOf(sender));
    if (server === undefined) throw new Error(`nobody signs for ${sender}`);
    const withId =
      this.version.eventIdFormat === 'opaque-in-pdu' && json['event_id'] === undefined
        ? withKeys(json, { event_id: `$${this.#nextName()}:${server.name}` })
        : json;
    const signed = signPdu(withId, this.version, server.name, server.key);
    const invited = this.#inviteeServer(withId);
    const pdu = parsePdu(
      invited === undefined ? signed : addSignature(signed, this.version, invited.name, invited.key),
      this.version,
    );
    if (isPduFault(pdu)) throw new Error(`${pdu.rule}: ${pdu.detail}`);
    return pdu;
  }

  /** The invited user's server, where it is one of the room's: it signs an invite as well. (IN-01) */
  #inviteeServer({ content, state_key: target }: JsonObject): BuilderServer | undefined {
    const isInvite = isJsonObject(content) && content['membership'] === 'invite';
    const userId = isInvite && typeof target === 'string' ? parseUserId(target) : undefined;
    return userId === undefined ? undefined : this.#servers.get(serverNameOf(userId));
  }
}
