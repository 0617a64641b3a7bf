import type { EventStore, LoggedEvent, Outbox } from '@exeunt/event-store';
import type { EventId, RoomId } from '@exeunt/pdu';
import type { DomainEvent, PduAccepted } from '@exeunt/room';
import { stringifyJson } from '@exeunt/signing';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  accepted,
  anEvent,
  append,
  aRoom,
  aServer,
  broadcast,
  change,
  drain,
  headerAt,
  ingested,
  needing,
  pduOf,
  stateEvent,
} from './event-store.rooms.js';

/** One opened store. */
export interface OpenedStore {
  readonly store: EventStore;
  readonly outbox: Outbox;
  /** Closes it and opens it again as a later process would; where nothing is durable, the same again. */
  reopen(): Promise<OpenedStore>;
  close(): Promise<void>;
}

/** What every event store and outbox keeps to. `open` gives one on an empty database. */
export function eventStoreContract(name: string, open: () => Promise<OpenedStore>): void {
  describe(`event store: ${name}`, () => {
    let opened: OpenedStore;
    let store: EventStore;
    let outbox: Outbox;
    const use = (next: OpenedStore) => ({ store, outbox } = opened = next);

    beforeAll(async () => use(await open()));
    afterAll(async () => opened.close());

    async function log(roomId: RoomId): Promise<readonly DomainEvent[]> {
      return (await store.read(roomId, 1, 1000)).map(({ domainEvent }) => domainEvent);
    }

    describe('a log', () => {
      it('is read back in order, by page, as it was appended', async () => {
        const roomId = aRoom();
        const events = [1, 2, 3, 4, 5].map((number) => accepted(`page${number}`));
        expect(await store.append(append(roomId, 0, events))).toBe('appended');
        expect(await log(roomId)).toEqual([ingested(roomId), ...events]);
        const page: readonly LoggedEvent[] = await store.read(roomId, 3, 2);
        expect(page).toEqual([
          { position: 3, domainEvent: events[1] },
          { position: 4, domainEvent: events[2] },
        ]);
        expect(await store.read(roomId, 7, 10)).toEqual([]);
      });

      it('keeps every kind of domain event whole', async () => {
        const roomId = aRoom();
        const ref = [3, [['m.room.member', '@bob:remote.test', null]]] as const;
        const events: DomainEvent[] = [
          { type: 'SnapshotPlaced', forwardExtremities: [anEvent('tip')], depth: 17 },
          accepted('with-ref', { stateAfter: ref, forkBase: 2 }),
          {
            ...bare('rejected'),
            type: 'PduRejected',
            rule: 'AU-20',
            detail: 'no “power”',
            stateAfter: 'none',
          },
          { ...bare('soft'), type: 'PduSoftFailed', rule: 'PD-06', detail: 'banned', stateAfter: ref },
        ];
        await store.append(append(roomId, 0, events));
        expect(await log(roomId)).toEqual([ingested(roomId), ...events]);
      });

      it('gives PDUs back byte for byte, whatever numbers and characters are in them', async () => {
        const roomId = aRoom();
        const texts = [
          '{"depth":9223372036854775807,"content":{"a":1.0,"b":1e3,"c":-0,"d":[0.10,12345678901234567890]}}',
          String.raw`{"content":{"nul":"\u0000","quote":"\"\\","line":"\n"},"__proto__":{"x":1}}`,
          '{"content":{"sign":"👋🏽 \u2028 ｱ"},"b":2,"a":1}',
        ];
        const events = texts.map((text, index) => accepted(`bytes${index}`, { pdu: pduOf(text) }));
        await store.append(append(roomId, 0, events));
        const read = (await log(roomId)).slice(1) as PduAccepted[];
        expect(read.map(({ pdu }) => stringifyJson(pdu))).toEqual(texts);
        const pdus = await store.pdus(roomId, [...events.map(({ eventId }) => eventId), anEvent('unknown')]);
        expect(pdus).toEqual(new Map(events.map((event) => [event.eventId, event])));
      });

      it('gives the last of several decisions on one PDU', async () => {
        const roomId = aRoom();
        const before = accepted('twice', { place: 'auth-chain', stateAfter: 'none' });
        const after = accepted('twice', { decidedAt: 2 });
        await store.append(append(roomId, 0, [before, after]));
        expect((await store.pdus(roomId, [before.eventId])).get(before.eventId)).toEqual(after);
      });

      it('has a header once it has begun, and is listed in order of room ID', async () => {
        const rooms = [aRoom(), aRoom()].sort();
        const [one, other] = rooms as [RoomId, RoomId];
        expect(await store.header(one)).toBeUndefined();
        for (const roomId of rooms) await store.append(append(roomId, 0, []));
        await store.append(append(one, 1, [accepted('more')]));
        expect(await store.header(one)).toEqual(headerAt(one, 2));
        const listed = (await store.rooms(undefined, 1000)).map(({ roomId }) => roomId);
        expect(listed).toEqual([...listed].sort());
        expect(listed).toEqual(expect.arrayContaining(rooms));
        expect((await store.rooms(one, 1000))[0]?.roomId).toBe(listed[listed.indexOf(one) + 1]);
        expect((await store.rooms(other, 1000)).map(({ roomId }) => roomId)).not.toContain(other);
      });
    });

    describe('an append that expects another position', () => {
      it.each([
        ['0 of a room that has begun', 0],
        ['a position before the last', 1],
        ['a position after the last', 3],
      ])('conflicts and writes nothing: %s', async (_, expectedPosition) => {
        const roomId = aRoom();
        await store.append(append(roomId, 0, [accepted('first')]));
        await drain(outbox);
        const late = stateEvent('late', 'm.room.topic', '');
        const conflicting = append(roomId, expectedPosition, [late], { residents: [[aServer('a.test'), 1]] });
        expect(await store.append(conflicting)).toBe('conflict');
        expect(await log(roomId)).toHaveLength(2);
        expect(await store.header(roomId)).toEqual(headerAt(roomId, 2));
        expect(await store.residents(roomId)).toEqual([]);
        expect(await store.stateAt(roomId, 10, { limit: 10 })).toEqual([]);
        expect(await outbox.take(10)).toEqual([]);
      });

      it('conflicts for a room that has not begun', async () => {
        const roomId = aRoom();
        expect(await store.append(append(roomId, 4, [accepted('early')]))).toBe('conflict');
        expect(await store.header(roomId)).toBeUndefined();
      });
    });

    it.each([0, 1])(
      'takes one of eight concurrent appends that expect position %i',
      async (expectedPosition) => {
        const roomId = aRoom();
        if (expectedPosition > 0) await store.append(append(roomId, 0, []));
        const rivals = Array.from({ length: 8 }, (_, number) => accepted(`rival${number}`));
        const outcomes = await Promise.all(
          rivals.map((rival) => store.append(append(roomId, expectedPosition, [rival]))),
        );
        expect(outcomes.filter((outcome) => outcome === 'appended')).toHaveLength(1);
        expect(outcomes.filter((outcome) => outcome === 'conflict')).toHaveLength(7);
        expect((await log(roomId)).slice(1)).toEqual([rivals[outcomes.indexOf('appended')]]);
      },
    );

    it.each([
      ['in one statement', 3],
      ['over several statements', 2_500],
    ])('writes nothing of an append with one row that cannot be stored, %s', async (_, count) => {
      const roomId = aRoom();
      await drain(outbox);
      const events: PduAccepted[] = Array.from({ length: count }, (_, number) => accepted(`good${number}`));
      const entry = change('m.room.topic', '', anEvent('bad'));
      events[count - 1] = accepted('bad', { changes: [entry, entry] });
      await expect(store.append(append(roomId, 0, events))).rejects.toThrow();
      expect(await store.header(roomId)).toBeUndefined();
      expect(await log(roomId)).toEqual([]);
      expect(await outbox.take(10)).toEqual([]);
      expect(await store.append(append(roomId, 0, [accepted('good')]))).toBe('appended');
    });

    it('refuses an append of nothing, a header of another position, and a broadcast of what it does not accept', async () => {
      const roomId = aRoom();
      await store.append(append(roomId, 0, []));
      await expect(store.append(append(roomId, 1, []))).rejects.toThrow();
      const wrongHeader = { ...append(roomId, 1, [accepted('one')]), header: headerAt(roomId, 7) };
      await expect(store.append(wrongHeader)).rejects.toThrow();
      const stray = broadcast(accepted('stray'), 'a.test');
      await expect(
        store.append(append(roomId, 1, [accepted('one')], { broadcasts: [stray] })),
      ).rejects.toThrow();
      expect(await log(roomId)).toHaveLength(1);
    });

    describe('the state', () => {
      const topic = (name: string) => stateEvent(name, 'm.room.topic', '');
      const member = (name: string, user: string) => stateEvent(name, 'm.room.member', user);

      it('is known as it was at every position', async () => {
        const roomId = aRoom();
        const gone = accepted('gone', { changes: [change('m.room.topic', '', null)] });
        await store.append(
          append(roomId, 0, [topic('t2'), member('a3', '@a:x'), topic('t4'), accepted('none')]),
        );
        await store.append(append(roomId, 5, [gone, member('b7', '@b:x')]));
        const at = async (position: number) =>
          (await store.stateAt(roomId, position, { limit: 10 })).map((entry) => [
            entry.type,
            entry.stateKey,
            entry.position,
            entry.eventId,
          ]);
        const a3 = ['m.room.member', '@a:x', 3, anEvent('a3')];
        expect(await at(1)).toEqual([]);
        expect(await at(2)).toEqual([['m.room.topic', '', 2, anEvent('t2')]]);
        expect(await at(3)).toEqual([a3, ['m.room.topic', '', 2, anEvent('t2')]]);
        expect(await at(5)).toEqual([a3, ['m.room.topic', '', 4, anEvent('t4')]]);
        expect(await at(6)).toEqual([a3]);
        expect(await at(7)).toEqual([a3, ['m.room.member', '@b:x', 7, anEvent('b7')]]);
      });

      it('is given by type, by entry, and by page in order of type and state_key', async () => {
        const roomId = aRoom();
        const users = ['@b:x', '@a:x', '@Ä:x', '@😀:x', '@ｱ:x', '@B:x'];
        await store.append(append(roomId, 0, [topic('t'), ...users.map((user, n) => member(`m${n}`, user))]));
        const type = 'm.room.member';
        const inOrder = ['@B:x', '@a:x', '@b:x', '@Ä:x', '@ｱ:x', '@😀:x'];
        const keys = async (filter: Parameters<EventStore['stateAt']>[2]) =>
          (await store.stateAt(roomId, 8, filter)).map(({ stateKey }) => stateKey);
        expect(await keys({ type, limit: 10 })).toEqual(inOrder);
        expect(await keys({ type, limit: 2 })).toEqual(inOrder.slice(0, 2));
        expect(await keys({ type, limit: 3, after: [type, '@a:x'] })).toEqual(inOrder.slice(2, 5));
        expect(await keys({ limit: 10, after: [type, '@ｱ:x'] })).toEqual(['@😀:x', '']);
        expect(await keys({ type, stateKey: '@a:x', limit: 10 })).toEqual(['@a:x']);
        expect(await keys({ type, stateKey: '@z:x', limit: 10 })).toEqual([]);
      });

      it('tells keys with U+0000 and its like apart', async () => {
        const roomId = aRoom();
        const keys = [
          '',
          '\u0000',
          '\u0001',
          '\u0000\u0000',
          '\u0001\u0001',
          '\u0001\u0002',
          'a\u0000b',
          'ab',
        ];
        const events = keys.map((key, number) => stateEvent(`nul${number}`, `type\u0000${key}`, key));
        expect(await store.append(append(roomId, 0, events))).toBe('appended');
        expect((await log(roomId)).slice(1)).toEqual(events);
        for (const [number, key] of keys.entries()) {
          const wanted = { type: `type\u0000${key}`, stateKey: key };
          const entry = { ...wanted, position: number + 2, eventId: anEvent(`nul${number}`) };
          expect(await store.stateAt(roomId, 99, { ...wanted, limit: 5 })).toEqual([entry]);
          expect(await store.facts(roomId, 9, needing({ state: [wanted] }))).toMatchObject({
            state: [entry],
          });
        }
      });

      it('tells any two keys apart', async () => {
        const text = fc.string({ unit: 'binary', maxLength: 12 });
        await fc.assert(
          fc.asyncProperty(fc.uniqueArray(text, { minLength: 1, maxLength: 8 }), async (keys) => {
            const roomId = aRoom();
            await store.append(
              append(
                roomId,
                0,
                keys.map((key, n) => stateEvent(`k${n}`, key, key)),
              ),
            );
            const state = await store.stateAt(roomId, 99, { limit: 99 });
            expect(new Map(state.map((entry) => [entry.stateKey, entry.eventId]))).toEqual(
              new Map(keys.map((key, n) => [key, anEvent(`k${n}`)])),
            );
          }),
          { numRuns: 25 },
        );
      });
    });

    describe('facts', () => {
      const stored = [2, [['m.room.topic', '', anEvent('other')]]] as const;
      const member = 'm.room.member';

      async function aRoomOfFacts(): Promise<RoomId> {
        const roomId = aRoom();
        const events: DomainEvent[] = [
          stateEvent('create', 'm.room.create', ''),
          { ...stateEvent('alice', member, '@alice:a.test', ['create']), stateAfter: stored },
          stateEvent('topic', 'm.room.topic', '', ['create', 'alice']),
          accepted('chain', { place: 'auth-chain', stateAfter: 'none' }),
          { ...bare('rejected'), type: 'PduRejected', rule: 'AU-20', detail: 'why', stateAfter: 'none' },
          { ...bare('soft'), type: 'PduSoftFailed', rule: 'PD-06', detail: 'why', stateAfter: stored },
          stateEvent('alice-left', member, '@alice:a.test', ['create', 'alice']),
          accepted('message', {
            pdu: { type: 'm.room.message', content: {}, auth_events: [anEvent('create'), anEvent('alice')] },
          }),
        ];
        await store.append(
          append(roomId, 0, events, {
            residents: [aServer('b.test'), aServer('a.test')].map((server, n) => [server, n + 1]),
          }),
        );
        return roomId;
      }

      it('hold what was asked for and nothing else', async () => {
        const roomId = await aRoomOfFacts();
        expect(await store.facts(roomId, 9, needing({}))).toEqual({
          state: [],
          events: [],
          changes: [],
          citing: [],
          residents: [],
        });
        const unknown = needing({
          state: [{ type: 'm.room.name', stateKey: '' }],
          events: [anEvent('unknown')],
          citing: [anEvent('unknown')],
          residents: [aServer('c.test')],
        });
        expect(await store.facts(roomId, 9, unknown)).toEqual(await store.facts(roomId, 9, needing({})));
      });

      it('hold the whole history of an entry', async () => {
        const roomId = await aRoomOfFacts();
        const wanted = { type: member, stateKey: '@alice:a.test' };
        expect(
          await store.facts(roomId, 9, needing({ state: [wanted, { type: 'm.room.topic', stateKey: '' }] })),
        ).toMatchObject({
          state: [
            { ...wanted, position: 3, eventId: anEvent('alice') },
            { type: 'm.room.topic', stateKey: '', position: 4, eventId: anEvent('topic') },
            { ...wanted, position: 8, eventId: anEvent('alice-left') },
          ],
        });
      });

      it('hold PDUs with what was decided on them and the state after them', async () => {
        const roomId = await aRoomOfFacts();
        const events = ['topic', 'alice', 'chain', 'rejected', 'soft'].map(anEvent);
        const facts = await store.facts(roomId, 9, needing({ events }));
        if (facts === 'moved') throw new Error(facts);
        const byId = new Map(facts.events.map((event) => [event.eventId, event]));
        const inGraph = { place: 'graph' } as const;
        const { pdu } = stateEvent('topic', 'm.room.topic', '', ['create', 'alice']);
        expect(byId.get(anEvent('topic'))).toEqual({
          ...inGraph,
          eventId: anEvent('topic'),
          position: 4,
          status: 'accepted',
          stateAfter: [4, []],
          pdu,
        });
        expect(byId.get(anEvent('alice'))).toMatchObject({ ...inGraph, position: 3, stateAfter: stored });
        expect(byId.get(anEvent('chain'))).toMatchObject({
          place: 'auth-chain',
          position: 5,
          status: 'accepted',
        });
        expect(byId.get(anEvent('chain'))).not.toHaveProperty('stateAfter');
        const decided = { ...inGraph, detail: 'why' };
        expect(byId.get(anEvent('rejected'))).toMatchObject({
          ...decided,
          status: 'rejected',
          rule: 'AU-20',
        });
        expect(byId.get(anEvent('rejected'))).not.toHaveProperty('stateAfter');
        expect(byId.get(anEvent('soft'))).toMatchObject({
          ...decided,
          status: 'soft-failed',
          stateAfter: stored,
        });
      });

      it('hold which entries changed between positions, once each', async () => {
        const roomId = await aRoomOfFacts();
        const alice = { type: member, stateKey: '@alice:a.test' };
        const topic = { type: 'm.room.topic', stateKey: '' };
        const ranges = [
          { after: 2, upTo: 9 },
          { after: 3, upTo: 4 },
          { after: 4, upTo: 7 },
          { after: 0, upTo: 2 },
        ];
        const facts = await store.facts(roomId, 9, needing({ changes: ranges }));
        if (facts === 'moved') throw new Error(facts);
        expect(facts.changes.map(({ after, upTo }) => ({ after, upTo }))).toEqual(ranges);
        const keys = facts.changes.map((range) =>
          [...range.keys].sort((one, other) => (one.type < other.type ? -1 : 1)),
        );
        expect(keys).toEqual([[alice, topic], [topic], [], [{ type: 'm.room.create', stateKey: '' }]]);
      });

      it('hold which state events cite an event', async () => {
        const roomId = await aRoomOfFacts();
        const facts = await store.facts(roomId, 9, needing({ citing: [anEvent('alice'), anEvent('topic')] }));
        if (facts === 'moved') throw new Error(facts);
        expect(facts.citing.map(({ cited }) => cited)).toEqual([anEvent('alice')]);
        expect([...(facts.citing[0]?.by ?? [])].sort()).toEqual([anEvent('alice-left'), anEvent('topic')]);
      });

      it('hold the state that citing pairs of room versions 1 and 2 mean', async () => {
        const roomId = aRoom();
        const pdu = pduOf('{"type":"m.x","state_key":"","auth_events":[["$old:local.test",{"sha256":"x"}]]}');
        await store.append(append(roomId, 0, [accepted('pair', { pdu })]));
        expect(await store.facts(roomId, 2, needing({ citing: [anEvent('old')] }))).toMatchObject({
          citing: [{ cited: anEvent('old'), by: [anEvent('pair')] }],
        });
      });

      it('hold the servers asked for, or all of them', async () => {
        const roomId = await aRoomOfFacts();
        const [a, b] = [aServer('a.test'), aServer('b.test')];
        expect(await store.facts(roomId, 9, needing({ residents: [a, aServer('c.test')] }))).toMatchObject({
          residents: [[a, 2]],
        });
        const all = await store.facts(roomId, 9, needing({ allResidents: true, residents: [a] }));
        if (all === 'moved') throw new Error(all);
        expect(new Map(all.residents)).toEqual(
          new Map([
            [b, 1],
            [a, 2],
          ]),
        );
      });

      it('hold the place of a snapshot’s extremities, with their PDUs or without', async () => {
        const roomId = aRoom();
        const place = 'state';
        const known = { ...stateEvent('known', 'm.room.topic', ''), place, stateAfter: 'none' } as const;
        const snapshot: DomainEvent = {
          type: 'SnapshotPlaced',
          forwardExtremities: [anEvent('known'), anEvent('unseen')],
          depth: 40,
        };
        await store.append(append(roomId, 0, [known, snapshot]));
        const events = [anEvent('known'), anEvent('unseen'), anEvent('unknown')];
        const facts = await store.facts(roomId, 3, needing({ events }));
        expect(facts).toMatchObject({
          events: [{ eventId: anEvent('known'), position: 2, place, stateAfter: [3, []] }],
          placed: [{ eventId: anEvent('unseen'), position: 3 }],
        });
        expect((facts as Exclude<typeof facts, 'moved'>).events).toHaveLength(1);
        await store.append(append(roomId, 3, [accepted('unseen')]));
        const later = await store.facts(roomId, 4, needing({ events: [anEvent('unseen')] }));
        expect(later).toMatchObject({
          events: [{ eventId: anEvent('unseen'), position: 4, stateAfter: [4, []] }],
        });
        expect(later).not.toHaveProperty('placed');
      });

      it('are refused where the room has moved', async () => {
        const roomId = await aRoomOfFacts();
        expect(await store.facts(roomId, 8, needing({}))).toBe('moved');
        expect(await store.facts(roomId, 10, needing({ events: [anEvent('alice')] }))).toBe('moved');
        expect(await store.facts(aRoom(), 1, needing({}))).toBe('moved');
        expect(await store.facts(aRoom(), 0, needing({ allResidents: true }))).toMatchObject({
          residents: [],
        });
      });
    });

    it('counts residents as they change and drops those without a member', async () => {
      const roomId = aRoom();
      const [a, b, c] = [aServer('a.test'), aServer('b.test'), aServer('c.test')];
      await store.append(
        append(roomId, 0, [], {
          residents: [
            [b, 2],
            [a, 1],
            [c, 300_000],
          ],
        }),
      );
      await store.append(
        append(roomId, 1, [accepted('x')], {
          residents: [
            [b, 0],
            [a, 2],
          ],
        }),
      );
      expect(await store.residents(roomId)).toEqual([
        [a, 2],
        [c, 300_000],
      ]);
      await store.append(
        append(roomId, 2, [accepted('y')], {
          residents: [
            [b, 0],
            [a, 0],
          ],
        }),
      );
      expect(await store.residents(roomId)).toEqual([[c, 300_000]]);
      expect(await store.residents(aRoom())).toEqual([]);
    });

    describe('the outbox', () => {
      beforeEach(async () => drain(outbox));

      it('has each PDU of the graph with who must hear of it, in the order of each room', async () => {
        const [one, other] = [aRoom(), aRoom()];
        const [first, second, third] = [
          accepted('first'),
          stateEvent('second', 'm.x', ''),
          accepted('third'),
        ];
        const outlier = accepted('outlier', { place: 'state', stateAfter: 'none' });
        const rejected: DomainEvent = {
          ...bare('no'),
          type: 'PduRejected',
          rule: 'r',
          detail: 'd',
          stateAfter: 'none',
        };
        await store.append(
          append(one, 0, [outlier, first], { broadcasts: [broadcast(first, 'a.test', 'b.test')] }),
        );
        await store.append(append(other, 0, [third]));
        await store.append(append(one, 3, [rejected, second], { broadcasts: [broadcast(second, 'c.test')] }));
        const entries = await outbox.take(10);
        expect(entries.filter(({ roomId }) => roomId === one)).toMatchObject([
          { roomVersion: '11', position: 3, domainEvent: first, destinations: ['a.test', 'b.test'] },
          { roomVersion: '11', position: 5, domainEvent: second, destinations: ['c.test'] },
        ]);
        expect(entries.filter(({ roomId }) => roomId === other)).toMatchObject([
          { position: 2, destinations: [] },
        ]);
        expect(entries).toHaveLength(3);
      });

      it('has with each PDU the trace of the request that it came by, of one append or of several', async () => {
        const [one, other] = [aRoom(), aRoom()];
        const traceparent = (digit: string) => `00-${digit.repeat(32)}-${digit.repeat(16)}-01`;
        const events = ['t1', 't2', 't3'].map((name) => accepted(name));
        const traceparents = new Map([
          [anEvent('t1'), traceparent('a')],
          [anEvent('t3'), traceparent('c')],
        ]);
        await store.append(append(one, 0, events, { traceparents }));
        await store.append(append(other, 0, [accepted('t1')], { traceparents }));
        await store.append(append(other, 2, [accepted('t2')]));
        const entries = await outbox.take(10);
        const tracesOf = (room: RoomId) =>
          entries.filter(({ roomId }) => roomId === room).map((entry) => entry.traceparent);
        expect(tracesOf(one)).toEqual([traceparent('a'), undefined, traceparent('c')]);
        expect(tracesOf(other)).toEqual([traceparent('a'), undefined]);
      });

      it('gives the same again until it is done, and then the next', async () => {
        const roomId = aRoom();
        await store.append(
          append(
            roomId,
            0,
            ['one', 'two', 'three'].map((name) => accepted(name)),
          ),
        );
        await store.append(append(roomId, 4, [accepted('four')]));
        const oldest = await outbox.take(2);
        expect(oldest.map(({ position }) => position)).toEqual([2, 3]);
        expect(await outbox.take(2)).toEqual(oldest);
        await outbox.done(oldest.slice(0, 1));
        expect((await outbox.take(2)).map(({ position }) => position)).toEqual([3, 4]);
        await outbox.done(oldest);
        await outbox.done(oldest);
        await outbox.done([]);
        expect((await outbox.take(9)).map(({ position }) => position)).toEqual([4, 5]);
      });

      it('calls whoever listens when something was put in, until they stop', async () => {
        const roomId = aRoom();
        let calls = 0;
        const stop = outbox.onEntry(() => (calls += 1));
        await store.append(append(roomId, 0, []));
        expect(calls).toBe(0);
        await store.append(append(roomId, 1, [accepted('heard')]));
        expect(calls).toBe(1);
        await store.append(append(roomId, 1, [accepted('conflict')]));
        expect(calls).toBe(1);
        stop();
        await store.append(append(roomId, 2, [accepted('unheard')]));
        expect(calls).toBe(1);
      });
    });

    it('takes an append of 20,000 PDUs as one', async () => {
      const roomId = aRoom();
      await drain(outbox);
      const count = 20_000;
      const events = Array.from({ length: count }, (_, n) => ({
        ...stateEvent(`import${n}`, 'm.room.member', `@user${n % 15_000}:remote.test`, ['create']),
        ...(n % 2 === 0 ? ({ place: 'state', stateAfter: 'none' } as const) : {}),
      }));
      const servers = Array.from({ length: 3_000 }, (_, n) => [aServer(`s${n}.test`), n] as const);
      expect(await store.append(append(roomId, 0, events, { residents: servers }))).toBe('appended');
      expect((await store.header(roomId))?.position).toBe(count + 1);
      expect((await store.read(roomId, count - 9, 100)).map(({ position }) => position)).toEqual(
        Array.from({ length: 11 }, (_, n) => count - 9 + n),
      );
      let members = 0;
      let after: readonly [string, string] | undefined;
      for (;;) {
        const page = await store.stateAt(roomId, count + 1, { limit: 4_000, ...(after && { after }) });
        const last = page.at(-1);
        if (last === undefined) break;
        members += page.length;
        after = [last.type, last.stateKey];
      }
      expect(members).toBe(15_000);
      expect(await store.residents(roomId)).toHaveLength(2_999);
      const eventId: EventId = anEvent(`import${count - 1}`);
      expect((await store.pdus(roomId, [eventId])).get(eventId)).toEqual(events.at(-1));
      const [first, last] = [(await outbox.take(1))[0], (await outbox.take(count)).at(-1)];
      expect([first?.position, last?.position]).toEqual([3, count + 1]);
      await drain(outbox);
    });

    it('keeps everything over a restart', async () => {
      const roomId = aRoom();
      await drain(outbox);
      const event = stateEvent('kept', 'm.room.topic', '');
      await store.append(
        append(roomId, 0, [event], {
          broadcasts: [broadcast(event, 'a.test')],
          residents: [[aServer('a.test'), 4]],
        }),
      );
      use(await opened.reopen());
      expect(await log(roomId)).toEqual([ingested(roomId), event]);
      expect(await store.header(roomId)).toEqual(headerAt(roomId, 2));
      expect(await store.residents(roomId)).toEqual([['a.test', 4]]);
      expect(await store.stateAt(roomId, 2, { limit: 5 })).toMatchObject([
        { position: 2, eventId: event.eventId },
      ]);
      expect(await outbox.take(5)).toMatchObject([
        { roomId, position: 2, domainEvent: event, destinations: ['a.test'] },
      ]);
      expect(await store.append(append(roomId, 0, []))).toBe('conflict');
      expect(await store.append(append(roomId, 2, [accepted('next')]))).toBe('appended');
    });
  });
}

function bare(name: string) {
  const { eventId, pdu, origin, decidedAt } = accepted(name);
  return { eventId, pdu, origin, decidedAt };
}
