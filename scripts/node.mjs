import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The repository's root. */
export const root = fileURLToPath(new URL('..', import.meta.url));

/** Node 24 as the devDependency brings it; the running one where it is not installed. */
export const node = existsSync(`${root}node_modules/.bin/node`)
  ? `${root}node_modules/.bin/node`
  : process.execPath;

/**
 * Runs a program with the terminal, passing signals on, and ends as it ends.
 * @param {string} command
 * @param {readonly string[]} args
 * @returns {Promise<number>} its exit code
 */
export function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: 'inherit', cwd: root });
    const pass = (/** @type {NodeJS.Signals} */ signal) => child.kill(signal);
    // From a terminal the child gets the signal itself; from elsewhere it has to be told.
    const onTerminate = () => pass('SIGTERM');
    const onInterrupt = () => {};
    process.on('SIGTERM', onTerminate);
    process.on('SIGINT', onInterrupt);
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      process.off('SIGTERM', onTerminate);
      process.off('SIGINT', onInterrupt);
      resolve(code ?? (signal === null ? 1 : 128));
    });
  });
}
