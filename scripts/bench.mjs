import { existsSync, readdirSync } from 'node:fs';
import { runBuilt } from './build.mjs';
import { root } from './node.mjs';

/* npm run bench -- NAME [options]: progress on standard error, one line of JSON on standard output. */

const [name = '', ...options] = process.argv.slice(2);
if (!/^[a-z-]+$/.test(name) || !existsSync(`${root}bench/${name}.bench.ts`)) {
  const names = readdirSync(`${root}bench`).flatMap((file) => /^(.+)\.bench\.ts$/.exec(file)?.[1] ?? []);
  process.stderr.write(
    `usage: npm run bench -- ${names.join('|')} [options]; the options stand in bench/NAME.bench.ts\n`,
  );
  process.exit(2);
}
await runBuilt(`bench/${name}.bench.js`, options);
