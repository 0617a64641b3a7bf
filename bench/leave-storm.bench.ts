import { InMemoryEventStore } from '@exeunt/event-store';
import {
  isPduFault,
  parsePdu,
  serverNameOf,
  signPdu,
  type EventId,
  type Pdu,
  type UserId,
} from '@exeunt/pdu';
import { acceptPdu, evolve, initialRoom, isRefusal, leaveTemplate, type Room } from '@exeunt/room';
import { RoomStore } from '@exeunt/room-store';
import { withKeys, withoutKeys } from '@exeunt/signing';
import type { EventGraph, StateMap } from '../libs/room/src/state-resolution/event-graph.js';
import { resolve } from '../libs/room/src/state-resolution/resolve.js';
import { stateKeyOf, type StateKey } from '../libs/room/src/state-resolution/state-key.js';
import { paperServer, RoomBuilder } from '../test/harness/room-builder.js';
import { median, numberOption, progress, report, textOption } from './report.js';

/*
 * A storm: every user of a room takes a template, and then all of them leave. What one leave costs in a storm of a
 * thousand against one of ten, in rooms of the same size. Signatures are made beforehand and not checked: this is deciding
 * and folding (core), and the same through the room store on the in-memory event store, a burst at a time (store).
 * In the end the room's state is compared, entry by entry, with the plain algorithm's over the full state maps of all
 * the forward extremities. The ratio is the worst of all versions and levels.
 *
 *   --leaves N    of the large storm (1000)
 *   --versions V  separated by commas (1,2,6,11,12)
 *   --rounds N    (15)
 */

const leaves = numberOption('leaves', 1_000);
const small = 10;
const rounds = numberOption('rounds', 15);
const versions = (textOption('versions') ?? '1,2,6,11,12').split(',');
const ours = paperServer('ours.example.org');
const theirs = paperServer('theirs.example.org');

interface Storm {
  readonly builder: RoomBuilder;
  readonly leaves: readonly Pdu[];
}

const measured = [];
for (const version of versions) measured.push(await measure(version));
const worst = measured.toSorted((a, b) => b.ratio - a.ratio)[0]!;
report({
  name: 'leave-storm',
  unit: 'µs a leave',
  value: worst.value,
  baseline: worst.baseline,
  ratio: worst.ratio,
  target: { atMost: 2 },
  baselineIs: `a leave in a storm of ${small}, in a room of the same size`,
  leaves,
  versions: measured.map(({ version, core, store, equalsPlain }) => ({ version, core, store, equalsPlain })),
});

async function measure(version: string) {
  const storm = makeStorm(version);
  const core = { large: [] as number[], small: [] as number[] };
  const store = { large: [] as number[], small: [] as number[] };
  let room = initialRoom();
  for (let round = 0; round < rounds + 1; round++) {
    const samples = {
      coreLarge: coreStorm((room = roomOf(storm)), storm.leaves),
      coreSmall: median(manySmall(storm, (few) => coreStorm(roomOf(storm), few))),
      storeLarge: await storeStorm(storm, storm.leaves),
      storeSmall: median(await manySmallAsync(storm, (few) => storeStorm(storm, few))),
    };
    // The first is for the compiler.
    if (round === 0) continue;
    core.large.push(samples.coreLarge);
    core.small.push(samples.coreSmall);
    store.large.push(samples.storeLarge);
    store.small.push(samples.storeSmall);
  }
  const equalsPlain = isPlainState(storm, room);
  if (!equalsPlain) throw new Error(`version ${version}: the state is not the plain algorithm's`);
  const levels = [core, store].map(({ large, small }) => {
    // The best of the rounds: what others do on this machine only ever makes one slower.
    const [value, baseline] = [Math.min(...large), Math.min(...small)];
    return { value, baseline, ratio: value / baseline };
  });
  const [ofCore, ofStore] = levels as [(typeof levels)[0], (typeof levels)[0]];
  progress(
    `version ${version}: core ${ofCore.value.toFixed(1)} µs a leave of ${leaves}, ${ofCore.baseline.toFixed(1)} of ` +
      `${small} (${ofCore.ratio.toFixed(2)}); store ${ofStore.value.toFixed(1)} and ${ofStore.baseline.toFixed(1)} ` +
      `(${ofStore.ratio.toFixed(2)}); state as by the plain algorithm`,
  );
  const worse = ofCore.ratio > ofStore.ratio ? ofCore : ofStore;
  return { version, ...worse, core: ofCore, store: ofStore, equalsPlain };
}

