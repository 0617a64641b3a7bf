import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { evolve, initialRoom, type DomainEvent, type Room } from '@exeunt/room';
import { parseJson, stringifyJson, type JsonValue } from '@exeunt/signing';
import { growth, logOf, usersOf } from './large-room.js';
import { median, numberOption, progress, report, textOption } from './report.js';

/*
 * Domain events a second, folding a room's log into the room, PDUs forgotten as a replay forgets them; and what the
 * room then holds in memory. Against `JSON.parse` of the same log and nothing else, in turns in the same run: a ratio of 1
 * says that folding costs as much as reading the text at all.
 *
 *   --members N  (100000)
 *   --version V  (11)
 *   --rounds N   (5)
 */

const members = numberOption('members', 100_000);
const rounds = numberOption('rounds', 5);
const version = textOption('version') ?? '11';
const forgetEvery = 1_000;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

progress(`making a room of ${members} members of ${Math.ceil(members / 100)} servers`);
// Outside the heap, so that what is measured of the heap is the room's.
const { steps } = growth({ version, ourName: 'ours.example.org', members: usersOf(members, 100) });
const stored = logOf(steps).map((domainEvent) =>
  Buffer.from(stringifyJson(domainEvent as unknown as JsonValue)),
);

const rates: { parse: number; fold: number; replay: number }[] = [];
for (let round = 0; round < rounds + 1; round++) {
  const parse = parseAlone();
  const { fold, replay } = replayWhole();
  // The first is for the compiler.
  if (round > 0) rates.push({ parse, fold, replay });
}
const parse = median(rates.map((rate) => rate.parse));
const fold = median(rates.map((rate) => rate.fold));
const replay = median(rates.map((rate) => rate.replay));
const ratio = median(rates.map((rate) => rate.fold / rate.parse));
progress(
  `fold ${fold.toFixed(0)}/s, parse losslessly and fold ${replay.toFixed(0)}/s, JSON.parse alone ${parse.toFixed(0)}/s`,
);

const { bytes, room } = memoryOfRoom();
const perMember = bytes / members;
progress(`${(bytes / 2 ** 20).toFixed(1)} MiB on the heap, ${perMember.toFixed(0)} bytes a member`);
if (room.header().memberCounts.join !== members + 1) throw new Error('the replayed room lacks members');

report({
  name: 'replay',
  unit: 'domain events/s',
  value: fold,
  baseline: parse,
  ratio,
  baselineIs: 'JSON.parse of the same log',
  parsedAndFolded: replay,
  domainEvents: stored.length,
  version,
  memory: { members, bytes, bytesPerMember: perMember },
});

function parseAlone(): number {
  const start = performance.now();
  let fields = 0;
  for (const text of stored) fields += Object.keys(JSON.parse(text.toString()) as object).length;
  if (fields === 0) throw new Error('nothing was parsed');
  return perSecond(performance.now() - start);
}

function replayWhole(): { readonly fold: number; readonly replay: number } {
  const room = initialRoom();
  let foldMs = 0;
  const start = performance.now();
  for (let from = 0; from < stored.length; from += forgetEvery) {
    const page = stored.slice(from, from + forgetEvery).map(domainEventOf);
    const folding = performance.now();
    for (const domainEvent of page) evolve(room, domainEvent);
    room.forgetPdus();
    foldMs += performance.now() - folding;
  }
  return { fold: perSecond(foldMs), replay: perSecond(performance.now() - start) };
}

function memoryOfRoom(): { readonly bytes: number; readonly room: Room } {
  const before = heapInUse();
  const room = initialRoom();
  for (let at = 0; at < stored.length; at++) {
    evolve(room, domainEventOf(stored[at]!));
    if (at % forgetEvery === 0) room.forgetPdus();
  }
  room.forgetPdus();
  return { bytes: heapInUse() - before, room };
}

function heapInUse(): number {
  collectGarbage();
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

function domainEventOf(text: Buffer): DomainEvent {
  return parseJson(text.toString(), { maxDepth: 1000 }) as unknown as DomainEvent;
}

function perSecond(elapsedMs: number): number {
  return (stored.length / elapsedMs) * 1000;
}
