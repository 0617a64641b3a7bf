import { build } from './build.mjs';
import { isFresh } from './freshness.mjs';
import { node, run } from './node.mjs';

if (!isFresh()) {
  process.stderr.write('building …\n');
  const code = await build();
  if (code !== 0) process.exit(code);
}
process.exit(
  await run(node, [
    '--enable-source-maps',
    '--disable-warning=ExperimentalWarning',
    'dist/apps/gateway/src/main.js',
  ]),
);
