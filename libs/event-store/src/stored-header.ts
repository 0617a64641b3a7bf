import type { EventId, ForwardExtremity, RoomHeader } from '@exeunt/room';
import { JsonNumber, type JsonObject } from '@exeunt/signing';
import type { RoomId } from '@exeunt/pdu';
import { LRUCache } from 'lru-cache';
import type { Append, LoggedEvent } from './event-store.js';

/*
 * A header lists the room's forward extremities, and a storm of leaves makes thousands of them: written anew with each
 * append, they would make a leave the dearer the more have left. So a long list stands in a column of its own, as it
 * was at some earlier position; what the log says since then is applied to it where the header is read. The list is
 * written again after so many domain events that a leave pays for a few of its entries, however long it is.
 */

/** Up to here the list stands in the header itself. */
const MAX_IN_HEADER = 32;
/** The log is read from the list's position on: at most this many domain events, or a quarter of the list's length. */
const MAX_TAIL = 64;

/** What an append puts into the room's row. */
export interface WrittenHeader {
  readonly header: string;
  /** JSON of the list, `null` where the header has it again, `undefined` where the row's stays. */
  readonly extremities: string | null | undefined;
}

/** A header's JSON; with the position of the list in the other column where it is there. */
type StoredHeader = Omit<RoomHeader, 'forwardExtremities'> & {
  readonly forwardExtremities?: readonly ForwardExtremity[];
  readonly extremitiesAt?: number;
};

/**
 * Writes headers. Remembers which rooms' lists it has written last and where, which holds as long as nobody else has
 * appended to the room; of what it doesn't remember it writes the list.
 */
export class HeaderWriter {
  readonly #lists = new LRUCache<RoomId, { readonly position: number; readonly listAt: number }>({
    max: 10_000,
  });

  write({ roomId, header, expectedPosition, domainEvents }: Append): WrittenHeader {
    const { forwardExtremities, ...others } = header;
    const last = this.#lists.get(roomId);
    this.#lists.delete(roomId);
    if (forwardExtremities.length <= MAX_IN_HEADER) {
      return { header: JSON.stringify(header), extremities: last === undefined ? undefined : null };
    }
    const maxTail = Math.max(MAX_TAIL, forwardExtremities.length / 4);
    const isKept =
      last?.position === expectedPosition &&
      header.position - last.listAt <= maxTail &&
      domainEvents.every(({ type }) => type !== 'SnapshotPlaced');
    const listAt = isKept ? last.listAt : header.position;
    const stored: StoredHeader = { ...others, extremitiesAt: listAt };
    return {
      header: JSON.stringify(stored),
      extremities: isKept ? undefined : JSON.stringify(forwardExtremities),
    };
  }

  /** To be called once the append is durable. */
  written({ roomId, header }: Append, { header: text }: WrittenHeader): void {
    if (header.forwardExtremities.length <= MAX_IN_HEADER) return;
    const { extremitiesAt } = JSON.parse(text) as StoredHeader;
    if (extremitiesAt !== undefined) {
      this.#lists.set(roomId, { position: header.position, listAt: extremitiesAt });
    }
  }
}

/** The header of a room's row. `read` gives domain events of its log, from a position on. */
export async function readHeader(
  header: string,
  extremities: string | null,
  read: (roomId: RoomId, from: number, limit: number) => Promise<readonly LoggedEvent[]>,
): Promise<RoomHeader> {
  const { extremitiesAt, forwardExtremities, ...others } = JSON.parse(header) as StoredHeader;
  if (extremitiesAt === undefined) return { ...others, forwardExtremities: forwardExtremities ?? [] };
  if (extremities === null) throw new Error(`${others.roomId}: the list of forward extremities is lost`);
  const list = new Map(
    (JSON.parse(extremities) as ForwardExtremity[]).map((extremity) => [extremity.eventId, extremity]),
  );
  const tail = await read(others.roomId, extremitiesAt + 1, others.position - extremitiesAt);
  for (const { domainEvent } of tail) {
    if (domainEvent.type !== 'PduAccepted' || domainEvent.place !== 'graph') continue;
    for (const parent of parentsOf(domainEvent.pdu)) list.delete(parent);
    list.set(domainEvent.eventId, { eventId: domainEvent.eventId, depth: depthOf(domainEvent.pdu) });
  }
  return { ...others, forwardExtremities: [...list.values()] };
}

/** Room versions 1 and 2 cite pairs. */
function parentsOf({ prev_events: cited }: JsonObject): readonly EventId[] {
  if (!Array.isArray(cited)) return [];
  return cited.map((one) => (Array.isArray(one) ? one[0] : one) as EventId);
}

function depthOf({ depth }: JsonObject): string {
  return depth instanceof JsonNumber ? depth.source : String(depth);
}
