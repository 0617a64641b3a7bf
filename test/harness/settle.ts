import { setImmediate, setTimeout as delay } from 'node:timers/promises';

/** Long enough for a machine that is busy with other tests: only a failure ever takes this long. */
const DEADLINE_MS = 30_000;

/** How often to look again at once: enough for what waits for no one but this process. */
const TURNS = 100;

const pause = (turn: number): Promise<unknown> => (turn < TURNS ? setImmediate() : delay(5));

/**
 * Lets a test's clock go on while it waits. A loop may have read the time just before the test moved it, and begin to
 * wait just after: on a clock that stands still from then on it would wait for ever.
 */
export const ticking =
  (clock: { advance(ms: number): void }) =>
  async (turn: number): Promise<void> => {
    await pause(turn);
    clock.advance(100);
  };

/** Tries again and again until `probe` gives something; fails at the deadline. */
export async function settle<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  deadlineMs = DEADLINE_MS,
  between: (turn: number) => unknown = pause,
): Promise<T> {
  const end = performance.now() + deadlineMs;
  for (let turn = 0; ; turn += 1) {
    const found = await probe();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await between(turn);
  }
}

/** Waits until `condition` holds. */
export async function until(
  what: string,
  condition: () => Promise<boolean> | boolean,
  deadlineMs?: number,
  between?: (turn: number) => unknown,
): Promise<void> {
  await settle(what, async () => ((await condition()) ? true : undefined), deadlineMs, between);
}
