import { openDatabase } from '@exeunt/database';
import { eventStoreMigrations, TypeormEventStore } from '@exeunt/event-store';
import { accepted, append, aRoom } from './event-store.rooms.js';

/**
 * Another process on a PGlite directory: appends without end and writes `room position` for each append that has
 * resolved, until it is killed.
 */
const dataDir = process.argv.at(-1);
if (dataDir === undefined) throw new Error('no directory');
const store = new TypeormEventStore(await openDatabase({ dataDir, migrations: eventStoreMigrations }));

async function fill(): Promise<never> {
  const roomId = aRoom();
  for (let position = 0; ;) {
    const next = append(roomId, position, [accepted(`event${position}`)]);
    if ((await store.append(next)) !== 'appended') throw new Error('nobody else is here');
    position = next.header.position;
    process.stdout.write(`${roomId} ${position}\n`);
  }
}

await Promise.all([fill(), fill(), fill()]);
