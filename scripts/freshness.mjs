import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { root } from './node.mjs';

const sources = ['apps', 'libs', 'examples', 'bench', 'test/harness', 'docs/bus'];
const files = ['package-lock.json', 'tsconfig.json', 'tsconfig.build.json'];

/** What the build was made from: names, sizes and times of all sources. */
function stamp() {
  const hash = createHash('sha256');
  const add = (/** @type {string} */ path) => {
    const { size, mtimeMs } = statSync(`${root}${path}`);
    hash.update(`${path} ${size} ${mtimeMs}\n`);
  };
  for (const folder of sources) {
    for (const entry of readdirSync(`${root}${folder}`, { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) add(`${entry.parentPath.slice(root.length)}/${entry.name}`);
    }
  }
  files.forEach(add);
  return hash.digest('hex');
}

const stampFile = `${root}dist/.built-from`;

/** Remembers that dist/ is what the sources say. */
export function stampFresh() {
  writeFileSync(stampFile, stamp());
}

/** Whether dist/ is what the sources say. */
export function isFresh() {
  try {
    return readFileSync(stampFile, 'utf8') === stamp();
  } catch {
    return false;
  }
}
