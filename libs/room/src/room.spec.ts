import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { serverNameOf, type EventId, type ServerName } from '@exeunt/pdu';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { acceptPdu, type Decision } from './accept-pdu.js';
import { explainLeave } from './explain.js';
import { leaveTemplate } from './draft-event.js';
import { deciding } from './deciding.js';
import { evolve, initialRoom, membershipOf, Room } from './room.js';
import { stateKeyOf, type StateKey } from './state-resolution/state-key.js';
import { trunkAt } from './state-ref.js';
import { StoredRoom } from './stored-room.fixture.js';
import { calmStep, leaveStep, residentsOf, Storm, stormStep } from './storm.fixture.js';

const hub = 'hub.example' as ServerName;
const versions = ['1', '2', '6', '11', '12'];
const numRuns = Number(process.env['STORM_RUNS'] ?? 8);
const steps = fc.tuple(
  fc.array(calmStep, { minLength: 5, maxLength: 15 }),
  fc.oneof(fc.array(stormStep, { maxLength: 20 }), fc.array(leaveStep, { maxLength: 20 })),
);

/** Every answer a room gives, to the same questions. */
function answers(
  room: Room,
  about: { readonly keys: readonly StateKey[]; readonly ids: readonly EventId[] },
) {
  const sorted = <T>(values: readonly T[]) => [...values].sort();
  const positions = Array.from({ length: room.position + 1 }, (_, position) => position);
  return {
    header: room.header(),
    extremities: room.forwardExtremities,
    depth: room.depth,
    current: about.keys.map((key) => room.entryOf(room.currentState(), key)),
    earlier: positions.map((position) => about.keys.map((key) => room.entryOf(trunkAt(position), key))),
    changes: positions.map((position) => sorted(room.changesBetween(position, room.position))),
    changesToThere: positions.map((position) => sorted(room.changesBetween(0, position))),
    changedAt: about.keys.map((key) => room.changedAt(key, 5)),
    known: about.ids.map((eventId) => room.known(eventId)),
    pdus: about.ids.map((eventId) => (room.hasPdu(eventId) ? room.pdu(eventId).json : undefined)),
    citing: about.ids.map((eventId) => sorted(room.citing(eventId))),
    joined: [hub, 's0.example', 'nowhere.example'].map((server) =>
      room.joinedMembersOf(server as ServerName),
    ),
    residents: sorted(room.residentServers()),
    chain: sorted([...room.authChainOf(room.forwardExtremities.map(({ eventId }) => eventId))]),
  };
}

