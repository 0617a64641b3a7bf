import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { EventId, ServerName, UserId } from '@exeunt/pdu';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import type { MemberEntry } from './room-facts.js';
import { isRefusal } from './refusal.js';
import { Room } from './room.js';
import { admitReader, eventsUpTo, missingEvents, servable, stateBefore, wasIn } from './serve-history.js';
import { trunkAt, withEntry } from './state-ref.js';
import { StoredRoom } from './stored-room.fixture.js';
import { calmStep, leaveStep, Storm, stormStep } from './storm.fixture.js';

const numRuns = Number(process.env['STORM_RUNS'] ?? 6);
const steps = fc.tuple(
  fc.array(calmStep, { minLength: 3, maxLength: 10 }),
  fc.oneof(fc.array(stormStep, { maxLength: 15 }), fc.array(leaveStep, { maxLength: 15 })),
);
const hub = 'hub.example' as ServerName;
const far = 'far.example' as ServerName;

function stormOf(
  version: string,
  [calm, stormy]: typeof steps extends fc.Arbitrary<infer T> ? T : never,
): Storm {
  const storm = new Storm(version);
  for (const step of calm) storm.take(step);
  storm.begin();
  for (const step of stormy) storm.take(step);
  return storm;
}

describe.each(['1', '2', '6', '11', '12'])('the past of any room of version %s', (version) => {
  it('has the state before each event that the plain algorithm gives (FE-05, SR-01)', () => {
    fc.assert(
      fc.property(steps, (storms) => {
        const storm = stormOf(version, storms);
        const { room } = storm.builder;
        for (const eventId of storm.stateAfter.keys()) {
          const before = stateBefore(room, eventId);
          if (storm.rejected.has(eventId)) {
            expect(before).toMatchObject({ refused: 'unknown-event' });
            continue;
          }
          if (isRefusal(before)) throw new Error(before.detail);
          const { prevEvents } = storm.event(eventId);
          const expected = prevEvents.length === 0 ? new Map() : storm.after(...prevEvents).state;
          const is = [...storm.touched].map((key) => [key, room.entryOf(before, key)]);
          expect(is).toEqual([...storm.touched].map((key) => [key, expected.get(key)]));
        }
      }),
      { numRuns },
    );
  });

  it('is the same wherever it is looked at from: the whole room, or one loaded as it is asked for', async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.nat(), async (storms, at) => {
        const storm = stormOf(version, storms);
        const { builder } = storm;
        const stored = new StoredRoom(builder.roomId);
        await stored.append(builder.room, builder.domainEvents);
        const ids = [...storm.stateAfter.keys()];
        const eventId = ids[at % ids.length]!;
        const latest = [ids.at(-1)!, eventId];
        const answers = (room: Room) => ({
          missing: missingEvents(room, { latest, earliest: [ids[2]!], limit: 7, minDepth: 2n }),
          backfill: eventsUpTo(room, latest, 9),
          before: stateBefore(room, eventId),
        });
        expect(await stored.decide(await stored.cold(), answers)).toEqual(answers(builder.room));
      }),
      { numRuns },
    );
  });

  it('is walked without a rejected event in the answer, or one twice, or more than was asked for', () => {
    fc.assert(
      fc.property(steps, fc.integer({ min: 1, max: 30 }), (storms, limit) => {
        const storm = stormOf(version, storms);
        const { room } = storm.builder;
        const latest = room.forwardExtremities.map(({ eventId }) => eventId);
        const missing = missingEvents(room, { latest, earliest: [], limit, minDepth: 0n });
        const backfill = eventsUpTo(room, latest, limit);
        for (const found of [missing, backfill]) {
          expect(found.length).toBeLessThanOrEqual(limit);
          expect(new Set(found).size).toBe(found.length);
          for (const { eventId } of found) expect(room.known(eventId)?.status).not.toBe('rejected');
        }
        expect(missing.some(({ eventId }) => latest.includes(eventId))).toBe(false);
        // Depths may lie, parents don't: what nobody asked for comes after something that cites it.
        for (const [at, { eventId }] of backfill.entries()) {
          const isCited = backfill.slice(0, at).some(({ prevEvents }) => prevEvents.includes(eventId));
          const isBehindRejected = [...storm.rejected].some((id) =>
            storm.event(id).prevEvents.includes(eventId),
          );
          expect(isCited || isBehindRejected || latest.includes(eventId)).toBe(true);
        }
      }),
      { numRuns },
    );
  });
});

describe('who may read the past', () => {
  const builder = new RoomBuilder({
    version: '11',
    servers: [paperServer(hub), paperServer(far)],
    creator: '@alice:hub.example',
  });
  const bob = '@bob:far.example';
  const admitted = () => admitReader(builder.room, far)?.rule;

  it('is a server with a joined member, whether we have one or not (FE-05)', () => {
    expect(admitReader(Room.initial(), far)).toMatchObject({ refused: 'not-resident' });
    expect(admitted()).toBe('FE-05');
    builder.member(bob, 'invite', '@alice:hub.example');
    expect(admitted()).toBe('FE-05');
    builder.member(bob, 'join');
    expect(admitted()).toBeUndefined();
    builder.say({
      sender: '@alice:hub.example',
      type: 'm.room.server_acl',
      stateKey: '',
      content: { allow: ['hub.example'] },
    });
    expect(admitted()).toBe('AC-05');
    builder.say({
      sender: '@alice:hub.example',
      type: 'm.room.server_acl',
      stateKey: '',
      content: { allow: ['*'] },
    });
    builder.member('@alice:hub.example', 'leave');
    expect(admitted()).toBeUndefined();
    builder.member(bob, 'leave');
    expect(admitted()).toBe('FE-05');
  });

  it('gets no event that is not known here', () => {
    expect(servable(builder.room, '$nothing:hub.example' as EventId)).toBeUndefined();
  });
});

describe('whether a server was in the room', () => {
  const builder = new RoomBuilder({
    version: '11',
    servers: [paperServer(hub), paperServer(far)],
    creator: '@alice:hub.example',
  });
  const bob = '@bob:far.example' as UserId;
  const joined = builder.member(bob, 'join');
  const left = builder.member(bob, 'leave');
  const members: readonly MemberEntry[] = [
    { userId: bob, position: 10, membership: 'invite' },
    { userId: bob, position: 20, membership: 'join' },
    { userId: '@eve:far.example' as UserId, position: 25, membership: 'knock' },
    { userId: bob, position: 30, membership: 'leave' },
  ];
  const was = (position: number, overlay?: EventId | null, memberships = ['join'] as const) => {
    const trunk = trunkAt(position);
    const state = overlay === undefined ? trunk : withEntry(trunk, 'm.room.member', bob, overlay);
    return wasIn(builder.room, { state, memberships }, far, members);
  };

  it.each([
    [9, false],
    [10, false],
    [19, false],
    [20, true],
    [29, true],
    [30, false],
    [99, false],
  ])('is told by the last entry up to the state’s position: %i', (position, expected) => {
    expect(was(position)).toBe(expected);
  });

  it('is told by what a fork has instead, where it has something', () => {
    expect(was(9, joined.eventId)).toBe(true);
    expect(was(25, left.eventId)).toBe(false);
    expect(was(25, null)).toBe(false);
  });
});
