import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isPduFault, parsePdu, type EventId, type Pdu, type ServerName } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { withKeys } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { acceptPdu, type Decision } from './accept-pdu.js';
import type { DomainEvent } from './domain-events.js';
import {
  beginRoom,
  ingestOutlier,
  ingestPdu,
  inOrderOfReferences,
  placeCreate,
  placeSnapshot,
} from './ingest-room.js';
import { isRefusal } from './refusal.js';
import { evolve, initialRoom, type Room } from './room.js';
import { stateKeyOf } from './state-resolution/state-key.js';
import { StoredRoom } from './stored-room.fixture.js';

const alice = '@alice:hub.example';
const bob = '@bob:away.example';
const carol = '@carol:third.example';
const ourName = 'hub.example' as ServerName;
const context = { origin: ourName, ourName, now: 1 };
const versions = ['1', '2', '6', '11', '12'];

function room(version = '11'): RoomBuilder {
  const servers = ['hub.example', 'away.example', 'third.example'].map((name) => paperServer(name));
  return new RoomBuilder({ version, servers, creator: alice });
}

/** A room with a life behind it: a fork that was merged, a kick, a ban, and a leave that came too late. */
function livelyRoom(version: string): RoomBuilder {
  const built = room(version);
  built.member(bob, 'join');
  built.member(carol, 'join');
  const topic = { sender: alice, type: 'm.room.topic', stateKey: '', content: { topic: 'one' } };
  const [one, two] = [built.make(topic), built.make({ ...topic, content: { topic: 'two' } })];
  for (const pdu of [one, two]) {
    built.receive(pdu);
    built.pdus.push(pdu);
  }
  built.say({ sender: bob, content: { body: 'merged' } });
  built.member(carol, 'leave', alice);
  built.member(carol, 'join');
  built.member(bob, 'ban', alice);
  return built;
}

function take(target: Room, decision: Decision): Decision {
  for (const domainEvent of decision.domainEvents) evolve(target, domainEvent);
  return decision;
}

function beginning(target: Room, create: Pdu, via: 'graph' | 'snapshot'): DomainEvent[] {
  const begun = beginRoom(create, create.roomId, via);
  if (isRefusal(begun)) throw new Error(begun.detail);
  evolve(target, begun);
  return [begun];
}

function importGraph(target: Room, pdus: readonly Pdu[]): readonly Decision[] {
  const create = pdus.find((pdu) => pdu.type === 'm.room.create')!;
  beginning(target, create, 'graph');
  evolve(target, placeCreate(target, create, context));
  return inOrderOfReferences(pdus)
    .filter((pdu) => pdu !== create)
    .map((pdu) => take(target, ingestPdu(target, pdu, context)));
}

function stateOf(of: Room, like: RoomBuilder): readonly (EventId | undefined)[] {
  const keys = like.pdus.flatMap(({ type, stateKey }) =>
    stateKey === undefined ? [] : stateKeyOf(type, stateKey),
  );
  return [...new Set(keys)].map((key) => of.entryOf(of.currentState(), key));
}

