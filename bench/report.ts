/** A line for whoever watches; standard output is kept for the result. */
export function progress(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** What a benchmark ends with: a figure and what it was measured against, in the same run. */
export interface Result {
  readonly name: string;
  /** Of `value` and `baseline`. */
  readonly unit: string;
  readonly value: number;
  readonly baseline: number;
  /** `value / baseline`, or as the benchmark's own docstring says. */
  readonly ratio: number;
  /** What the ratio should keep to, and whether it did. */
  readonly target?: { readonly atLeast?: number; readonly atMost?: number };
  readonly [detail: string]: unknown;
}

/** Writes the result as the one line of JSON that a benchmark prints, last. */
export function report(result: Result): void {
  process.stdout.write(`${JSON.stringify(result, (_, value: unknown) => rounded(value))}\n`);
}

/** Four significant digits say all that a noisy machine knows. */
function rounded(value: unknown): unknown {
  if (typeof value !== 'number' || Number.isInteger(value)) return value;
  return Math.abs(value) >= 1000 ? Math.round(value) : Number(value.toPrecision(4));
}

/** The value below which `share` (0 to 1) of the samples lie. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

/** The value in the middle. */
export function median(samples: readonly number[]): number {
  return quantile(samples, 0.5);
}

/** `--name value` of the command line, as a number. */
export function numberOption(name: string, otherwise: number): number {
  const at = process.argv.indexOf(`--${name}`);
  const value = at < 0 ? otherwise : Number(process.argv[at + 1]);
  if (!Number.isFinite(value)) throw new Error(`--${name} needs a number`);
  return value;
}

/** `--name value` of the command line. */
export function textOption(name: string): string | undefined {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? undefined : process.argv[at + 1];
}

/** Whether `--name` is on the command line. */
export function flagOption(name: string): boolean {
  return process.argv.includes(`--${name}`);
}
