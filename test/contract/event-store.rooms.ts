import type { EventStore, Outbox } from '@exeunt/event-store';
import {
  parseEventId,
  parseRoomId,
  parseServerName,
  type EventId,
  type RoomId,
  type ServerName,
} from '@exeunt/pdu';
import type { Broadcast, DomainEvent, FactsNeeded, PduAccepted, RoomHeader, StateChange } from '@exeunt/room';
import { parseJson, type JsonObject } from '@exeunt/signing';

/** Logs that a store has to keep, made without deciding anything: what is in them is for the store to carry only. */

export type Append = Parameters<EventStore['append']>[0];

let made = 0;

/** A room ID that no other test has. */
export function aRoom(): RoomId {
  made += 1;
  return known(parseRoomId(`!room${made}-${process.pid}-${Date.now()}:local.test`));
}

export function anEvent(name: string): EventId {
  return known(parseEventId(`$${name}:local.test`));
}

export function aServer(name: string): ServerName {
  return known(parseServerName(name));
}

export function ingested(roomId: RoomId): DomainEvent {
  return {
    type: 'RoomIngested',
    roomId,
    roomVersion: '11',
    createEventId: anEvent('create'),
    via: 'creation',
  };
}

export function accepted(name: string, more: Partial<PduAccepted> = {}): PduAccepted {
  return {
    type: 'PduAccepted',
    eventId: anEvent(name),
    pdu: { type: 'm.room.message', content: { body: name }, auth_events: [] },
    origin: aServer('remote.test'),
    decidedAt: 1_767_225_600_000,
    place: 'graph',
    stateAfter: 'current',
    changes: [],
    ...more,
  };
}

/** An accepted state event that becomes the room's entry of its type and state_key. */
export function stateEvent(
  name: string,
  type: string,
  stateKey: string,
  authEvents: readonly string[] = [],
): PduAccepted {
  const eventId = anEvent(name);
  return accepted(name, {
    pdu: { type, state_key: stateKey, content: {}, auth_events: authEvents.map(anEvent) },
    changes: [change(type, stateKey, eventId)],
  });
}

export function change(type: string, stateKey: string, eventId: EventId | null): StateChange {
  return { type, stateKey, eventId };
}

export function pduOf(text: string): JsonObject {
  return parseJson(text) as JsonObject;
}

/** An append after `expectedPosition`; the first of a room begins with its ingestion. */
export function append(
  roomId: RoomId,
  expectedPosition: number,
  events: readonly DomainEvent[],
  more: Partial<Pick<Append, 'residents' | 'broadcasts' | 'traceparents'>> = {},
): Append {
  const domainEvents = expectedPosition === 0 ? [ingested(roomId), ...events] : events;
  return {
    roomId,
    expectedPosition,
    domainEvents,
    header: headerAt(roomId, expectedPosition + domainEvents.length),
    residents: [],
    broadcasts: [],
    ...more,
  };
}

export function headerAt(roomId: RoomId, position: number): RoomHeader {
  return {
    roomId,
    roomVersion: '11',
    createEventId: anEvent('create'),
    position,
    stateChangedAt: position,
    depth: '9223372036854775807',
    forwardExtremities: [{ eventId: anEvent(`extremity${position}`), depth: '9223372036854775807' }],
    memberCounts: { join: 1, invite: 0, knock: 0, leave: 0, ban: 0 },
  };
}

export function broadcast({ eventId, pdu }: PduAccepted, ...destinations: string[]): Broadcast {
  return { eventId, pdu, destinations: destinations.map(aServer) };
}

export function needing(needed: Partial<FactsNeeded>): FactsNeeded {
  return { state: [], events: [], changes: [], citing: [], residents: [], allResidents: false, ...needed };
}

/** Takes everything away that other tests left. */
export async function drain(outbox: Outbox): Promise<void> {
  for (let entries = await outbox.take(1000); entries.length > 0; entries = await outbox.take(1000)) {
    await outbox.done(entries);
  }
}

function known<Parsed>(parsed: Parsed | undefined): Parsed {
  if (parsed === undefined) throw new Error('not an identifier');
  return parsed;
}
