import { expect, it } from 'vitest';
import type { Destination } from './destination.js';
import { byHurt } from './destination-text.js';

it('what fails and has something waiting goes first, the longest queue before; then what waits; then the rest', () => {
  const one = (destination: string, more: Partial<Destination>): Destination => ({
    destination,
    state: 'idle',
    pending: 0,
    in_flight: 0,
    failures: 0,
    failing_since: null,
    retry_at: null,
    parked_by: null,
    parked_at: null,
    last_success_at: null,
    last_error: null,
    ...more,
  });
  const sorted = [
    one('dead.test', { state: 'parked', parked_by: 'failures', failures: 40, pending: 900 }),
    one('failing.test', { state: 'backing-off', failures: 2, pending: 20 }),
    one('held.test', { state: 'parked', parked_by: 'operator', pending: 3 }),
    one('failing-for-nothing.test', { state: 'backing-off', failures: 9 }),
    one('busy.test', { state: 'sending', pending: 5_000 }),
    one('next.test', { pending: 1 }),
    one('a.test', {}),
    one('b.test', {}),
  ];
  expect(sorted.toReversed().sort(byHurt)).toEqual(sorted);
});
