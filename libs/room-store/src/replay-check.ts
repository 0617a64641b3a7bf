import type { RoomId } from '@exeunt/pdu';
import type { EventStore } from '@exeunt/event-store';
import { evolve, initialRoom, trunkAt, type Room, type RoomHeader } from '@exeunt/room';

/** What replaying a room's whole log gave, held against what is stored beside the log. */
export interface ReplayReport {
  readonly roomId: RoomId;
  /** The position both were compared at. */
  readonly position: number;
  /** State entries that were compared. */
  readonly entries: number;
  /** One sentence each, at most {@link maxDifferences}; none means that log and rows say the same. */
  readonly differences: readonly string[];
}

/** Enough to see what is wrong. */
export const maxDifferences = 20;
const pageSize = 1000;
const maxAttempts = 20;

/**
 * Replays the room's log from the beginning and compares the room it gives with the stored header, state rows and
 * residents, which decisions are made from. Reads only; takes as long as the log is. Undefined for an unknown room.
 *
 * A room that changes meanwhile is followed until log and rows are seen at one position.
 */
export async function checkReplay(store: EventStore, roomId: RoomId): Promise<ReplayReport | undefined> {
  const room = initialRoom();
  for (let attempt = 0; attempt < maxAttempts; attempt++) {
    const header = await store.header(roomId);
    if (header === undefined) return undefined;
    await foldUpTo(store, room, roomId, header.position);
    const residents = await store.residents(roomId);
    if ((await store.header(roomId))?.position !== header.position) continue;

    const differences: string[] = [
      ...headerDifferences(header, room.header()),
      ...residentDifferences(new Map(residents), new Map(joinedMembers(room))),
    ];
    const entries = await compareState(store, room, header.position, differences);
    return { roomId, position: header.position, entries, differences: differences.slice(0, maxDifferences) };
  }
  throw new Error(`${roomId} did not hold still`);
}

async function foldUpTo(store: EventStore, room: Room, roomId: RoomId, position: number): Promise<void> {
  while (room.position < position) {
    const page = await store.read(roomId, room.position + 1, Math.min(pageSize, position - room.position));
    if (page.length === 0)
      throw new Error(`the log of ${roomId} ends at ${room.position}, before ${position}`);
    for (const { position: at, domainEvent } of page) {
      if (at !== room.position + 1) throw new Error(`the log of ${roomId} has a gap after ${room.position}`);
      evolve(room, domainEvent);
    }
    room.forgetPdus();
  }
}

function headerDifferences(stored: RoomHeader, replayed: RoomHeader): readonly string[] {
  const sorted = (header: RoomHeader): RoomHeader => ({
    ...header,
    forwardExtremities: [...header.forwardExtremities].sort((a, b) => (a.eventId < b.eventId ? -1 : 1)),
  });
  const [one, other] = [sorted(stored), sorted(replayed)];
  return [...new Set([...Object.keys(one), ...Object.keys(other)])].flatMap((key) => {
    const [left, right] = [one, other].map((header) => JSON.stringify(header[key as keyof RoomHeader]));
    return left === right ? [] : [`${key} is stored as ${left}, the log gives ${right}`];
  });
}

function joinedMembers(room: Room): readonly (readonly [string, number])[] {
  return room.residentServers().map((server) => [server, room.joinedMembersOf(server)]);
}

function residentDifferences(
  stored: ReadonlyMap<string, number>,
  replayed: ReadonlyMap<string, number>,
): readonly string[] {
  return [...new Set([...stored.keys(), ...replayed.keys()])].flatMap((server) =>
    stored.get(server) === replayed.get(server)
      ? []
      : [
          `${server} has ${stored.get(server) ?? 0} joined members stored, the log gives ${replayed.get(server) ?? 0}`,
        ],
  );
}

async function compareState(
  store: EventStore,
  room: Room,
  position: number,
  differences: string[],
): Promise<number> {
  const replayed = room.currentEntries();
  const at = trunkAt(position);
  let entries = 0;
  let after: readonly [string, string] | undefined;
  for (;;) {
    const page = await store.stateAt(room.id, position, {
      limit: pageSize,
      ...(after === undefined ? {} : { after }),
    });
    for (const { type, stateKey, eventId } of page) {
      entries++;
      const given = room.entry(at, type, stateKey);
      if (given !== eventId) {
        differences.push(
          `(${type}, ${stateKey}) is stored as ${eventId}, the log gives ${given ?? 'nothing'}`,
        );
      }
    }
    const last = page.at(-1);
    if (last === undefined || page.length < pageSize || differences.length >= maxDifferences) break;
    after = [last.type, last.stateKey];
  }
  if (entries !== replayed && differences.length < maxDifferences) {
    differences.push(`${entries} state entries are stored, the log gives ${replayed}`);
  }
  return entries;
}
