import { Inject } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import { isPduFault, parseEventId, parsePdu, type EventId, type Pdu, type RoomId } from '@exeunt/pdu';
import {
  beginRoom,
  ingestOutlier,
  ingestPdu,
  inOrderOfReferences,
  isRefusal,
  placeCreate,
  placeSnapshot,
  type Decision,
  type IngestContext,
  type Refusal,
  type Room,
} from '@exeunt/room';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { isJsonObject, JsonNumber, memberOf, type JsonObject, type JsonValue } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { MatrixError } from '../matrix-error/matrix-error.js';
import { optionalList, requiredString } from '../platform-request/platform-body.js';
import {
  checkOnReceipt,
  isInLog,
  learnKeys,
  notTaken,
  ofOneRoom,
  type KeyPatience,
  type NotTaken,
  type Receipt,
} from './receipt.js';

/** A room as it is handed over. */
export interface RoomToImport {
  readonly version: RoomVersion;
  readonly serverKeys: readonly JsonValue[];
  readonly content:
    | { readonly kind: 'graph'; readonly events: readonly JsonObject[] }
    | {
        readonly kind: 'snapshot';
        readonly state: readonly JsonObject[];
        readonly authChain: readonly JsonObject[];
        readonly forwardExtremities: readonly EventId[];
        readonly depth: number;
      };
}

/** What became of an import. Events that were known before count among the accepted. */
export interface ImportReport {
  readonly room_id: RoomId;
  readonly accepted: number;
  readonly rejected: readonly NotTaken[];
}

/** What was taken over, and of what was rejected that of which the room's log has no trace. */
export interface TakenRoom {
  readonly report: ImportReport;
  readonly lost: readonly NotTaken[];
}

/** Takes over a room: a whole graph in any order, or the state at one point of it. */
export class ImportRoom extends Command<ImportReport | Refusal> {
  constructor(readonly room: RoomToImport) {
    super();
  }
}

@CommandHandler(ImportRoom)
export class ImportRoomHandler implements ICommandHandler<ImportRoom> {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  async execute({ room }: ImportRoom): Promise<ImportReport | Refusal> {
    const taken = await takeRoom(this.side, room, await receiveRoom(this.side, room));
    return isRefusal(taken) ? taken : taken.report;
  }
}

/** The checks of a room's PDUs that need no room; see {@link checkOnReceipt}. */
export async function receiveRoom(
  side: FederationSide,
  { serverKeys, content, version }: RoomToImport,
  patience?: KeyPatience,
): Promise<Receipt> {
  await learnKeys(side, serverKeys);
  const jsons = content.kind === 'graph' ? content.events : [...content.state, ...content.authChain];
  return checkOnReceipt(side, jsons, version, patience);
}

/**
 * Takes over a room with the PDUs that passed. Throws {@link MatrixError} where the create event is not one to begin
 * with.
 */
export async function takeRoom(
  side: FederationSide,
  { content, version }: RoomToImport,
  { passed, dropped }: Receipt,
): Promise<TakenRoom | Refusal> {
  const lost: NotTaken[] = [...dropped];
  const logged: NotTaken[] = [];
  const create = createIn([...passed.values()]);
  if (create === undefined) {
    return {
      refused: 'bad-format',
      rule: 'AE-04',
      detail: 'there is no m.room.create event that can be accepted',
    };
  }
  // A create event that names no version makes a room of version 1. (RV-02)
  const named = memberOf(create.content, 'room_version') ?? '1';
  if (named !== version.id) {
    return {
      refused: 'wrong-parameter',
      rule: 'RV-02',
      detail: 'the create event names another room version',
    };
  }
  const ordered = inOrderOfReferences(ofOneRoom(passed.values(), create.roomId, lost)).filter(
    (pdu) => pdu !== create,
  );
  const { ourName } = side;
  const context: IngestContext = { origin: ourName, ourName, now: side.now() };
  const begin = beginning(create, content.kind, context);
  const steps =
    content.kind === 'graph'
      ? [...begin, ...ordered.map((pdu) => (one: Room) => ingestPdu(one, pdu, context))]
      : snapshotSteps(begin, create, ordered, content, version, context);
  if ('refused' in steps) return steps;

  const decisions = await side.rooms.executeAll(create.roomId, steps);
  const judged = [create, ...ordered];
  let accepted = 0;
  // The first decision begins the room; then comes one for each PDU, in order.
  judged.forEach((pdu, at) => {
    const refusal = decisions[at + 1]?.refusal;
    if (refusal === undefined) accepted++;
    else {
      // A snapshot's events have no place in the graph, and what is wrong with them none in the log.
      const isLogged = content.kind === 'graph' && isInLog(refusal);
      (isLogged ? logged : lost).push(notTaken(pdu, refusal));
    }
  });
  return { report: { room_id: create.roomId, accepted, rejected: [...lost, ...logged] }, lost };
}

/** The create event among them, the first if there are several. */
export function createIn(pdus: readonly Pdu[]): Pdu | undefined {
  return pdus.find((pdu) => pdu.type === 'm.room.create' && pdu.stateKey === '');
}

/** The first two decisions: that the room is known, and its create event. Nothing where it is known already. */
function beginning(
  create: Pdu,
  via: 'graph' | 'snapshot',
  context: IngestContext,
): readonly ((room: Room) => Decision)[] {
  const nothing: Decision = { domainEvents: [], broadcasts: [] };
  return [
    (room) => {
      if (room.isKnown) {
        if (room.createEventId === create.eventId) return nothing;
        throw new MatrixError(400, 'M_INVALID_PARAM', 'the room is known with another create event', 'AU-01');
      }
      const begun = beginRoom(create, create.roomId, via);
      if (isRefusal(begun)) throw new MatrixError(400, 'M_INVALID_PARAM', begun.detail, begun.rule);
      return { domainEvents: [begun], broadcasts: [] };
    },
    (room) => {
      room.require({ events: [create.eventId] });
      if (room.known(create.eventId) !== undefined) return nothing;
      return via === 'graph'
        ? { domainEvents: [placeCreate(room, create, context)], broadcasts: [] }
        : ingestOutlier(room, create, 'state', context);
    },
  ];
}

