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
/** The allowance of a second in which nothing was begun. */
const MOST_ALLOWED = 100;
/** What a delivery adds: itself, and one more, so that servers which all are there are soon sent to at full speed. */
const ADDED_BY_DELIVERY = 2;
/**
 * Is waited for, so that they are begun by the dozen: reading what is frozen for a failing one and recording its failure
 * cost a statement each, and those that go to proven ones by the same look wait for the first.
 */
const WORTH_A_LOOK = 10;

export function fullAllowance(now: number): Allowance {
  return { attempts: MOST_ALLOWED, at: now, isOpen: true };
}

/** What the allowance has grown to at `now`. A clock that goes back takes nothing away. */
export function grown({ attempts, at, isOpen }: Allowance, now: number): Allowance {
  const more = (Math.max(0, now - at) / 1_000) * FRUITLESS_PER_SECOND;
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
export function untilWorthALook({ attempts, isOpen }: Allowance): number {
  if (isOpen) return 0;
  return Math.max(0, Math.ceil(((WORTH_A_LOOK - attempts) / FRUITLESS_PER_SECOND) * 1_000));
}

/** How many attempts may be begun: in all, at the doubtful lanes together, and at each of these. */
export interface Limits {
  readonly all: number;
  readonly doubtful: number;
  readonly untried: number;
  readonly failing: number;
}

/**
 * How many attempts may be begun now. One that hangs holds a worker until the time-out, so the doubtful lanes never
 * have more than half of the workers each, and three quarters together: some are always there for servers that answer.
 * Where proven ones wait for a worker, one in four free ones is for the doubtful, and never none.
 */
export function mayBegin(facts: {
  readonly concurrency: number;
  /** Attempts under way. */
  readonly active: Readonly<Record<Lane, number>>;
  readonly allowed: Readonly<Record<DoubtfulLane, Allowance>>;
  /** Whether the last look had too few workers for all that were due. */
  readonly isCrowded: boolean;
}): Limits {
  const { concurrency, active, allowed, isCrowded } = facts;
  const all = Math.max(0, concurrency - active.proven - active.untried - active.failing);
  const half = Math.ceil(concurrency / 2);
  const ofBoth = Math.ceil((concurrency * 3) / 4) - active.untried - active.failing;
  const most = isCrowded ? Math.max(1, Math.floor(all / 4)) : all;
  const doubtful = Math.max(0, Math.min(all, most, ofBoth));
  const share = (lane: DoubtfulLane): number =>
    allowed[lane].isOpen
      ? Math.max(0, Math.min(doubtful, half - active[lane], Math.floor(allowed[lane].attempts)))
      : 0;
  return { all, doubtful, untried: share('untried'), failing: share('failing') };
}

/** How many of them may be of one lane. */
export function limitOf(lane: Lane, limits: Limits): number {
  return lane === 'proven' ? limits.all : limits[lane];
}
