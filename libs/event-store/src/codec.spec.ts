import { parseJson, stringifyJson, type JsonObject } from '@exeunt/signing';
import type { DomainEvent, EventId, PduAccepted, ServerName } from '@exeunt/room';
import { describe, expect, it } from 'vitest';
import {
  decodeDomainEvent,
  encodeDomainEvent,
  upcasters,
  type StoredDomainEvent,
  type Upcasters,
} from './codec.js';

const accepted: PduAccepted = {
  type: 'PduAccepted',
  eventId: '$e:x' as EventId,
  pdu: parseJson('{"depth":9223372036854775807,"content":{"x":1.0}}') as JsonObject,
  origin: 'x' as ServerName,
  decidedAt: 5,
  place: 'graph',
  stateAfter: [3, [['m.room.member', '@a:x', null]]],
  changes: [{ type: 'm.room.topic', stateKey: '', eventId: null }],
};

/** As the first release wrote it. These stay as they are for as long as logs do. */
const versionZero: StoredDomainEvent = {
  type: 'PduAccepted',
  schemaVersion: 0,
  eventId: '$e:x',
  payload: '{"origin":"x","decidedAt":5,"place":"graph","stateAfter":[3,[["m.room.member","@a:x",null]]]}',
  changes: '[{"type":"m.room.topic","stateKey":"","eventId":null}]',
  pdu: '{"depth":9223372036854775807,"content":{"x":1.0}}',
};

describe('a stored domain event', () => {
  it('of version 0 is read', () => {
    expect(decodeDomainEvent(versionZero)).toEqual(accepted);
  });

  it('is read as it was written', () => {
    const stored = encodeDomainEvent(accepted);
    const decoded = decodeDomainEvent(stored) as PduAccepted;
    expect(decoded).toEqual(accepted);
    expect(stringifyJson(decoded.pdu)).toBe(versionZero.pdu);
    const ingested: DomainEvent = { type: 'SnapshotPlaced', forwardExtremities: [], depth: 3 };
    expect(decodeDomainEvent(encodeDomainEvent(ingested))).toEqual(ingested);
  });

  it('of an earlier version goes through every upcaster since, in order', () => {
    const later: Upcasters = {
      ...upcasters,
      PduAccepted: [
        ({ origin, ...others }) => ({ ...others, from: [origin ?? null] }),
        ({ from, ...others }) => ({ ...others, receivedFrom: (from as string[])[0] ?? null }),
      ],
    };
    const { origin, ...others } = accepted;
    expect(decodeDomainEvent(versionZero, later)).toEqual({ ...others, receivedFrom: origin });
    const versionOne = {
      ...versionZero,
      schemaVersion: 1,
      payload: versionZero.payload.replace('"origin":"x"', '"from":["y"]'),
    };
    expect(decodeDomainEvent(versionOne, later)).toEqual({ ...others, receivedFrom: 'y' });
    expect(encodeDomainEvent(accepted, later).schemaVersion).toBe(2);
  });

  it('of a later release is refused', () => {
    expect(() => decodeDomainEvent({ ...versionZero, schemaVersion: 1 })).toThrow('later release');
    expect(() => decodeDomainEvent({ ...versionZero, type: 'constructor' })).toThrow('later release');
  });
});
