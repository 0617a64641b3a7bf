import type { Target } from '@exeunt/server-discovery';
import { LRUCache } from 'lru-cache';

const minAsideMs = 30_000;
const maxAsideMs = 600_000;

/**
 * Remembers to which targets no connection came about, so that of several the dead one does not cost every request
 * its time: it goes last for half a minute, twice as long each time it fails again, up to ten minutes. It is never
 * left out.
 */
export class TargetHealth {
  readonly #failures: LRUCache<string, { readonly count: number; readonly untilTs: number }>;
  readonly #now: () => number;

  constructor(maxTargets: number, now: () => number) {
    this.#failures = new LRUCache({ max: maxTargets });
    this.#now = now;
  }

  /** The targets in their order, but last those that are set aside. */
  lastThoseThatFailed(targets: readonly Target[]): readonly Target[] {
    const isAside = (target: Target) => this.#now() < (this.#failures.get(keyOf(target))?.untilTs ?? 0);
    return [...targets.filter((target) => !isAside(target)), ...targets.filter(isAside)];
  }

  failed(target: Target): void {
    const count = (this.#failures.get(keyOf(target))?.count ?? 0) + 1;
    const asideMs = Math.min(minAsideMs * 2 ** Math.min(count - 1, 10), maxAsideMs);
    this.#failures.set(keyOf(target), { count, untilTs: this.#now() + asideMs });
  }

  connected(target: Target): void {
    this.#failures.delete(keyOf(target));
  }
}

function keyOf({ host, port, certificateName }: Target): string {
  return JSON.stringify([host, port, certificateName]);
}
