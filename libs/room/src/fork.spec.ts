import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import type { Pdu, ServerName, UserId } from '@exeunt/pdu';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import {
  calmStep,
  leaveStep,
  Storm,
  stormStep,
  type StormOutcome,
  type StormSaying,
  type StormStep,
} from './storm.fixture.js';

const versions = ['1', '2', '6', '11', '12'];
const numRuns = Number(process.env['STORM_RUNS'] ?? 20);

/** Every event gets the verdict, and every state is the one, that whole states and the plain algorithm give. */
function weather(storm: Storm, steps: readonly StormStep[]): void {
  for (const step of steps) {
    const outcome = storm.take(step);
    if (outcome === undefined) continue;
    const { pdu, decision, expected } = outcome;
    const [fact] = decision.domainEvents;
    expect(fact?.type, `${pdu.eventId}: ${JSON.stringify(decision.refusal)}`).toBe(
      { accepted: 'PduAccepted', rejected: 'PduRejected', 'soft-failed': 'PduSoftFailed' }[expected],
    );
    expect(storm.differences()).toEqual([]);
    expect(storm.differencesAfter(pdu.eventId)).toEqual([]);
    const { forwardExtremities } = storm.builder.room;
    expect(new Set(forwardExtremities.map(({ eventId }) => eventId))).toEqual(storm.extremities);
  }
}

function membership(userId: UserId, to: string, sender = userId): StormSaying {
  return { type: 'm.room.member', sender, stateKey: userId, content: { membership: to } };
}

describe.each(versions)('a leave storm in a room of version %s', (version) => {
  it('resolves to what the plain algorithm gives, whatever else happens meanwhile', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('public', 'public', 'knock', 'invite'),
        fc.array(calmStep, { minLength: 4, maxLength: 16 }),
        fc.array(stormStep, { minLength: 3, maxLength: 30 }),
        (joinRule, calm, stormy) => {
          const storm = new Storm(version, { joinRule });
          weather(storm, calm);
          storm.begin();
          weather(storm, stormy);
        },
      ),
      { numRuns },
    );
  });

  it('resolves to what the plain algorithm gives, where nearly everybody leaves in order', () => {
    fc.assert(
      fc.property(
        fc.array(calmStep, { minLength: 15, maxLength: 30 }),
        fc.array(leaveStep, { minLength: 5, maxLength: 25 }),
        (calm, stormy) => {
          const storm = new Storm(version, { people: 20 });
          weather(storm, calm);
          storm.begin();
          weather(storm, stormy);
        },
      ),
      { numRuns },
    );
  });
});

describe('a user whose profile changed between two templates, and who left with the older one', () => {
  it.each(versions)('stays out, whichever extremities are merged first (version %s)', (version) => {
    const storm = new Storm(version);
    const [admin, bob, carol, dave] = storm.people as [UserId, UserId, UserId, UserId];
    for (const userId of [bob, carol, dave]) storm.member(userId, 'join');
    const first = storm.now();
    storm.say({ ...membership(bob, 'join'), content: { membership: 'join', displayname: 'Bob' } });
    const second = storm.now();
    storm.member(bob, 'leave', first);
    const merged = storm.say({ type: 'm.room.message', sender: admin, content: {} });
    storm.member(dave, 'leave', first);
    const left = storm.member(carol, 'leave', second);
    storm.say(
      { type: 'm.room.message', sender: admin, content: {} },
      storm.after(merged.pdu.eventId, left.pdu.eventId),
    );
    storm.say({ type: 'm.room.message', sender: admin, content: {} });
    expect(storm.extremities.size).toBe(1);
    expect(storm.differences()).toEqual([]);
    for (const eventId of storm.stateAfter.keys()) expect(storm.differencesAfter(eventId)).toEqual([]);
  });
});