function snapshotSteps(
  begin: readonly ((room: Room) => Decision)[],
  create: Pdu,
  ordered: readonly Pdu[],
  content: RoomToImport['content'] & { kind: 'snapshot' },
  version: RoomVersion,
  context: IngestContext,
): readonly ((room: Room) => Decision)[] | Refusal {
  const given = new Set<EventId>([create.eventId, ...ordered.map((pdu) => pdu.eventId)]);
  if (version.referencesArePairs && !content.forwardExtremities.every((eventId) => given.has(eventId))) {
    return {
      refused: 'wrong-parameter',
      rule: 'EV-04',
      detail: `in room version ${version.id} the forward extremities' PDUs must be given, for their hashes are cited`,
    };
  }
  const inState = statePdus(content.state, ordered, version);
  return [
    ...begin,
    ...ordered.map((pdu) => (room: Room): Decision => {
      if (isPlaced(room)) return knownOrRefused(room, pdu);
      return ingestOutlier(room, pdu, inState.has(pdu.eventId) ? 'state' : 'auth-chain', context);
    }),
    (room) => ({
      domainEvents: isPlaced(room) ? [] : [placeSnapshot(content.forwardExtremities, content.depth)],
      broadcasts: [],
    }),
  ];
}

/** A room that has forward extremities has its place in the graph; another snapshot can't move it. */
function isPlaced(room: Room): boolean {
  return room.forwardExtremityCount > 0;
}

function knownOrRefused(room: Room, pdu: Pdu): Decision {
  room.require({ events: [pdu.eventId] });
  const nothing = { domainEvents: [], broadcasts: [] };
  if (room.known(pdu.eventId) !== undefined) return nothing;
  return {
    ...nothing,
    refusal: {
      refused: 'wrong-parameter',
      rule: 'PD-01',
      detail: 'the room is known already, without this event',
    },
  };
}

/** Which of the PDUs are the snapshot's state: the first of each (type, state_key) among those given as state. */
function statePdus(
  state: readonly JsonObject[],
  ordered: readonly Pdu[],
  version: RoomVersion,
): ReadonlySet<EventId> {
  const given = new Set(
    state.flatMap((json) => {
      const pdu = parsePdu(json, version);
      return isPduFault(pdu) ? [] : [pdu.eventId];
    }),
  );
  const taken = new Set<string>();
  const ids = new Set<EventId>();
  for (const pdu of ordered) {
    if (!given.has(pdu.eventId) || pdu.stateKey === undefined) continue;
    const key = JSON.stringify([pdu.type, pdu.stateKey]);
    if (!taken.has(key)) ids.add(pdu.eventId);
    taken.add(key);
  }
  return ids;
}

/** Reads the body of `POST /v1/rooms/import`. Throws {@link MatrixError} for one that is neither form. */
export function readImport(body: JsonObject): RoomToImport {
  const id = requiredString(body, 'room_version');
  const version = roomVersion(id);
  if (version === undefined) {
    throw new MatrixError(
      400,
      'M_INCOMPATIBLE_ROOM_VERSION',
      `room version ${id} is not known here`,
      'RV-04',
    );
  }
  const serverKeys = optionalList(body, 'server_keys') ?? [];
  const events = optionalList(body, 'events');
  if (events !== undefined) {
    return { version, serverKeys, content: { kind: 'graph', events: objects(events, 'events') } };
  }
  const state = optionalList(body, 'state');
  const authChain = optionalList(body, 'auth_chain');
  const extremities = optionalList(body, 'forward_extremities');
  const depth = memberOf(body, 'depth');
  if (state === undefined || authChain === undefined || extremities === undefined || depth === undefined) {
    throw new MatrixError(
      400,
      'M_MISSING_PARAM',
      'give events, or all of state, auth_chain, forward_extremities and depth',
    );
  }
  if (depth instanceof JsonNumber || typeof depth !== 'number' || depth < 0) {
    throw new MatrixError(400, 'M_INVALID_PARAM', 'depth is not a whole number');
  }
  const forwardExtremities = extremities.map((one) => {
    const eventId = typeof one === 'string' ? parseEventId(one, version) : undefined;
    if (eventId === undefined)
      throw new MatrixError(400, 'M_INVALID_PARAM', 'forward_extremities: no event ID');
    return eventId;
  });
  if (forwardExtremities.length === 0 || forwardExtremities.length > 1000) {
    throw new MatrixError(400, 'M_INVALID_PARAM', 'forward_extremities must be 1 to 1000');
  }
  return {
    version,
    serverKeys,
    content: {
      kind: 'snapshot',
      state: objects(state, 'state'),
      authChain: objects(authChain, 'auth_chain'),
      forwardExtremities: [...new Set(forwardExtremities)],
      depth,
    },
  };
}

/** The PDUs of a list, unchecked. Throws {@link MatrixError} where one is no object. */
export function objects(values: readonly JsonValue[], key: string): readonly JsonObject[] {
  return values.map((value) => {
    if (!isJsonObject(value)) throw new MatrixError(400, 'M_INVALID_PARAM', `${key} holds what is not a PDU`);
    return value;
  });
}