describe('PDUs in the order of what they cite', () => {
  it('have each after all that it cites, whatever order they come in, and each once', () => {
    const { pdus } = livelyRoom('11');
    fc.assert(
      fc.property(fc.shuffledSubarray([...pdus, ...pdus], { minLength: pdus.length }), (some) => {
        const ordered = inOrderOfReferences(some);
        const ids = ordered.map(({ eventId }) => eventId);
        expect(new Set(ids)).toEqual(new Set(some.map(({ eventId }) => eventId)));
        expect(new Set(ids).size).toBe(ids.length);
        ordered.forEach((pdu, at) => {
          for (const id of [...pdu.prevEvents, ...pdu.authEvents]) {
            const cited = ids.indexOf(id);
            expect(cited).toBeLessThan(at);
          }
        });
      }),
    );
  });

  it('have those on a cycle last, which versions 1 and 2 can be made to hold', () => {
    const built = room('1');
    const message = (id: string, parent: string) =>
      built.make({
        sender: alice,
        content: {},
        changes: { event_id: id, prev_events: [[parent, { sha256: 'x' }]] },
      });
    const [one, two] = [
      message('$1:hub.example', '$2:hub.example'),
      message('$2:hub.example', '$1:hub.example'),
    ];
    const after = message('$3:hub.example', '$2:hub.example');
    const ordered = inOrderOfReferences([one, two, after, ...built.pdus]);
    expect(ordered).toHaveLength(built.pdus.length + 3);
    expect(new Set(ordered.slice(-3))).toEqual(new Set([one, two, after]));
    expect(inOrderOfReferences([])).toEqual([]);
  });

  it('are found without recursion and in linear time', () => {
    const built = room('11');
    const [first] = built.pdus;
    const chain = Array.from({ length: 20_000 }, (_, at) => ({
      ...first!,
      eventId: `$${at}` as EventId,
      prevEvents: at === 0 ? [] : [`$${at - 1}` as EventId],
      authEvents: [],
    }));
    expect(inOrderOfReferences([...chain].reverse()).map(({ eventId }) => eventId)).toEqual(
      chain.map(({ eventId }) => eventId),
    );
  });
});

describe('a room that begins', () => {
  it.each(versions)('does with a create event that the rules allow, in version %s (AU-01)', (version) => {
    const built = room(version);
    const create = built.room.create();
    expect(beginRoom(create, create.roomId, 'graph')).toEqual({
      type: 'RoomIngested',
      roomId: built.roomId,
      roomVersion: version,
      createEventId: create.eventId,
      via: 'graph',
    });
  });

  it('does not with one that they refuse (AU-01)', () => {
    const built = room('10');
    const create = built.room.create();
    const nameless = parsePdu(withKeys(create.json, { content: { room_version: '10' } }), built.version);
    if (isPduFault(nameless)) throw new Error(nameless.detail);
    expect(beginRoom(nameless, nameless.roomId, 'graph')).toMatchObject({
      refused: 'not-authorised',
      rule: 'AU-01',
      events: [nameless.eventId],
    });
  });
});

describe.each(versions)('a whole graph that is imported in version %s', (version) => {
  it('gives the room that it came from, in whatever order it is handed over', () => {
    const built = livelyRoom(version);
    fc.assert(
      fc.property(fc.shuffledSubarray(built.pdus, { minLength: built.pdus.length }), (shuffled) => {
        const imported = initialRoom();
        for (const { refusal, broadcasts } of importGraph(imported, shuffled)) {
          expect(refusal).toBeUndefined();
          expect(broadcasts).toEqual([]);
        }
        expect(stateOf(imported, built)).toEqual(stateOf(built.room, built));
        expect(new Set(imported.forwardExtremities)).toEqual(new Set(built.room.forwardExtremities));
        expect(imported.header().memberCounts).toEqual(built.room.header().memberCounts);
        expect(imported.header().depth).toBe(built.room.header().depth);
        expect([...imported.residentServers()].sort()).toEqual([...built.room.residentServers()].sort());
      }),
      { numRuns: 20 },
    );
  });

  it('changes nothing when it is imported again', () => {
    const built = livelyRoom(version);
    const imported = initialRoom();
    importGraph(imported, built.pdus);
    const before = imported.header();
    for (const pdu of inOrderOfReferences(built.pdus)) {
      expect(take(imported, ingestPdu(imported, pdu, context))).toEqual({ domainEvents: [], broadcasts: [] });
    }
    expect(imported.header()).toEqual(before);
  });
});

