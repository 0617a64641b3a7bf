/** A time that moves only when a test says so. */
export interface ManualClock {
  /** Milliseconds since the epoch. Bound, so `clock.now` can be handed over. */
  readonly now: () => number;
  /** Runs `task` once, when the clock has moved on by `delayMs`; gives a function that calls it off. */
  readonly after: (delayMs: number, task: () => void) => () => void;
  /**
   * Moves the clock on, and runs what falls due in order, each at its own time. What a task puts off for a time
   * within the span runs as well. Resolves when the promises that were ready have gone on.
   */
  advance(byMs: number): Promise<void>;
  /** Tasks put off and not yet due. */
  readonly pending: number;
}

interface Task {
  readonly dueTs: number;
  readonly run: () => void;
}

/** A clock that stands at `startTs`: a Tuesday in November 2023 unless told, as in the key vectors. */
export function createManualClock(startTs = 1_700_000_000_000): ManualClock {
  let nowTs = startTs;
  const tasks = new Set<Task>();

  function earliestUntil(untilTs: number): Task | undefined {
    let earliest: Task | undefined;
    for (const task of tasks) {
      if (task.dueTs <= untilTs && (earliest === undefined || task.dueTs < earliest.dueTs)) earliest = task;
    }
    return earliest;
  }

  return {
    now: () => nowTs,
    after(delayMs, run) {
      const task = { dueTs: nowTs + Math.max(delayMs, 0), run };
      tasks.add(task);
      return () => void tasks.delete(task);
    },
    async advance(byMs) {
      const untilTs = nowTs + byMs;
      for (let task = earliestUntil(untilTs); task !== undefined; task = earliestUntil(untilTs)) {
        tasks.delete(task);
        nowTs = task.dueTs;
        task.run();
        // One turn of the event loop, so that code waiting for the task may put off the next.
        await new Promise((resolve) => setImmediate(resolve));
      }
      nowTs = untilTs;
      await new Promise((resolve) => setImmediate(resolve));
    },
    get pending() {
      return tasks.size;
    },
  };
}
