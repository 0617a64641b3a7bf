import { existsSync, readFileSync } from 'node:fs';

/** Pages in docs/ that say which test holds what they promise: how their cells name tests, and whether those are there. */

/** A spec file and the exact titles of tests in it. */
export interface NamedTest {
  /** As the page writes it; see {@link fullPath}. */
  readonly file: string;
  readonly titles: readonly string[];
}

const root = new URL('../../', import.meta.url);

/** A file of the repository, by its path from the root. */
export function readText(path: string): string {
  return readFileSync(new URL(path, root), 'utf8');
}

/** A path as the pages write it, from the root: `pdu/format.ts` is in `libs/pdu/src`, `gateway/…` in `apps/gateway/src`. */
export function fullPath(short: string): string {
  if (short.startsWith('test/')) return short;
  const [lib, ...rest] = short.split('/');
  return lib === 'gateway' ? `apps/gateway/src/${rest.join('/')}` : `libs/${lib}/src/${rest.join('/')}`;
}

export function fileExists(short: string): boolean {
  return existsSync(new URL(fullPath(short), root));
}

/** What stands in backquotes. */
export const codeSpans = (text: string): readonly string[] =>
  [...text.matchAll(/`([^`]+)`/g)].map(([, code]) => code!);

/** The tests that a cell names, a file and its titles between breaks; and what else it says. */
export function namedTests(cell: string): { readonly tests: readonly NamedTest[]; readonly remark: string } {
  const parts = cell.split('<br>');
  const named = parts.filter((one) => /^`[^`]+\.ts`/.test(one));
  return {
    tests: named.map((one) => {
      const [file, ...titles] = codeSpans(one);
      return { file: file!, titles };
    }),
    remark: parts.filter((one) => !named.includes(one)).join(' '),
  };
}

/** What is wrong with a named test: no spec file, no title, or titles that no `describe` or `it` of the file has. */
export function missingTitles({ file, titles }: NamedTest): readonly string[] {
  if (!/\.(spec|contract)\.ts$/.test(file) || !fileExists(file)) return [`${file}: no spec file`];
  if (titles.length === 0) return [`${file}: no title`];
  const source = readText(fullPath(file));
  return titles
    .filter((title) => !["'", '"', '`'].some((quote) => source.includes(`${quote}${title}${quote}`)))
    .map((title) => `${file}: ${title}`);
}
