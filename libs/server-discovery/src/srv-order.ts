/** One SRV record as DNS gives it (RFC 2782). */
export interface SrvRecord {
  /** The target, with or without its trailing dot; the root (`.` or empty) says that there is no such service. */
  readonly name: string;
  readonly port: number;
  /** Lower goes first. */
  readonly priority: number;
  /** Share among records of one priority. */
  readonly weight: number;
}

/**
 * The records in the order in which to try them: by priority, and within one priority drawn at random in proportion to
 * weight, so that over many requests each gets its share. Records of weight 0 are drawn first only by the least of
 * chances. `random` gives 0 <= x < 1 and is asked once a record. (DS-09; RFC 2782, "Weight")
 */
export function orderSrvRecords(records: readonly SrvRecord[], random: () => number): readonly SrvRecord[] {
  const priorities = [...new Set(records.map(({ priority }) => priority))].sort((a, b) => a - b);
  return priorities.flatMap((priority) =>
    drawByWeight(
      records.filter((record) => record.priority === priority),
      random,
    ),
  );
}

function drawByWeight(records: readonly SrvRecord[], random: () => number): readonly SrvRecord[] {
  // Those of weight 0 stand first, where only a draw of exactly 0 finds them while any other is left.
  const left = [
    ...records.filter(({ weight }) => weight === 0),
    ...records.filter(({ weight }) => weight > 0),
  ];
  const drawn: SrvRecord[] = [];
  while (left.length > 0) {
    const total = left.reduce((sum, { weight }) => sum + weight, 0);
    // "a uniform random number between 0 and the sum computed (inclusive)"; the first whose running sum reaches it.
    const draw = Math.floor(random() * (total + 1));
    let sum = 0;
    const index = left.findIndex(({ weight }) => (sum += weight) >= draw);
    drawn.push(...left.splice(index, 1));
  }
  return drawn;
}
