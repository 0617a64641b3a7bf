/** Rows of a table whose title, the first column, is to name the requirement that stands in column `at` of each. */
export function citing<const Row extends readonly [string, ...unknown[]]>(
  at: number,
  rows: readonly Row[],
): Row[] {
  return rows.map((row) => [`${row[0]} (${String(row[at])})`, ...row.slice(1)] as unknown as Row);
}
