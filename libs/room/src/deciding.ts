import type { FactsNeeded } from './room-facts.js';
import { FactsMissing } from './room.js';

/** The outcome of a decision on a room that may be loaded in part. */
export type Decided<T> =
  | { readonly decided: true; readonly outcome: T }
  /** Load these, let the room learn them, and decide again. */
  | { readonly decided: false; readonly needed: FactsNeeded };

/**
 * Runs a decision, which is pure and may be run again: where a fact it looks at has not been loaded, gives what to
 * load instead of an outcome.
 */
export function deciding<T>(decide: () => T): Decided<T> {
  try {
    return { decided: true, outcome: decide() };
  } catch (thrown) {
    if (thrown instanceof FactsMissing) return { decided: false, needed: thrown.needed };
    throw thrown;
  }
}
