import { describe, expect, it } from 'vitest';
import type { EventId } from '@exeunt/pdu';
import { compareEventIds } from './event-id-order.js';
import { reverseTopologicalPowerOrder } from './power-ordering.js';

function ordered(graph: Record<string, string[]>, events: string[]): string[] {
  return reverseTopologicalPowerOrder(
    events as EventId[],
    (id) => (graph[id] ?? []) as EventId[],
    compareEventIds,
  );
}

describe('reverse topological power ordering', () => {
  it('takes the smallest of those whose auth events have all been taken', () => {
    expect(ordered({ a: ['z'], b: [], z: ['y'], y: [] }, ['a', 'b', 'y', 'z'])).toEqual(['b', 'y', 'z', 'a']);
  });

  it('holds an event back behind one that it reaches only through others', () => {
    expect(ordered({ a: ['between'], between: ['z'], z: [] }, ['a', 'z'])).toEqual(['z', 'a']);
  });

  it('does not mind the same auth event cited twice', () => {
    expect(ordered({ a: ['b', 'b'], b: [] }, ['a', 'b'])).toEqual(['b', 'a']);
  });

  it('leaves out events that cite one another, and what rests on them', () => {
    expect(ordered({ a: ['b'], b: ['a'], c: ['a'], d: [] }, ['a', 'b', 'c', 'd'])).toEqual(['d']);
  });
});

describe('event IDs', () => {
  it('are ordered by codepoint', () => {
    expect(compareEventIds('$\uFF5E' as EventId, '$\u{1F600}' as EventId)).toBeLessThan(0);
  });
});
