import { describe, expect, it } from 'vitest';
import { DestinationWakes } from './destination-wakes.js';

function given() {
  const calls: (readonly string[])[] = [];
  const stage = { now: 0, fails: false };
  const wakes = new DestinationWakes({
    queue: {
      contact: async (destinations) => {
        calls.push(destinations);
        if (stage.fails) throw new Error('the database is away');
      },
    },
    now: () => stage.now,
    everyMs: 5_000,
  });
  return { calls, stage, wakes };
}

describe('waking destinations from another process (TX-05)', () => {
  it('says it once an interval, and what comes meanwhile in one statement', async () => {
    const { calls, stage, wakes } = given();
    for (const server of ['a', 'a', 'b', 'c']) wakes.wake(server);
    await wakes.stop();
    expect(calls).toEqual([['a'], ['b', 'c']]);
    stage.now = 4_999;
    wakes.wake('a');
    stage.now = 5_000;
    wakes.wake('a');
    await wakes.stop();
    expect(calls.slice(2)).toEqual([['a']]);
  });

  it('says it again at the next request where it could not', async () => {
    const { calls, stage, wakes } = given();
    stage.fails = true;
    wakes.wake('a');
    await wakes.stop();
    stage.fails = false;
    wakes.wake('a');
    await wakes.stop();
    expect(calls).toEqual([['a'], ['a']]);
  });
});