describe('a graph with events that cannot be', () => {
  it('is imported without them, and with what does not rest on them', () => {
    const built = livelyRoom('11');
    const forbidden = built.make({ sender: carol, type: 'm.room.topic', stateKey: '', content: {} });
    const orphan = built.make({
      sender: alice,
      content: {},
      changes: { prev_events: [`$${'z'.repeat(43)}`] },
    });
    const imported = initialRoom();
    const decisions = importGraph(imported, [orphan, forbidden, ...built.pdus]);
    expect(decisions.flatMap(({ refusal }) => refusal?.rule ?? []).sort()).toEqual(['AU-30', 'SL-13']);
    expect(imported.known(forbidden.eventId)?.status).toBe('rejected');
    expect(imported.known(orphan.eventId)).toBeUndefined();
    expect(stateOf(imported, built)).toEqual(stateOf(built.room, built));
  });

  it('refuses the events of a cycle, and says why', () => {
    const built = room('1');
    const message = (id: string, parent: string) =>
      built.make({
        sender: alice,
        content: {},
        changes: { event_id: id, prev_events: [[parent, { sha256: 'x' }]] },
      });
    const cycle = [message('$1:hub.example', '$2:hub.example'), message('$2:hub.example', '$1:hub.example')];
    const refused = importGraph(initialRoom(), [...cycle, ...built.pdus]).filter(({ refusal }) => refusal);
    expect(refused.map(({ refusal }) => refusal!.rule)).toEqual(['SL-13', 'SL-13']);
  });

  it('takes events of the past by the rules of the past alone (PD-06)', () => {
    const built = livelyRoom('11');
    const imported = initialRoom();
    // Bob's message was said before he was banned; that he is banned now says nothing of it.
    expect(importGraph(imported, built.pdus).every(({ refusal }) => refusal === undefined)).toBe(true);
    expect(imported.membership(imported.currentState(), bob)).toBe('ban');
  });
});

describe.each(versions)('a snapshot of a room in version %s', (version) => {
  const snapshotOf = (built: RoomBuilder) => {
    const { room } = built;
    const inState = new Set(stateOf(room, built));
    const chain = room.authChainOf([...inState].filter((id) => id !== undefined));
    const needed = built.pdus.filter(({ eventId }) => chain.has(eventId));
    const extremities = room.forwardExtremities.map(({ eventId }) => eventId);
    return { inState, needed, extremities };
  };

  const importSnapshot = (
    target: Room,
    built: RoomBuilder,
    more: readonly Pdu[] = [],
  ): readonly DomainEvent[] => {
    const { inState, needed, extremities } = snapshotOf(built);
    const create = built.room.create();
    const events = beginning(target, create, 'snapshot');
    for (const pdu of inOrderOfReferences([...needed, ...more])) {
      const place = inState.has(pdu.eventId) ? 'state' : 'auth-chain';
      const { domainEvents, refusal } = take(target, ingestOutlier(target, pdu, place, context));
      expect(refusal).toBeUndefined();
      events.push(...domainEvents);
    }
    const placed = placeSnapshot(extremities, Number(built.room.depth));
    evolve(target, placed);
    return [...events, placed];
  };

  it('gives the state, the members and the extremities, without the events between', async () => {
    const built = livelyRoom(version);
    const imported = initialRoom();
    const events = importSnapshot(
      imported,
      built,
      roomVersion(version)!.referencesArePairs ? [built.pdus.at(-1)!] : [],
    );
    expect(stateOf(imported, built)).toEqual(stateOf(built.room, built));
    expect(imported.header().memberCounts).toEqual(built.room.header().memberCounts);
    expect([...imported.residentServers()].sort()).toEqual([...built.room.residentServers()].sort());
    expect(imported.forwardExtremities.map(({ eventId }) => eventId)).toEqual(
      built.room.forwardExtremities.map(({ eventId }) => eventId),
    );

    // Loaded from a store it says the same.
    const stored = new StoredRoom(built.roomId);
    await stored.append(imported, events);
    const cold = await stored.cold();
    expect(await stored.decide(cold, (one) => stateOf(one, built))).toEqual(stateOf(built.room, built));
    const ids = built.pdus.map(({ eventId }) => eventId);
    expect(await stored.decide(cold, (one) => ids.map((id) => one.known(id)))).toEqual(
      ids.map((id) => imported.known(id)),
    );
  });

  it('lets its members leave', () => {
    const built = livelyRoom(version);
    const leave = built.make({
      sender: carol,
      type: 'm.room.member',
      stateKey: carol,
      content: { membership: 'leave' },
    });
    const imported = initialRoom();
    importSnapshot(imported, built, roomVersion(version)!.referencesArePairs ? [built.pdus.at(-1)!] : []);
    const received = { pdu: leave, origin: 'third.example' as ServerName, ourName, now: 2 };
    const decision = take(imported, acceptPdu(imported, { ...received, against: 'current-state' }));
    expect(decision.refusal).toBeUndefined();
    expect(imported.membership(imported.currentState(), carol)).toBe('leave');
    expect(imported.forwardExtremities.map(({ eventId }) => eventId)).toEqual([leave.eventId]);
  });

  it('has nothing twice, and gains by what was known for its auth chain alone', () => {
    const built = livelyRoom(version);
    const { needed } = snapshotOf(built);
    const imported = initialRoom();
    beginning(imported, built.room.create(), 'snapshot');
    for (const pdu of needed) take(imported, ingestOutlier(imported, pdu, 'auth-chain', context));
    const position = imported.position;
    for (const pdu of needed) {
      expect(take(imported, ingestOutlier(imported, pdu, 'auth-chain', context)).domainEvents).toEqual([]);
    }
    const create = built.room.create();
    expect(take(imported, ingestOutlier(imported, create, 'state', context)).domainEvents).toHaveLength(1);
    expect(take(imported, ingestOutlier(imported, create, 'state', context)).domainEvents).toEqual([]);
    expect(imported.position).toBe(position + 1);
  });
});

