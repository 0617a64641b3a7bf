import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

export function findNginx() {
  // Debian keeps it where only root's PATH looks.
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin'];
  return folders.map((folder) => join(folder, 'nginx')).find((path) => existsSync(path));
}
