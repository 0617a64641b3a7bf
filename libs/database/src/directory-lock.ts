import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  linkSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const FILE = 'lock';
const HEARTBEAT_MS = 2_000;
/** A lock whose process we can't see counts as left behind when it was not touched for this long. */
const SILENCE_MS = 12_000;
const POLL_MS = 250;

/** That one process alone uses a directory. */
export interface DirectoryLock {
  /** Throws where another process has taken the directory over in the meantime. */
  verify(): void;
  /** Lets the next process in. */
  release(): void;
}

interface Owner {
  readonly token: string;
  readonly pid: number;
  /** When the process started, as the system counts it: a process ID is used again some day. */
  readonly startedAt: string;
  /** The processes that `pid` counts among: machine, boot and container. */
  readonly processes: string;
}

/**
 * Makes `directory` this process's alone until it is released or the process ends, however it ends.
 *
 * Throws one sentence where another process has it. A lock that was left behind by a process of this machine that
 * is gone is taken over at once; one from another container or machine after it was silent for 12 seconds.
 */
export async function lockDirectory(directory: string): Promise<DirectoryLock> {
  mkdirSync(directory, { recursive: true });
  const path = join(directory, FILE);
  const owner: Owner = {
    token: randomUUID(),
    pid: process.pid,
    startedAt: startOf(process.pid) ?? '',
    processes: visibleProcesses(),
  };
  while (!(await createLock(path, owner))) await clearAway(directory, path);
  return heldLock(directory, path, owner);
}

async function createLock(path: string, owner: Owner): Promise<boolean> {
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      await file.writeFile(JSON.stringify(owner));
      await file.sync();
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Returns when the lock in the way is gone; throws when its owner lives. */
async function clearAway(directory: string, path: string): Promise<void> {
  const found = look(path);
  if (found === undefined) return;
  if (found.owner?.processes === visibleProcesses()) {
    if (startOf(found.owner.pid) === found.owner.startedAt) throw inUse(directory, found.owner);
  } else {
    for (let waitedMs = 0; waitedMs < SILENCE_MS; waitedMs += POLL_MS) {
      await delay(POLL_MS);
      const now = look(path);
      if (now === undefined || now.text !== found.text) return;
      if (now.touchedAt !== found.touchedAt) throw inUse(directory, now.owner);
    }
  }
  // Moved and then looked at again: another process may have taken over the same stale lock a moment ago.
  const aside = `${path}.${randomUUID()}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  const moved = look(aside);
  if (moved !== undefined && moved.text !== found.text) {
    linkSync(aside, path);
    rmSync(aside);
    throw inUse(directory, moved.owner);
  }
  rmSync(aside, { force: true });
}

function heldLock(directory: string, path: string, owner: Owner): DirectoryLock {
  let lost = false;
  const verify = () => {
    lost ||= look(path)?.owner?.token !== owner.token;
    if (lost) throw new Error(`another process has taken the directory ${directory} over`);
  };
  const heartbeat = setInterval(() => {
    try {
      verify();
      utimesSync(path, new Date(), new Date());
    } catch {
      // The next use of the directory says so.
      lost = true;
    }
  }, HEARTBEAT_MS);
  heartbeat.unref();
  return {
    verify: () => {
      if (lost) verify();
    },
    release: () => {
      clearInterval(heartbeat);
      if (look(path)?.owner?.token === owner.token) rmSync(path);
    },
  };
}

function inUse(directory: string, owner: Owner | undefined): Error {
  const who = owner === undefined ? 'another process' : `process ${owner.pid}`;
  return new Error(
    `the database directory ${directory} is in use by ${who}: one process at a time may open it`,
  );
}

function look(path: string): { text: string; touchedAt: number; owner: Owner | undefined } | undefined {
  let text: string;
  let touchedAt: number;
  try {
    text = readFileSync(path, 'utf8');
    touchedAt = statSync(path).mtimeMs;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return { text, touchedAt, owner: JSON.parse(text) as Owner };
  } catch {
    // Killed, or just now, between the creation and the writing.
    return { text, touchedAt, owner: undefined };
  }
}

/** When a process started; `undefined` where there is none. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in brackets may hold anything, brackets too. State is the first field after it, the start the 20th.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch {
    if (process.platform === 'linux') return undefined;
  }
  try {
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).trim() || undefined;
  } catch {
    return undefined;
  }
}

function visibleProcesses(): string {
  const read = (what: () => string) => {
    try {
      return what().trim();
    } catch {
      return '';
    }
  };
  const boot = read(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8'));
  const namespace = read(() => readlinkSync('/proc/self/ns/pid'));
  return boot === '' ? hostname() : `${boot} ${namespace}`;
}
