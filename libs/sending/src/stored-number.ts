/** A `bigint` of the database as a number; null for none. What the sender keeps so are times and counts, far below 2^53. */
export function numberOf(text: string | null | undefined): number | null {
  return text === null || text === undefined ? null : Number(text);
}
