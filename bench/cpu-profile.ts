import { writeFile } from 'node:fs/promises';
import { Session } from 'node:inspector/promises';

/** Begins a CPU profile of this process; call what it gives to end it and write the file, for Chrome's DevTools. */
export async function startProfile(file: string): Promise<() => Promise<void>> {
  const session = new Session();
  session.connect();
  await session.post('Profiler.enable');
  await session.post('Profiler.start');
  return async () => {
    const { profile } = await session.post('Profiler.stop');
    await writeFile(file, JSON.stringify(profile));
    session.disconnect();
  };
}
