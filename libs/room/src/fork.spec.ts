import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { calmStep, leaveStep, Storm, stormStep, type StormStep } from './storm.fixture.js';

const versions = ['1', '2', '6', '11', '12'];
const numRuns = Number(process.env['FORK_RUNS'] ?? 40);

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

  it('resolves to what the plain algorithm gives, of leaves and messages alone', () => {
    fc.assert(
      fc.property(
        fc.array(calmStep, { minLength: 8, maxLength: 20 }),
        fc.array(leaveStep, { minLength: 5, maxLength: 30 }),
        (calm, stormy) => {
          const storm = new Storm(version, { people: 14 });
          weather(storm, calm);
          storm.begin();
          weather(storm, stormy);
        },
      ),
      { numRuns },
    );
  });
});
