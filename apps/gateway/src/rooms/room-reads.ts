import { Inject, Injectable } from '@nestjs/common';
import type { EventId, RoomId } from '@exeunt/pdu';
import type { DomainEvent, RoomHeader } from '@exeunt/room';
import { checkReplay } from '@exeunt/room-store';
import { JsonNumber, withKeys, type JsonObject, type JsonValue } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { MatrixError } from '../matrix-error/matrix-error.js';

/** Reads of rooms straight from the store: what the log holds, never what a cache believes. */
@Injectable()
export class RoomReads {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  /** A page of rooms in order of their IDs. */
  async rooms(from: string | undefined, limit: number): Promise<object> {
    const headers = await this.side.rooms.store.rooms(from, limit);
    const last = headers.at(-1);
    return {
      rooms: headers.map(summary),
      ...(headers.length === limit && last !== undefined ? { next: last.roomId } : {}),
    };
  }

  async room(roomId: RoomId): Promise<object> {
    const header = await this.header(roomId);
    const residents = await this.side.rooms.store.residents(roomId);
    return { ...summary(header), resident_servers: residents.map(([server]) => server).sort() };
  }

  /** State events as signed, with their IDs; `next` where there are more than `limit`. */
  async state(
    roomId: RoomId,
    asked: {
      readonly type: string | undefined;
      readonly stateKey: string | undefined;
      readonly at: string | undefined;
      readonly from: string | undefined;
      readonly limit: number;
    },
  ): Promise<JsonObject> {
    const header = await this.header(roomId);
    const at = asked.at === undefined ? header.position : position(asked.at, 'at');
    if (at > header.position) {
      throw new MatrixError(400, 'M_INVALID_PARAM', `the room's log ends at position ${header.position}`);
    }
    const after = asked.from === undefined ? undefined : pageKey(asked.from);
    const { store } = this.side.rooms;
    const entries = await store.stateAt(roomId, at, {
      ...(asked.type === undefined ? {} : { type: asked.type }),
      ...(asked.stateKey === undefined ? {} : { stateKey: asked.stateKey }),
      ...(after === undefined ? {} : { after }),
      limit: asked.limit,
    });
    const ids = entries.map(({ eventId }) => eventId).filter((eventId) => eventId !== null);
    const pdus = await store.pdus(roomId, ids);
    const last = entries.at(-1);
    return {
      events: ids.map((eventId) => withEventId(eventId, pdus.get(eventId))),
      ...(entries.length === asked.limit && last !== undefined
        ? { next: JSON.stringify([last.type, last.stateKey]) }
        : {}),
    };
  }

  /** A page of the room's domain events. */
  async events(roomId: RoomId, from: string | undefined, limit: number): Promise<JsonObject> {
    const header = await this.header(roomId);
    const first = from === undefined ? 1 : position(from, 'from');
    const logged = await this.side.rooms.store.read(roomId, first, limit);
    const last = logged.at(-1)?.position ?? header.position;
    return {
      events: logged.map(({ position, domainEvent }) => describe(position, domainEvent)),
      ...(last < header.position && logged.length > 0 ? { next: String(last + 1) } : {}),
    };
  }

  /** Whether replaying the room's log gives what is stored beside it. */
  async replayCheck(roomId: RoomId): Promise<object> {
    const report = await checkReplay(this.side.rooms.store, roomId);
    if (report === undefined) throw unknownRoom();
    const { position, entries, differences } = report;
    return { room_id: roomId, position, entries, agrees: differences.length === 0, differences };
  }

  private async header(roomId: RoomId): Promise<RoomHeader> {
    const header = await this.side.rooms.store.header(roomId);
    if (header === undefined)
      throw new MatrixError(404, 'M_NOT_FOUND', 'the room is not known here', 'ML-16');
    return header;
  }
}

function unknownRoom(): MatrixError {
  return new MatrixError(404, 'M_NOT_FOUND', 'the room is not known here', 'ML-16');
}

function summary(header: RoomHeader): JsonObject {
  const depth = BigInt(header.depth);
  return {
    room_id: header.roomId,
    room_version: header.roomVersion,
    depth: depth <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(depth) : new JsonNumber(header.depth),
    forward_extremities: header.forwardExtremities.map(({ eventId }) => eventId),
    members: { ...header.memberCounts },
    position: header.position,
  };
}

function describe(position: number, event: DomainEvent): JsonValue {
  switch (event.type) {
    case 'RoomIngested':
      return {
        position,
        type: event.type,
        room_version: event.roomVersion,
        event_id: event.createEventId,
        via: event.via,
      };
    case 'SnapshotPlaced':
      return {
        position,
        type: event.type,
        forward_extremities: [...event.forwardExtremities],
        depth: event.depth,
      };
    case 'PduAccepted':
      return {
        position,
        type: event.type,
        event_id: event.eventId,
        place: event.place,
        origin: event.origin,
        decided_at: event.decidedAt,
        changes: event.changes.map(({ type, stateKey, eventId }) => ({
          type,
          state_key: stateKey,
          event_id: eventId,
        })),
        pdu: event.pdu,
      };
    case 'PduRejected':
    case 'PduSoftFailed':
      return {
        position,
        type: event.type,
        event_id: event.eventId,
        origin: event.origin,
        decided_at: event.decidedAt,
        rule: event.rule,
        detail: event.detail,
        pdu: event.pdu,
      };
    default:
      return event satisfies never;
  }
}

function withEventId(eventId: EventId, event: DomainEvent | undefined): JsonObject {
  if (event === undefined || !('pdu' in event))
    throw new Error(`the log lost ${eventId}, which the state holds`);
  return withKeys(event.pdu, { event_id: eventId });
}

function position(text: string, name: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new MatrixError(400, 'M_INVALID_PARAM', `${name} is not a position`);
  return Number(text);
}

function pageKey(text: string): readonly [string, string] {
  try {
    const key: unknown = JSON.parse(text);
    if (Array.isArray(key) && typeof key[0] === 'string' && typeof key[1] === 'string')
      return [key[0], key[1]];
  } catch {
    // Said below.
  }
  throw new MatrixError(400, 'M_INVALID_PARAM', 'from is not the next of another page');
}
