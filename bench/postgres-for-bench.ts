import { readdirSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { progress } from './report.js';

type Services = typeof import('../scripts/services/postgres.mjs');
type PostgresServer = Awaited<ReturnType<Services['startPostgres']>>;

/** A PostgreSQL of this benchmark's own, fsync on; fails where the machine has no binaries of it. */
export async function postgresForBench(): Promise<PostgresServer> {
  // A script, so it is not among what is compiled; benchmarks run in the repository's root.
  const script = pathToFileURL(resolve('scripts/services/postgres.mjs')).href;
  const { startPostgres } = (await import(script)) as Services;
  const server = await startPostgres();
  progress('PostgreSQL is up, fsync on');
  return server;
}

/**
 * CPU seconds of a process and its children so far, those that have ended included; 0 where there is no /proc, or where
 * they are a container's.
 */
export function cpuSecondsOf({ pid }: { readonly pid: number | undefined }): number {
  if (pid === undefined) return 0;
  let ticks = 0;
  try {
    for (const entry of readdirSync('/proc')) if (/^\d+$/.test(entry)) ticks += ticksOf(entry, pid);
  } catch {
    return 0;
  }
  return ticks / 100;
}

function ticksOf(pid: string, parent: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name stands in parentheses and may hold anything; after it come state, parent, … and utime, stime.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [user, system, ofEndedChildren, systemOfEndedChildren] = fields.slice(11, 15).map(Number);
    if (Number(pid) === parent) return user! + system! + ofEndedChildren! + systemOfEndedChildren!;
    return Number(fields[1]) === parent ? user! + system! : 0;
  } catch {
    // It has ended.
    return 0;
  }
}