describe.each(versions)(
  'a thousand users of one server who leave by templates from before the first leave, version %s',
  (version) => {
    const count = version === '11' ? 1000 : 200;

    it('costs the last leave no more than the second, and merges twenty at a time', () => {
      const builder = new RoomBuilder({
        version,
        servers: [paperServer('hub.example'), paperServer('school.example')],
        creator: '@admin:hub.example',
      });
      const pupils = Array.from({ length: count }, (_, at) => `@pupil${at}:school.example`);
      for (const pupil of pupils) builder.member(pupil, 'join');
      const leaves = pupils.map((userId) =>
        builder.make({
          sender: userId,
          type: 'm.room.member',
          stateKey: userId,
          content: { membership: 'leave' },
        }),
      );

      const { room } = builder;
      const lookUps = (['entryOf', 'known', 'pdu', 'changesBetween'] as const).map((name) =>
        vi.spyOn(room, name),
      );
      const costs = leaves.map((leave) => {
        for (const spy of lookUps) spy.mockClear();
        const { refusal, domainEvents } = builder.receive(leave);
        expect(refusal).toBeUndefined();
        expect(domainEvents[0]).toMatchObject({ type: 'PduAccepted', changes: [{ stateKey: leave.sender }] });
        return lookUps.reduce((sum, spy) => sum + spy.mock.calls.length, 0);
      });
      for (const spy of lookUps) spy.mockRestore();
      expect(room.forkBase).toBeDefined();
      expect(room.forwardExtremityCount).toBe(count);
      expect(Math.max(...costs.slice(1))).toBeLessThanOrEqual(costs[1]!);
      expect(room.header().memberCounts).toMatchObject({ join: 1, leave: count });
      expect(room.joinedMembersOf('school.example' as ServerName)).toBe(0);

      // EV-05: each message takes up twenty and leaves one, and hands on a difference that does not grow.
      for (let open = count; open > 1; open = room.forwardExtremityCount) {
        const merge = builder.say({ sender: '@admin:hub.example', content: { body: `${open} open` } });
        expect(merge.prevEvents).toHaveLength(Math.min(20, open));
        expect(room.forwardExtremityCount).toBe(Math.max(1, open - 19));
        expect(room.known(merge.eventId)!.stateAfter!.overlay.size).toBeLessThanOrEqual(150);
      }
      expect(room.forkBase).toBeUndefined();
      for (const pupil of pupils) expect(room.membership(room.currentState(), pupil)).toBe('leave');
    });
  },
);

describe('a stream of leaves, each with thirty others on their way', () => {
  it('keeps the fork narrow and what is stored of a state short, however long it goes on', () => {
    const builder = new RoomBuilder({
      version: '11',
      servers: [paperServer('hub.example'), paperServer('school.example')],
      creator: '@admin:hub.example',
    });
    const pupils = Array.from({ length: 400 }, (_, at) => `@pupil${at}:school.example`);
    for (const pupil of pupils) builder.member(pupil, 'join');
    const onTheirWay: Pdu[] = [];
    const widths: number[] = [];
    const arrive = (): void => {
      const leave = onTheirWay.shift()!;
      expect(builder.receive(leave).refusal).toBeUndefined();
      widths.push(
        builder.room.forwardExtremityCount,
        builder.room.known(leave.eventId)!.stateAfter!.overlay.size,
      );
    };
    for (const pupil of pupils) {
      const content = { membership: 'leave' };
      onTheirWay.push(builder.make({ sender: pupil, type: 'm.room.member', stateKey: pupil, content }));
      if (onTheirWay.length > 30) arrive();
    }
    while (onTheirWay.length > 0) arrive();
    expect(Math.max(...widths)).toBeLessThanOrEqual(60);
    expect(builder.room.header().memberCounts).toMatchObject({ join: 1, leave: 400 });
  });
});

