import { expect, it } from 'vitest';
import { inProportion } from './in-proportion.js';

it('reads again when thirty times as long has passed as reading took, and shares it until then', async () => {
  let now = 0;
  let reads = 0;
  let done: (value: number) => void = () => {};
  const value = inProportion(
    () => new Promise<number>((resolve) => (done = () => resolve(++reads))),
    () => now,
  );
  const first = [value(), value()];
  now = 100;
  done(1);
  expect(await Promise.all(first)).toEqual([1, 1]);
  now = 3_099;
  expect(await value()).toBe(1);
  now = 3_100;
  const second = value();
  done(2);
  expect(await second).toBe(2);
});

it('keeps no failure', async () => {
  let reads = 0;
  const value = inProportion(
    async () => {
      reads += 1;
      if (reads === 1) throw new Error('away');
      return reads;
    },
    () => 0,
  );
  await expect(value()).rejects.toThrow('away');
  expect(await value()).toBe(2);
});
