import { beforeAll, describe, expect, it } from 'vitest';
import { InMemoryEventStore } from '@exeunt/event-store';
import type { EventId } from '@exeunt/pdu';
import { isRefusal, stateBefore, stateKeyOf, type StateRef } from '@exeunt/room';
import { RoomStore } from '@exeunt/room-store';
import { paperServer, RoomBuilder } from '../../../../test/harness/room-builder.js';
import { authChainPages } from './auth-chain-pages.js';
import { jsonList } from './json-stream.js';
import { statePages } from './state-pages.js';

async function all<T>(pages: AsyncIterable<T>): Promise<readonly T[]> {
  const collected: T[] = [];
  for await (const page of pages) collected.push(page);
  return collected;
}

async function* of<T>(...pages: readonly T[]): AsyncGenerator<T> {
  yield* pages;
}

describe('a room of more members than a page holds', () => {
  const alice = '@alice:hub.example';
  const members = 2_300;
  const store = new InMemoryEventStore();
  let builder: RoomBuilder;

  beforeAll(async () => {
    builder = new RoomBuilder({ version: '11', servers: [paperServer('hub.example')], creator: alice });
    // Where one was invited, the join cites the invite: these are what the chain has besides the room's settings.
    for (let at = 0; at < members; at++) {
      const user = `@u${at}:hub.example`;
      if (at % 10 === 0) builder.member(user, 'invite', alice);
      builder.member(user, 'join');
    }
    await new RoomStore(store).executeAll(
      builder.roomId,
      builder.domainEvents.map((domainEvent) => () => ({ domainEvents: [domainEvent], broadcasts: [] })),
    );
  });

  const entriesOf = (ref: StateRef): EventId[] => {
    const keys = new Set(
      builder.pdus.flatMap(({ type, stateKey }) =>
        stateKey === undefined ? [] : stateKeyOf(type, stateKey),
      ),
    );
    return [...keys].flatMap((key) => builder.room.entryOf(ref, key) ?? []);
  };

  it('has its state in pages, each entry once, with what a fork has instead', async () => {
    const ref = builder.room.currentState();
    const pages = await all(statePages(store, builder.roomId, ref));
    expect(pages.length).toBeGreaterThan(2);
    for (const page of pages) expect(page.length).toBeLessThanOrEqual(1_000);
    expect(pages.flat().toSorted()).toEqual(entriesOf(ref).toSorted());

    const memberKey = (at: number) => stateKeyOf('m.room.member', `@u${at}:hub.example`);
    const other = '$other' as EventId;
    const forked: StateRef = {
      base: ref.base,
      overlay: new Map([
        [memberKey(7), null],
        [memberKey(1_500), other],
        [stateKeyOf('m.room.name', ''), other],
      ]),
    };
    const gone = [7, 1_500].map((at) => builder.room.entryOf(ref, memberKey(at)));
    const expected = [...entriesOf(ref).filter((eventId) => !gone.includes(eventId)), other, other];
    expect((await all(statePages(store, builder.roomId, forked))).flat().toSorted()).toEqual(
      expected.toSorted(),
    );
  });

  it('has no state before its create event', async () => {
    const before = stateBefore(builder.room, builder.room.createEventId);
    if (isRefusal(before)) throw new Error(before.detail);
    expect((await all(statePages(store, builder.roomId, before))).flat()).toEqual([]);
  });

  it('has the auth chain of its state in pages, each event once (FE-06, FE-10)', async () => {
    const cited = entriesOf(builder.room.currentState()).map(
      (eventId) => builder.room.pdu(eventId).authEvents,
    );
    const expected = builder.room.authChainOf(cited.flat());
    expect(expected.size).toBeGreaterThan(members / 10);
    const pages = await all(authChainPages(store, builder.roomId, of(...cited)));
    for (const page of pages) expect(page.length).toBeLessThanOrEqual(1_000);
    expect(pages.flat().toSorted()).toEqual([...expected].toSorted());
    const atOnce = await all(authChainPages(store, builder.roomId, of(cited.flat())));
    expect(atOnce.flat().toSorted()).toEqual([...expected].toSorted());
  });

  it('has nothing on the chain that is not known here', async () => {
    expect(await all(authChainPages(store, builder.roomId, of(['$unknown' as EventId])))).toEqual([]);
  });
});

it.each([
  [[], '[]'],
  [[[]], '[]'],
  [[['1']], '[1]'],
  [[[], ['1', '2'], [], ['3']], '[1,2,3]'],
])('pages %j are the list %s', async (pages, text) => {
  expect((await all(jsonList(of(...pages)))).join('')).toBe(text);
});