describe.each(versions)('a storm of leaves and merges in order, in a room of version %s', (version) => {
  it('takes the short cut at every turn and resolves to what the plain algorithm gives', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ leaves: fc.boolean(), lag: fc.nat(12), actor: fc.nat(30) }), {
          minLength: 5,
          maxLength: 30,
        }),
        (steps) => {
          const storm = new Storm(version, { people: 24 });
          const [admin, ...others] = storm.people as [UserId, ...UserId[]];
          for (const userId of others) storm.member(userId, 'join');
          const moments = [storm.now()];
          const staying = [...others];
          for (const { leaves, lag, actor } of steps) {
            const moment = moments.at(-1 - Math.min(lag, moments.length - 1))!;
            const leaver = leaves ? staying.splice(actor % Math.max(1, staying.length), 1)[0] : undefined;
            const { expected } =
              leaver === undefined
                ? storm.say({ type: 'm.room.message', sender: admin, content: {} })
                : storm.member(leaver, 'leave', moment);
            expect(expected).toBe('accepted');
            expect(storm.differences()).toEqual([]);
            const { room } = storm.builder;
            expect(room.forkBase === undefined).toBe(storm.extremities.size === 1);
            moments.push(storm.now());
          }
          for (const eventId of storm.stateAfter.keys()) expect(storm.differencesAfter(eventId)).toEqual([]);
        },
      ),
      { numRuns },
    );
  });
});

describe('a fork that is none of leaves alone', () => {
  const fork = (version: string, disturb: (storm: Storm) => StormOutcome): Storm => {
    const storm = new Storm(version, { people: 6 });
    const [, ...others] = storm.people as UserId[];
    for (const userId of others.slice(0, 5)) storm.member(userId, 'join');
    storm.begin();
    const before = storm.now();
    storm.member(others[0]!, 'leave', before);
    storm.member(others[1]!, 'leave', before);
    expect(storm.builder.room.forkBase).toBeDefined();
    expect(disturb(storm).expected).toBe('accepted');
    expect(storm.builder.room.forkBase).toBeUndefined();
    expect(storm.differences()).toEqual([]);
    return storm;
  };
  const start = (storm: Storm) => storm.after(storm.event([...storm.extremities][0]!).prevEvents[0]!);

  it.each(versions)('is resolved by the plain algorithm once somebody is banned (version %s)', (version) => {
    fork(version, (storm) => storm.say(membership(storm.people[3]!, 'ban', storm.admin), start(storm)));
  });

  it.each(versions)('is resolved by the plain algorithm once the topic changes (version %s)', (version) => {
    fork(version, (storm) =>
      storm.say({ type: 'm.room.topic', sender: storm.admin, stateKey: '', content: {} }, start(storm)),
    );
  });

  it.each(versions.filter((version) => version !== '1'))(
    'is resolved by the plain algorithm where a leave is dated before the join (version %s)',
    (version) => {
      fork(version, (storm) => storm.member(storm.people[3]!, 'leave', start(storm), -900_000));
    },
  );

  it('is resolved by the plain algorithm where an inviter and the invited both leave, in version 12 (SR-31)', () => {
    const storm = new Storm('12', { people: 3, joinRule: 'invite' });
    const [admin, bob, carol] = storm.people as [UserId, UserId, UserId];
    storm.say(membership(bob, 'invite', admin));
    storm.member(bob, 'join');
    storm.say(membership(carol, 'invite', bob));
    const before = storm.now();
    storm.member(bob, 'leave', before);
    storm.member(carol, 'leave', before);
    expect(storm.builder.room.forwardExtremityCount).toBe(2);
    expect(storm.builder.room.forkBase).toBeUndefined();
    expect(storm.differences()).toEqual([]);
  });

  it('takes the short cut again once the fork has closed', () => {
    const storm = fork('11', (one) => one.say(membership(one.people[3]!, 'ban', one.admin), start(one)));
    storm.say({ type: 'm.room.message', sender: storm.admin, content: {} });
    const before = storm.now();
    storm.member(storm.people[4]!, 'leave', before);
    storm.member(storm.people[5]!, 'leave', before);
    expect(storm.builder.room.forkBase).toBeDefined();
    expect(storm.differences()).toEqual([]);
  });
});