function makeStorm(version: string): Storm {
  const builder = new RoomBuilder({ version, servers: [ours, theirs], creator: `@alice:${ours.name}` });
  const users = Array.from({ length: leaves }, (_, at) => `@user-${at}:${theirs.name}` as UserId);
  for (const user of users) builder.member(user, 'join');
  return {
    builder,
    leaves: users.map((userId, at) => {
      const template = leaveTemplate(builder.room, { userId, ourName: ours.name, now: Date.now() });
      if (isRefusal(template)) throw new Error(template.detail);
      const ownId =
        builder.version.eventIdFormat === 'opaque-in-pdu' ? { event_id: `$leave${at}:${theirs.name}` } : {};
      const json = withKeys(withoutKeys(template, 'origin'), ownId);
      const pdu = parsePdu(signPdu(json, builder.version, theirs.name, theirs.key), builder.version);
      if (isPduFault(pdu)) throw new Error(pdu.detail);
      return pdu;
    }),
  };
}

function roomOf({ builder }: Storm): Room {
  const room = initialRoom();
  for (const domainEvent of builder.domainEvents) evolve(room, domainEvent);
  return room;
}

function accept(room: Room, pdu: Pdu) {
  const decision = acceptPdu(room, {
    pdu,
    origin: serverNameOf(pdu.sender),
    ourName: ours.name,
    now: Date.now(),
    against: 'current-state',
  });
  if (decision.refusal !== undefined) throw new Error(`${decision.refusal.rule}: ${decision.refusal.detail}`);
  return decision;
}

/** Microseconds a leave. */
function coreStorm(room: Room, storm: readonly Pdu[]): number {
  const start = performance.now();
  for (const pdu of storm)
    for (const domainEvent of accept(room, pdu).domainEvents) evolve(room, domainEvent);
  return ((performance.now() - start) * 1000) / storm.length;
}

/** Microseconds a leave, all handed in at once. */
async function storeStorm(storm: Storm, some: readonly Pdu[]): Promise<number> {
  const rooms = new RoomStore(new InMemoryEventStore());
  const { roomId, domainEvents } = storm.builder;
  await rooms.executeAll(roomId, [() => ({ domainEvents, broadcasts: [] })]);
  const start = performance.now();
  await Promise.all(some.map((pdu) => rooms.execute(roomId, (room) => accept(room, pdu))));
  return ((performance.now() - start) * 1000) / some.length;
}

/** Ten small storms of different users. */
function smallStorms({ leaves: all }: Storm): readonly (readonly Pdu[])[] {
  return Array.from({ length: Math.min(10, Math.floor(all.length / small)) }, (_, at) =>
    all.slice(at * small, (at + 1) * small),
  );
}

function manySmall(storm: Storm, run: (few: readonly Pdu[]) => number): number[] {
  return smallStorms(storm).map(run);
}

async function manySmallAsync(
  storm: Storm,
  run: (few: readonly Pdu[]) => Promise<number>,
): Promise<number[]> {
  const samples: number[] = [];
  for (const few of smallStorms(storm)) samples.push(await run(few));
  return samples;
}

/** Whether the room's state is what the whole algorithm makes of the states after all leaves. */
function isPlainState({ builder, leaves: storm }: Storm, room: Room): boolean {
  const before = new Map<StateKey, EventId>();
  for (const pdu of builder.pdus) {
    if (pdu.stateKey !== undefined) before.set(stateKeyOf(pdu.type, pdu.stateKey), pdu.eventId);
  }
  const sets: StateMap[] = storm.map((leave) =>
    new Map(before).set(stateKeyOf(leave.type, leave.sender), leave.eventId),
  );
  const pdus = new Map([...builder.pdus, ...storm].map((pdu) => [pdu.eventId, pdu]));
  const graph: EventGraph = {
    event: (eventId) => pdus.get(eventId),
    isRejected: () => false,
    create: () => builder.pdus[0],
  };
  const plain = resolve(builder.version, sets, graph);
  const current = room.currentState();
  return (
    plain.size === before.size &&
    room.forwardExtremityCount === storm.length &&
    [...plain].every(([key, eventId]) => room.entryOf(current, key) === eventId)
  );
}
