import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

/* docs/extending.md shows code that is tested, and shows it as it is. */

const root = new URL('../../', import.meta.url);
const page = readFileSync(new URL('docs/extending.md', root), 'utf8');
const shown = [...page.matchAll(/<!-- (\S+) -->\n\n```ts\n(.*?)```\n/gs)].map(([, file, code]) => ({
  file: file ?? '',
  code: code ?? '',
}));

describe('the page on adding a consumer', () => {
  it('shows no code but that of files', () => {
    expect(shown).toHaveLength(3);
    expect(page.match(/^```ts/gm)).toHaveLength(shown.length);
  });

  it.each(shown)('shows $file as it is', ({ file, code }) => {
    expect(code).toBe(readFileSync(new URL(file, root), 'utf8'));
  });

  it('needs less than forty lines for a projection', () => {
    const { code } = shown.find(({ file }) => file.endsWith('.projection.ts'))!;
    expect(code.trimEnd().split('\n').length).toBeLessThan(40);
  });
});
