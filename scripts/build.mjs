import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { node, root, run } from './node.mjs';
import { isFresh, stampFresh } from './freshness.mjs';

/*
 * Compiles apps and libs into dist/. `@exeunt/*` are packages there, as Node resolves them: one small package.json a
 * library, beside the compiled code. What the server shows of its message bus goes along.
 */

/** @returns {Promise<number>} */
export async function build() {
  rmSync(`${root}dist`, { recursive: true, force: true });
  const code = await run(node, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json']);
  if (code !== 0) return code;
  for (const lib of readdirSync(`${root}libs`)) {
    const folder = `${root}dist/node_modules/@exeunt/${lib}`;
    mkdirSync(folder, { recursive: true });
    writeFileSync(
      `${folder}/package.json`,
      JSON.stringify({ name: `@exeunt/${lib}`, type: 'module', exports: './index.js' }),
    );
    writeFileSync(`${folder}/index.js`, `export * from '../../../libs/${lib}/src/index.js';\n`);
  }
  cpSync(`${root}docs/bus`, `${root}dist/docs/bus`, { recursive: true });
  writeFileSync(`${root}dist/package.json`, JSON.stringify({ type: 'module' }));
  stampFresh();
  return 0;
}

/**
 * Runs the compiled program, built first where the sources are newer, and ends as it ends.
 * @param {string} program below dist/
 * @param {readonly string[]} args
 * @returns {Promise<never>}
 */
export async function runBuilt(program, args = []) {
  if (!isFresh()) {
    process.stderr.write('building …\n');
    const code = await build();
    if (code !== 0) process.exit(code);
  }
  const flags = ['--enable-source-maps', '--disable-warning=ExperimentalWarning'];
  process.exit(await run(node, [...flags, `dist/${program}`, ...args]));
}

if (process.argv[1]?.endsWith('build.mjs')) process.exit(await build());
