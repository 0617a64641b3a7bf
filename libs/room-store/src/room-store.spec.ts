import { describe, expect, it } from 'vitest';
import {
  isPduFault,
  parsePdu,
  referenceTo,
  signPdu,
  type Pdu,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { InMemoryEventStore, type Append, type EventStore } from '@exeunt/event-store';
import { acceptPdu, draftEvent, evolve, initialRoom, type DomainEvent, type Room } from '@exeunt/room';
import { inSpan, noTracing, traceparentOf } from '@exeunt/tracing';
import { paperServer, RoomBuilder } from '../../../test/harness/room-builder.js';
import { RoomContended, RoomStore, type Command } from './room-store.js';

const alice = '@alice:hub.example' as UserId;
const hub = 'hub.example' as ServerName;
const away = 'away.example' as ServerName;
const servers = [paperServer(hub), paperServer(away)];

/** The in-memory store, whose appends can be held open, refused or broken, and whose calls are counted. */
class TroubledStore extends InMemoryEventStore {
  readonly appends: Append[] = [];
  factLoads = 0;
  headerLoads = 0;
  /** Runs before each append; what it throws is the store's failure. */
  beforeAppend: (append: Append) => Promise<void> | void = () => {};
  beforeFacts: () => void = () => {};

  override async append(append: Append): ReturnType<EventStore['append']> {
    await this.beforeAppend(append);
    const appended = await super.append(append);
    if (appended === 'appended') this.appends.push(append);
    return appended;
  }

  override header(roomId: RoomId): ReturnType<EventStore['header']> {
    this.headerLoads += 1;
    return super.header(roomId);
  }

  override async facts(...asked: Parameters<EventStore['facts']>): ReturnType<EventStore['facts']> {
    this.factLoads += 1;
    this.beforeFacts();
    return super.facts(...asked);
  }

  /** Holds the next append open until it is let go. */
  hold(): { readonly reached: Promise<void>; readonly letGo: () => void } {
    let letGo!: () => void;
    let reach!: () => void;
    const released = new Promise<void>((resolve) => (letGo = resolve));
    const reached = new Promise<void>((resolve) => (reach = resolve));
    this.beforeAppend = () => {
      this.beforeAppend = () => {};
      reach();
      return released;
    };
    return { reached, letGo };
  }
}

interface Scene {
  readonly store: TroubledStore;
  readonly rooms: RoomStore;
  readonly roomId: RoomId;
  readonly users: readonly UserId[];
  readonly leaves: readonly Pdu[];
  readonly version: RoomBuilder['version'];
}

/** A stored room with ten users of another server, each with a leave in hand. */
async function scene(options: ConstructorParameters<typeof RoomStore>[1] = {}): Promise<Scene> {
  const built = new RoomBuilder({ version: '11', servers, creator: alice });
  const users = Array.from({ length: 10 }, (_, at) => `@u${at}:away.example` as UserId);
  for (const userId of users) built.member(userId, 'join');
  const leaves = users.map((userId) =>
    built.make({ sender: userId, type: 'm.room.member', stateKey: userId, content: { membership: 'leave' } }),
  );
  const store = new TroubledStore();
  await new RoomStore(store).executeAll(built.roomId, replaying(built.domainEvents));
  store.appends.length = 0;
  store.factLoads = 0;
  store.headerLoads = 0;
  const rooms = new RoomStore(store, options);
  return { store, rooms, roomId: built.roomId, users, leaves, version: built.version };
}

const replaying = (domainEvents: readonly DomainEvent[]): readonly Command[] =>
  domainEvents.map((domainEvent) => () => ({ domainEvents: [domainEvent], broadcasts: [] }));

const accepting =
  (pdu: Pdu): Command =>
  (room) =>
    acceptPdu(room, { pdu, origin: away, ourName: hub, now: 1, against: 'current-state' });

/** A message of our own, which is another event each time it is decided. */
const saying =
  (version: RoomBuilder['version'], body: string): Command =>
  (room) => {
    const draft = draftEvent(room, {
      type: 'm.room.message',
      sender: alice,
      content: { body },
      originServerTs: 5,
      origin: hub,
    });
    const pdu = parsePdu(signPdu(draft, version, hub, servers[0]!.key), version);
    if (isPduFault(pdu)) throw new Error(pdu.detail);
    return acceptPdu(room, { pdu, origin: hub, ourName: hub, now: 1, against: 'current-state' });
  };

const membershipOf = (userId: UserId) => (room: Room) => room.membership(room.currentState(), userId);

async function replayed({ store, roomId }: Scene): Promise<Room> {
  const room = initialRoom();
  for (const { domainEvent } of await store.read(roomId, 1, 1000)) evolve(room, domainEvent);
  return room;
}

describe('commands of one room that come while another is being made durable', () => {
  it('become one append, each with its own outcome', async () => {
    const here = await scene();
    const { store, rooms, roomId, leaves } = here;
    await rooms.query(roomId, (room) => {
      room.require({ events: leaves[0]!.authEvents, allResidents: true });
    });
    const { reached, letGo } = store.hold();
    const first = rooms.execute(roomId, accepting(leaves[0]!));
    await reached;
    const others = leaves.slice(1).map((leave) => rooms.execute(roomId, accepting(leave)));
    expect(store.appends).toHaveLength(0);
    letGo();
    const outcomes = await Promise.all([first, ...others]);
    expect(outcomes.map(({ refusal }) => refusal)).toEqual(leaves.map(() => undefined));
    expect(new Set(outcomes.map(({ position }) => position)).size).toBe(10);
    // What is asked for in between is read as of what is durable, which may split the burst once.
    expect(store.appends.length).toBeLessThanOrEqual(3);
    expect(store.appends.flatMap(({ domainEvents }) => domainEvents)).toHaveLength(10);
    expect((await store.header(roomId))!.memberCounts).toMatchObject({ join: 1, leave: 10 });
    expect((await replayed(here)).header()).toEqual(await store.header(roomId));
  });

  it('leave each PDU with the trace of the request that it came by, and none where there was none', async () => {
    const { store, rooms, roomId, leaves } = await scene();
    await rooms.execute(roomId, accepting(leaves[0]!));
    const { reached, letGo } = store.hold();
    const untraced = rooms.execute(roomId, accepting(leaves[1]!));
    await reached;
    const spans = leaves.slice(2).map(() => noTracing.begin('a request'));
    const traced = leaves
      .slice(2)
      .map((leave, at) => inSpan(spans[at]!, () => rooms.execute(roomId, accepting(leave))));
    letGo();
    await Promise.all([untraced, ...traced]);
    const traces = new Map((await store.take(100)).map((one) => [one.domainEvent.eventId, one.traceparent]));
    expect(leaves.map(({ eventId }) => traces.get(eventId))).toEqual([
      undefined,
      undefined,
      ...spans.map((span) => traceparentOf(span.spanContext())),
    ]);
    // They were one append nevertheless.
    expect(Math.max(...store.appends.map(({ domainEvents }) => domainEvents.length))).toBeGreaterThan(1);
  });

  it('are no more in one append than allowed', async () => {
    const { store, rooms, roomId, leaves } = await scene({ maxBatch: 3 });
    await Promise.all(leaves.map((leave) => rooms.execute(roomId, accepting(leave))));
    for (const { domainEvents } of store.appends) expect(domainEvents.length).toBeLessThanOrEqual(3);
  });

  it('see the decisions before them, in the order in which they came', async () => {
    const { rooms, roomId, leaves } = await scene();
    const outcomes = await Promise.all([
      rooms.execute(roomId, accepting(leaves[0]!)),
      rooms.execute(roomId, accepting(leaves[0]!)),
    ]);
    expect(outcomes.map(({ domainEvents }) => domainEvents.length)).toEqual([1, 0]);
    expect(outcomes.map(({ refusal }) => refusal)).toEqual([undefined, undefined]);
  });

  it('do not wait for another room', async () => {
    const { store, rooms, roomId, leaves } = await scene();
    const other = new RoomBuilder({ version: '11', servers, creator: alice });
    const { reached, letGo } = store.hold();
    const held = rooms.execute(roomId, accepting(leaves[0]!));
    await reached;
    await rooms.executeAll(other.roomId, replaying(other.domainEvents));
    expect(await rooms.query(other.roomId, (room) => room.isKnown)).toBe(true);
    letGo();
    await held;
  });
});

describe('a room that another process writes to as well', () => {
  it('is decided on again where the other was faster', async () => {
    const here = await scene();
    const { store, rooms, roomId, leaves, users } = here;
    const elsewhere = new RoomStore(store);
    await rooms.query(roomId, membershipOf(users[0]!));
    await elsewhere.execute(roomId, accepting(leaves[0]!));
    const { refusal } = await rooms.execute(roomId, accepting(leaves[1]!));
    expect(refusal).toBeUndefined();
    expect((await replayed(here)).header()).toEqual(await store.header(roomId));
    expect((await store.header(roomId))!.memberCounts).toMatchObject({ leave: 2 });
  });

  it('is decided on again where the other wins between decision and append', async () => {
    const here = await scene();
    const { store, rooms, roomId, leaves } = here;
    const elsewhere = new RoomStore(store);
    store.beforeAppend = async () => {
      store.beforeAppend = () => {};
      await elsewhere.execute(roomId, accepting(leaves[0]!));
    };
    expect((await rooms.execute(roomId, accepting(leaves[0]!))).domainEvents).toEqual([]);
    expect((await store.header(roomId))!.memberCounts).toMatchObject({ leave: 1 });
  });

  it('is read anew where facts are loaded of a room that has moved', async () => {
    const { store, rooms, roomId, leaves, users } = await scene();
    const elsewhere = new RoomStore(store);
    await rooms.query(roomId, (room) => room.position);
    await elsewhere.execute(roomId, accepting(leaves[0]!));
    expect(await rooms.query(roomId, membershipOf(users[0]!))).toBe('leave');
  });

  it('gives no answer from a cached room that has moved, be it a look or a no', async () => {
    const { store, rooms, roomId, leaves, users, version } = await scene();
    const elsewhere = new RoomStore(store);
    const memberships = () =>
      rooms.query(roomId, (room) => users.map((userId) => membershipOf(userId)(room)));
    await memberships();
    await elsewhere.execute(roomId, accepting(leaves[0]!));
    expect((await memberships())[0]).toBe('leave');

    // The same leave, of which the cached room knows nothing, and one of a user who is gone meanwhile.
    await elsewhere.execute(roomId, accepting(leaves[1]!));
    expect(await rooms.execute(roomId, accepting(leaves[1]!))).toMatchObject({ domainEvents: [] });
    const { position } = await elsewhere.execute(roomId, saying(version, 'elsewhere'));
    let seen = 0;
    await rooms.execute(roomId, (room) => {
      seen = room.position;
      return { domainEvents: [], broadcasts: [] };
    });
    expect(seen).toBe(position);
  });

  it('is not asked for each time where no other process writes', async () => {
    const { store, rooms, roomId, users } = await scene({ isOnlyWriter: true });
    await rooms.query(roomId, membershipOf(users[0]!));
    const loads = store.factLoads;
    for (let at = 0; at < 5; at++) await rooms.query(roomId, membershipOf(users[0]!));
    expect(store.factLoads).toBe(loads);
    expect(store.headerLoads).toBe(1);
  });

  it('does not decide a second time what is durable already', async () => {
    const here = await scene();
    const { store, rooms, roomId, leaves, version } = here;
    const elsewhere = new RoomStore(store);
    const { reached, letGo } = store.hold();
    const first = rooms.execute(roomId, saying(version, 'first'));
    await reached;
    // In one batch: a message, then what needs facts, so that the message is appended before these are loaded; then
    // somebody else is faster, and the rest of the batch begins again.
    const message = rooms.execute(roomId, saying(version, 'once'));
    const leave = rooms.execute(roomId, accepting(leaves[0]!));
    let interfered: Promise<unknown> | undefined;
    store.beforeAppend = async ({ domainEvents }) => {
      if (interfered !== undefined || !JSON.stringify(domainEvents).includes(leaves[0]!.eventId)) return;
      interfered = elsewhere.execute(roomId, accepting(leaves[1]!));
      await interfered;
    };
    letGo();
    expect((await first).refusal).toBeUndefined();
    expect((await message).refusal).toBeUndefined();
    expect((await leave).refusal).toBeUndefined();
    expect(interfered).toBeDefined();
    const log = await store.read(roomId, 1, 1000);
    expect(log.filter(({ domainEvent }) => JSON.stringify(domainEvent).includes('"once"'))).toHaveLength(1);
    expect((await replayed(here)).header()).toEqual(await store.header(roomId));
  });

  it('is given up where it never holds still', async () => {
    const { store, rooms, roomId, leaves } = await scene();
    store.append = () => Promise.resolve('conflict');
    await expect(rooms.execute(roomId, accepting(leaves[0]!))).rejects.toThrow(RoomContended);
  });
});

describe('whoever is told of what became durable', () => {
  it('hears it once, in order, and nothing of what another writer prevented', async () => {
    const heard: string[] = [];
    const here = await scene({
      onAppended: (_, domainEvents) =>
        heard.push(...domainEvents.flatMap((one) => ('eventId' in one ? [one.eventId] : []))),
    });
    const { store, rooms, roomId, leaves } = here;
    await rooms.query(roomId, membershipOf(here.users[0]!));
    const elsewhere = new RoomStore(store);
    await elsewhere.execute(roomId, accepting(leaves[0]!));
    await Promise.all(leaves.slice(1, 4).map((leave) => rooms.execute(roomId, accepting(leave))));
    expect(heard).toEqual(leaves.slice(1, 4).map(({ eventId }) => eventId));
  });
});

describe('a store that fails', () => {
  it('fails every command of the append, and the next ones find the room as it durably is', async () => {
    const here = await scene();
    const { store, rooms, roomId, leaves, users } = here;
    await rooms.query(roomId, membershipOf(users[0]!));
    const broken = new Error('the disk is full');
    store.beforeAppend = () => Promise.reject(broken);
    const failing = leaves.slice(0, 3).map((leave) => rooms.execute(roomId, accepting(leave)));
    expect(await Promise.allSettled(failing)).toEqual(
      failing.map(() => ({ status: 'rejected', reason: broken })),
    );
    expect(store.appends).toEqual([]);
    expect(await rooms.query(roomId, membershipOf(users[0]!))).toBe('join');

    store.beforeAppend = () => {};
    const { refusal, domainEvents } = await rooms.execute(roomId, accepting(leaves[0]!));
    expect(refusal).toBeUndefined();
    expect(domainEvents).toHaveLength(1);
    expect((await replayed(here)).header()).toEqual(await store.header(roomId));
  });

  it('never lets a command succeed whose append failed in the middle of a batch', async () => {
    const { store, rooms, roomId, leaves, version } = await scene();
    await rooms.query(roomId, (room) => room.require({ allResidents: true }));
    const { reached, letGo } = store.hold();
    const held = rooms.execute(roomId, saying(version, 'held'));
    await reached;
    const message = rooms.execute(roomId, saying(version, 'lost'));
    const leave = rooms.execute(roomId, accepting(leaves[3]!));
    store.beforeAppend = () => {
      store.beforeAppend = () => {};
      throw new Error('the disk is full');
    };
    letGo();
    await held;
    const [said, left] = await Promise.allSettled([message, leave]);
    expect(said.status).toBe('rejected');
    const log = JSON.stringify(await store.read(roomId, 1, 1000));
    expect(log.includes('"lost"')).toBe(false);
    expect(log.includes(leaves[3]!.eventId)).toBe(left.status === 'fulfilled');
  });

  it('fails a look that needs facts, and the next one succeeds', async () => {
    const { store, rooms, roomId, users } = await scene();
    store.beforeFacts = () => {
      store.beforeFacts = () => {};
      throw new Error('the line is cut');
    };
    await expect(rooms.query(roomId, membershipOf(users[0]!))).rejects.toThrow('the line is cut');
    expect(await rooms.query(roomId, membershipOf(users[0]!))).toBe('join');
  });
});

describe('a command that throws', () => {
  it('fails alone, and changes nothing for those with it', async () => {
    const here = await scene();
    const { store, rooms, roomId, leaves } = here;
    const outcomes = await Promise.allSettled([
      rooms.execute(roomId, accepting(leaves[0]!)),
      rooms.execute(roomId, () => {
        throw new RangeError('a bug');
      }),
      rooms.execute(roomId, accepting(leaves[1]!)),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(outcomes[1]).toMatchObject({ reason: expect.any(RangeError) });
    expect((await store.header(roomId))!.memberCounts).toMatchObject({ leave: 2 });
    expect((await replayed(here)).header()).toEqual(await store.header(roomId));
  });

  it('fails alone where it is a look', async () => {
    const { rooms, roomId, users, leaves } = await scene();
    const outcomes = await Promise.allSettled([
      rooms.query(roomId, () => {
        throw new RangeError('a bug');
      }),
      rooms.query(roomId, membershipOf(users[0]!)),
      rooms.execute(roomId, accepting(leaves[0]!)),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled']);
  });

  it('is told of where what it asks for never comes', async () => {
    const { rooms, roomId } = await scene();
    const unknown = '$unknown' as Pdu['eventId'];
    await expect(rooms.query(roomId, (room) => room.pdu(unknown))).rejects.toThrow('missing still');
  });
});

describe('a look at a room', () => {
  it('sees nothing that is not durable', async () => {
    const { store, rooms, roomId, leaves, users } = await scene();
    const { reached, letGo } = store.hold();
    const leaving = rooms.execute(roomId, accepting(leaves[0]!));
    await reached;
    const positions: number[] = [];
    const looking = rooms.query(roomId, (room) => {
      positions.push(room.position);
      return membershipOf(users[0]!)(room);
    });
    await Promise.resolve();
    expect(positions).toEqual([]);
    letGo();
    expect(await looking).toBe('leave');
    expect(positions.at(-1)).toBe((await leaving).position);
  });

  it('finds an unknown room not known, and leaves no trace of it', async () => {
    const { store, rooms } = await scene();
    const unknown = '!unknown:hub.example' as RoomId;
    expect(await rooms.query(unknown, (room) => room.isKnown)).toBe(false);
    expect(await store.header(unknown)).toBeUndefined();
    expect(store.appends).toEqual([]);
  });
});

describe('a glance at a room', () => {
  it('takes it from memory, while others are being made durable and without a question to the store', async () => {
    const { store, rooms, roomId, leaves, users } = await scene();
    await rooms.query(roomId, membershipOf(users[0]!));
    const { reached, letGo } = store.hold();
    const leaving = rooms.execute(roomId, accepting(leaves[0]!));
    await reached;
    store.factLoads = 0;
    expect(await rooms.peek(roomId, (room) => room.isKnown)).toBe(true);
    expect(store.factLoads).toBe(0);
    letGo();
    await leaving;
  });

  it('is a look where the room, or what is looked for, is not in memory', async () => {
    const { rooms, roomId, users } = await scene();
    expect(await rooms.peek(roomId, (room) => room.isKnown)).toBe(true);
    expect(await rooms.peek(roomId, membershipOf(users[3]!))).toBe('join');
    expect(await rooms.peek('!unknown:hub.example' as RoomId, (room) => room.isKnown)).toBe(false);
  });
});

describe('many steps on one room', () => {
  it('are one append where the room is new', async () => {
    const built = new RoomBuilder({ version: '11', servers, creator: alice });
    const store = new TroubledStore();
    const rooms = new RoomStore(store);
    const decisions = await rooms.executeAll(built.roomId, replaying(built.domainEvents));
    expect(decisions).toHaveLength(built.domainEvents.length);
    expect(store.appends).toHaveLength(1);
    expect(await store.header(built.roomId)).toEqual(built.room.header());
    expect(await store.residents(built.roomId)).toEqual([[hub, 1]]);
  });

  it('leave nothing of a new room where one of them throws', async () => {
    const built = new RoomBuilder({ version: '11', servers, creator: alice });
    const store = new TroubledStore();
    const rooms = new RoomStore(store);
    const steps = replaying(built.domainEvents).toSpliced(3, 0, () => {
      throw new RangeError('a bug');
    });
    await expect(rooms.executeAll(built.roomId, steps)).rejects.toThrow(RangeError);
    expect(await store.header(built.roomId)).toBeUndefined();
    expect(await rooms.query(built.roomId, (room) => room.isKnown)).toBe(false);
    await rooms.executeAll(built.roomId, replaying(built.domainEvents));
    expect(await store.header(built.roomId)).toEqual(built.room.header());
  });

  it('are run again from the first where another process made the room meanwhile', async () => {
    const built = new RoomBuilder({ version: '11', servers, creator: alice });
    const store = new TroubledStore();
    const [rooms, elsewhere] = [new RoomStore(store), new RoomStore(store)];
    store.beforeAppend = async () => {
      store.beforeAppend = () => {};
      await elsewhere.executeAll(built.roomId, replaying(built.domainEvents));
    };
    const steps = built.domainEvents.map(
      (domainEvent): Command =>
        (room) =>
          room.isKnown && room.position >= built.domainEvents.length
            ? { domainEvents: [], broadcasts: [] }
            : { domainEvents: [domainEvent], broadcasts: [] },
    );
    const decisions = await rooms.executeAll(built.roomId, steps);
    expect(decisions.flatMap(({ domainEvents }) => domainEvents)).toEqual([]);
    expect(decisions).toHaveLength(steps.length);
    expect(await store.header(built.roomId)).toEqual(built.room.header());
  });

  it('may go into an existing room in parts', async () => {
    const here = await scene();
    const { rooms, roomId, leaves, store } = here;
    const decisions = await rooms.executeAll(roomId, leaves.map(accepting));
    expect(decisions.every(({ refusal }) => refusal === undefined)).toBe(true);
    expect((await replayed(here)).header()).toEqual(await store.header(roomId));
  });
});

describe('a room that fell out of the cache', () => {
  it('gives the answers it would have given from there', async () => {
    const small = await scene({ maxCachedFacts: 1 });
    const large = await scene();
    for (const { rooms, roomId, leaves, version } of [small, large]) {
      for (const leave of leaves.slice(0, 6)) await rooms.execute(roomId, accepting(leave));
      await rooms.execute(roomId, saying(version, 'merged'));
      await rooms.execute(roomId, accepting(leaves[0]!));
      await rooms.execute(roomId, accepting(leaves[7]!));
    }
    const shape = async ({ store, roomId, rooms, users }: Scene) => ({
      counts: (await store.header(roomId))!.memberCounts,
      position: (await store.header(roomId))!.position,
      extremities: (await store.header(roomId))!.forwardExtremities.length,
      log: (await store.read(roomId, 1, 1000)).map(({ domainEvent }) => domainEvent.type),
      memberships: await rooms.query(roomId, (room) => users.map((userId) => membershipOf(userId)(room))),
    });
    expect(await shape(small)).toEqual(await shape(large));
    expect(small.store.headerLoads).toBeGreaterThan(large.store.headerLoads);
    expect((await replayed(small)).header()).toEqual(await small.store.header(small.roomId));
  });
});

describe('a forked room of version 1', () => {
  it('is loaded with the hashes that its drafts cite', async () => {
    const built = new RoomBuilder({ version: '1', servers, creator: alice });
    const store = new TroubledStore();
    await new RoomStore(store).executeAll(built.roomId, replaying(built.domainEvents));
    const draft = await new RoomStore(store).query(built.roomId, (room) =>
      draftEvent(room, {
        type: 'm.room.message',
        sender: alice,
        content: {},
        originServerTs: 1,
        origin: hub,
      }),
    );
    expect(draft['prev_events']).toEqual([referenceTo(built.pdus.at(-1)!)]);
  });
});
