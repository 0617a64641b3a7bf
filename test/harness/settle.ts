import { setTimeout as delay } from 'node:timers/promises';

/** Long enough for a machine that is busy with other tests: only a failure ever takes this long. */
const DEADLINE_MS = 30_000;

/** What is waited for runs on the same machine, often in the same loop: it gets its turn. */
const leaveRoom = (): Promise<unknown> => delay(5);

/** Tries again and again until `probe` gives something; fails at the deadline. */
export async function settle<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  deadlineMs = DEADLINE_MS,
  between: () => unknown = leaveRoom,
): Promise<T> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const found = await probe();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await between();
  }
}

/** Waits until `condition` holds. */
export async function until(
  what: string,
  condition: () => Promise<boolean> | boolean,
  deadlineMs = DEADLINE_MS,
  between: () => unknown = leaveRoom,
): Promise<void> {
  await settle(what, async () => ((await condition()) ? true : undefined), deadlineMs, between);
}
