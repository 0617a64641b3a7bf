import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** @returns {{ version: string, python: string } | undefined} */
export function findSynapse() {
  const requirements = readFileSync(join(root, 'scripts/services/synapse-requirements.txt'), 'utf8');
  const version = /^matrix-synapse==(\S+)$/m.exec(requirements)?.[1];
  if (version === undefined) throw new Error('synapse-requirements.txt pins no matrix-synapse');
  const environment = join(root, '.services', `synapse-${version}`);
  // The installer writes its receipt last.
  return existsSync(join(environment, 'installed-requirements.txt'))
    ? { version, python: join(environment, 'bin/python') }
    : undefined;
}
