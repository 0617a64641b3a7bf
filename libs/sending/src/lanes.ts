/**
 * How a destination has fared, as far as it matters for who is sent to first: it answered the last time, nothing has
 * ever been delivered to it, or it fails.
 */
export type Lane = 'proven' | 'untried' | 'failing';

export const LANES = ['proven', 'untried', 'failing'] as const satisfies readonly Lane[];

/** Lanes whose attempts may well go nowhere. */
export const DOUBTFUL = ['untried', 'failing'] as const satisfies readonly Lane[];
export type DoubtfulLane = (typeof DOUBTFUL)[number];

/** Attempts that may be begun at destinations of a doubtful lane. */
export interface Allowance {
  readonly attempts: number;
  /** When it was reckoned, ms since the epoch. */
  readonly at: number;
  /** Whether it is being spent: from when it is worth a look until nothing is left. */
  readonly isOpen: boolean;
}

/**
 * Attempts a second at the destinations of one doubtful lane that go nowhere, however many there are: each costs more
 * than a delivery. Those that are delivered are free.
 */
const FRUITLESS_PER_SECOND = 50;
/** The same while proven destinations wait for a worker: each takes the time of some ten deliveries from them. */
const FRUITLESS_WHILE_CROWDED = 20;
/** The allowance of a second in which nothing was begun. */
const MOST_ALLOWED = 100;
/** What a delivery adds: itself, and one more, so that servers which all are there are soon sent to at full speed. */
const ADDED_BY_DELIVERY = 2;
/**
 * Is waited for, so that they are begun by the dozen: reading what is frozen for a failing one and recording its
 * failure cost a statement each, and those that go to proven ones by the same look wait for the first.
 */
const WORTH_A_LOOK = 10;

export function fullAllowance(now: number): Allowance {
  return { attempts: MOST_ALLOWED, at: now, isOpen: true };
}

/**
 * What the allowance has grown to at `now`; `isCrowded`: whether proven destinations have waited for a worker
 * meanwhile. A clock that goes back takes nothing away.
 */
export function grown({ attempts, at, isOpen }: Allowance, now: number, isCrowded: boolean): Allowance {
  const more = (Math.max(0, now - at) / 1_000) * perSecond(isCrowded);
  const sum = Math.min(MOST_ALLOWED, attempts + more);
  return { attempts: sum, at: now, isOpen: isOpen || sum >= WORTH_A_LOOK };
}

/** After so many attempts were begun. */
export function used({ attempts, at, isOpen }: Allowance, begun: number): Allowance {
  const left = Math.max(0, attempts - begun);
  return { attempts: left, at, isOpen: isOpen && left >= 1 };
}

/** After one of them was delivered. */
export function rewarded(allowance: Allowance): Allowance {
  return { ...allowance, attempts: Math.min(MOST_ALLOWED, allowance.attempts + ADDED_BY_DELIVERY) };
}

/** How long until the allowance is worth a look again, ms; 0 where it is. */
export function untilWorthALook({ attempts, isOpen }: Allowance, isCrowded: boolean): number {
  if (isOpen) return 0;
  return Math.max(0, Math.ceil(((WORTH_A_LOOK - attempts) / perSecond(isCrowded)) * 1_000));
}

function perSecond(isCrowded: boolean): number {
  return isCrowded ? FRUITLESS_WHILE_CROWDED : FRUITLESS_PER_SECOND;
}

/** How many attempts may be begun at destinations of each lane. */
export type Limits = Readonly<Record<Lane, number>>;

/**
 * How many attempts may be begun now. Proven destinations have `concurrency` workers, and each doubtful lane has half
 * as many of its own: an attempt that hangs holds its worker until the time-out, and must hold up nobody who answers.
 */
export function mayBegin(facts: {
  readonly concurrency: number;
  /** Attempts under way. */
  readonly active: Readonly<Record<Lane, number>>;
  readonly allowed: Readonly<Record<DoubtfulLane, Allowance>>;
}): Limits {
  const { concurrency, active, allowed } = facts;
  const ofDoubtful = (lane: DoubtfulLane): number => {
    const { attempts, isOpen } = allowed[lane];
    return isOpen
      ? Math.max(0, Math.min(Math.ceil(concurrency / 2) - active[lane], Math.floor(attempts)))
      : 0;
  };
  return {
    proven: Math.max(0, concurrency - active.proven),
    untried: ofDoubtful('untried'),
    failing: ofDoubtful('failing'),
  };
}