describe('a room of which the header is stored and facts are loaded on demand', () => {
  it.each(versions)(
    'answers as the fold of its whole log does, wherever it was loaded (version %s)',
    async (version) => {
      await fc.assert(
        fc.asyncProperty(
          steps,
          fc.nat(),
          fc.array(fc.nat(), { maxLength: 12 }),
          async ([calm, stormy], cutAt, loaded) => {
            const storm = new Storm(version);
            for (const step of calm) storm.take(step);
            storm.begin();
            for (const step of stormy) storm.take(step);
            const { domainEvents, roomId } = storm.builder;
            const about = {
              keys: [...storm.touched, stateKeyOf('m.room.name', '')],
              ids: [...storm.stateAfter.keys(), '$unknown:hub.example' as EventId],
            };

            const stored = new StoredRoom(roomId);
            const cut = 2 + (cutAt % (domainEvents.length - 1));
            const whole = initialRoom();
            for (const domainEvent of domainEvents.slice(0, cut)) evolve(whole, domainEvent);
            await stored.append(whole, domainEvents.slice(0, cut));

            // Loaded in the middle of the log, some of it looked at, and then taken on.
            const part = await stored.cold();
            const keys = loaded.map((at) => about.keys[at % about.keys.length]!);
            const ids = loaded.map((at) => about.ids[at % about.ids.length]!);
            await stored.decide(part, () => {
              part.require({ state: keys, events: ids, allResidents: true });
              for (const eventId of ids) part.citing(eventId);
              part.changesBetween(cut % 7, cut);
            });
            const tail = domainEvents.slice(cut);
            for (const domainEvent of tail) {
              evolve(whole, domainEvent);
              evolve(part, domainEvent);
            }
            await stored.append(whole, tail);

            const expected = answers(whole, about);
            expect(await stored.decide(part, (room) => answers(room, about))).toEqual(expected);
            expect(await stored.decide(await stored.cold(), (room) => answers(room, about))).toEqual(
              expected,
            );
            whole.forgetPdus();
            expect(await stored.decide(whole, (room) => answers(room, about))).toEqual(expected);
          },
        ),
        { numRuns },
      );
    },
  );

  it.each(versions)(
    'decides as the whole room does, on leaves, kicks, forks and conflicts (version %s)',
    async (version) => {
      await fc.assert(
        fc.asyncProperty(steps, async ([calm, stormy]) => {
          const storm = new Storm(version);
          const { builder } = storm;
          const stored = new StoredRoom(builder.roomId);
          await stored.append(builder.room, builder.domainEvents);
          const warm = await stored.cold();
          const follow = async (step: (typeof stormy)[number]): Promise<void> => {
            const userId = storm.people[step.actor % storm.people.length]!;
            const asked = { userId, ourName: hub, now: 5 };
            const told = {
              template: leaveTemplate(builder.room, asked),
              why: explainLeave(builder.room, asked),
            };
            const outcome = storm.take(step);
            if (outcome === undefined) return;
            const { pdu, decision } = outcome;
            const now = decidedAt(decision);
            const decide = (room: Room) => ({
              told: { template: leaveTemplate(room, asked), why: explainLeave(room, asked) },
              decision: acceptPdu(room, {
                pdu,
                origin: serverNameOf(pdu.sender),
                ourName: hub,
                now,
                against: 'current-state',
              }),
            });
            expect(await stored.decide(await stored.cold(), decide)).toEqual({ told, decision });
            expect(await stored.decide(warm, decide)).toEqual({ told, decision });
            for (const domainEvent of decision.domainEvents) evolve(warm, domainEvent);
            await stored.append(builder.room, decision.domainEvents);
            expect(warm.header()).toEqual(builder.room.header());
          };
          for (const step of calm) await follow(step);
          storm.begin();
          for (const step of stormy) await follow(step);
        }),
        { numRuns },
      );
    },
  );

  it('reads a handful of entries for a leave, however many members there are', async () => {
    const builder = new RoomBuilder({
      version: '11',
      servers: [paperServer(hub), paperServer('far.example')],
      creator: '@admin:hub.example',
    });
    for (let at = 0; at < 150; at++) builder.member(`@u${at}:far.example`, 'join');
    const stored = new StoredRoom(builder.roomId);
    await stored.append(builder.room, builder.domainEvents);
    const leave = builder.make({
      sender: '@u7:far.example',
      type: 'm.room.member',
      stateKey: '@u7:far.example',
      content: { membership: 'leave' },
    });
    const cold = await stored.cold();
    const { refusal } = await stored.decide(cold, (room) =>
      acceptPdu(room, {
        pdu: leave,
        origin: 'far.example' as ServerName,
        ourName: hub,
        now: 1,
        against: 'current-state',
      }),
    );
    expect(refusal).toBeUndefined();
    expect(stored.loads).toBeLessThanOrEqual(6);
    expect(cold.factCount).toBeLessThan(50);
  });

  it('names what it misses instead of deciding', () => {
    const storm = new Storm('11');
    const header = storm.builder.room.header();
    const part = Room.fromHeader(header);
    expect(deciding(() => part.joinedMembersOf(hub))).toMatchObject({
      decided: false,
      needed: { residents: [hub] },
    });
    expect(deciding(() => part.residentServers())).toMatchObject({
      decided: false,
      needed: { allResidents: true },
    });
    expect(deciding(() => part.membership(part.currentState(), storm.admin))).toMatchObject({
      decided: false,
      needed: { state: [{ type: 'm.room.member', stateKey: storm.admin }] },
    });
    expect(() =>
      deciding(() => {
        throw new RangeError('a bug');
      }),
    ).toThrow(RangeError);
  });
});

describe('a room that people come to and go from', () => {
  it.each(versions)('counts members and resident servers as the state has them (version %s)', (version) => {
    fc.assert(
      fc.property(steps, ([calm, stormy]) => {
        const storm = new Storm(version);
        for (const step of calm) storm.take(step);
        storm.begin();
        for (const step of stormy) storm.take(step);
        const { room } = storm.builder;
        const residents = residentsOf(storm);
        expect([...room.residentServers()].sort()).toEqual([...residents.keys()].sort());
        for (const [server, joined] of residents)
          expect(room.joinedMembersOf(server as ServerName)).toBe(joined);
        const counts = { join: 0, invite: 0, knock: 0, leave: 0, ban: 0 };
        for (const userId of storm.people) {
          const membership = storm.membership(storm.current, userId);
          if (membership !== 'none') counts[membership as keyof typeof counts]++;
        }
        expect(room.header().memberCounts).toEqual(counts);
      }),
      { numRuns },
    );
  });

  it('takes a membership it does not know for leave', () => {
    expect(membershipOf({ membership: 'dance' })).toBe('leave');
    expect(membershipOf({})).toBe('leave');
  });
});

describe('a room without a log', () => {
  it('is not known and has nothing', () => {
    const room = initialRoom();
    expect(room.isKnown).toBe(false);
    expect(room.residentServers()).toEqual([]);
    expect(room.entry(room.currentState(), 'm.room.create', '')).toBeUndefined();
    expect(room.known('$any' as EventId)).toBeUndefined();
    expect(() => room.id).toThrow('not known');
  });
});

function decidedAt({ domainEvents: [fact] }: Decision): number {
  return fact !== undefined && 'decidedAt' in fact ? fact.decidedAt : 0;
}
