import { setImmediate, setTimeout as delay } from 'node:timers/promises';

/** Long enough for a machine that is busy with other tests: only a failure ever takes this long. */
const DEADLINE_MS = 30_000;

/** How often to look again at once: enough for what waits for no one but this process. */
const TURNS = 100;

/** Tries again and again until `probe` gives something; fails at the deadline. */
export async function settle<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  deadlineMs = DEADLINE_MS,
  between: (turn: number) => unknown = (turn) => (turn < TURNS ? setImmediate() : delay(5)),
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