describe('an entry of a snapshot', () => {
  const begun = (): { built: RoomBuilder; target: Room } => {
    const built = livelyRoom('11');
    const target = initialRoom();
    beginning(target, built.room.create(), 'snapshot');
    return { built, target };
  };

  it('is refused before what it cites is known', () => {
    const { built, target } = begun();
    take(target, ingestOutlier(target, built.room.create(), 'state', context));
    const levels = built.pdus.find(({ type }) => type === 'm.room.power_levels')!;
    expect(ingestOutlier(target, levels, 'state', context)).toMatchObject({
      domainEvents: [],
      refusal: { refused: 'unknown-reference' },
    });
  });

  it('is refused where its own auth events do not allow it (PD-04)', () => {
    const { built, target } = begun();
    for (const pdu of built.pdus.slice(0, 4)) take(target, ingestOutlier(target, pdu, 'state', context));
    const topic = built.make({ sender: carol, type: 'm.room.topic', stateKey: '', content: {} });
    const cited = topic.authEvents.filter((id) => target.known(id) !== undefined);
    const pdu = built.make({
      sender: carol,
      type: 'm.room.topic',
      stateKey: '',
      content: {},
      changes: { auth_events: cited },
    });
    expect(ingestOutlier(target, pdu, 'state', context)).toMatchObject({
      domainEvents: [],
      refusal: { refused: 'not-authorised', rule: 'AU-30', state: 'auth-events' },
    });
  });

  it('cannot rest on a forward extremity whose PDU did not come with the snapshot', () => {
    const { built, target } = begun();
    for (const pdu of built.pdus.slice(0, 4)) take(target, ingestOutlier(target, pdu, 'state', context));
    const absent = built.room.forwardExtremities[0]!.eventId;
    evolve(target, placeSnapshot([absent], 9));
    expect(target.known(absent)).toMatchObject({ status: 'accepted', place: 'graph' });
    expect(target.hasPdu(absent)).toBe(false);
    const leave = built.make({
      sender: alice,
      type: 'm.room.member',
      stateKey: alice,
      content: { membership: 'leave' },
      changes: { auth_events: [absent] },
    });
    const received = { pdu: leave, origin: ourName, ourName, now: 2, against: 'current-state' as const };
    expect(acceptPdu(target, received)).toMatchObject({
      domainEvents: [],
      refusal: { refused: 'unknown-reference', events: [absent] },
    });
  });
});
