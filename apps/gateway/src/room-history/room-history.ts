import { Inject, Injectable, type StreamableFile } from '@nestjs/common';
import type { EventId, Pdu, RoomId, ServerName } from '@exeunt/pdu';
import {
  admitReader,
  checkIsInRoom,
  eventsUpTo,
  inOrderOfReferences,
  isRefusal,
  missingEvents,
  servable,
  stateBefore,
  unknownEvent,
  type Refusal,
  type Room,
  type StateRef,
} from '@exeunt/room';
import { lookBack } from '@exeunt/room-store';
import { stringifyJson, type JsonObject } from '@exeunt/signing';
import { LRUCache } from 'lru-cache';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { Turns } from '../receive-transaction/turns.js';
import { authChainPages } from './auth-chain-pages.js';
import { jsonList, jsonStream } from './json-stream.js';
import { servedForms, servedState } from './served-form.js';
import { statePages } from './state-pages.js';

/** What other servers ask of a room's past, and nobody else: `busy` where too many ask at once. */
export type HistoryAnswer<T> = T | Refusal | 'busy';

/** A room may have an event of versions 1 and 2 whose ID another room has as well; nobody has it in so many. */
const maxRoomsOfEvent = 10;
/** PDUs of a state are read and written so many at once: a few milliseconds. */
const pdusAtOnce = 100;

/**
 * A room's past as the store has it, for the servers that are in the room, or were when our last user left it. Reads
 * straight from the store: what is past doesn't change, so nothing of it needs the room's queue or cache.
 */
@Injectable()
export class RoomHistory {
  readonly #short = new Turns(16, 200);
  /** Answers as long as a room is large; few of them for one server, which may take its time. */
  readonly #long = new Turns(8, 64);
  readonly #longOf = new LRUCache<ServerName, Turns>({ max: 10_000 });

  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  /** A transaction of the one event, from whichever room has it and the reader in it. (FE-02) */
  event(reader: ServerName, eventId: EventId): Promise<HistoryAnswer<JsonObject>> {
    return this.#inTurn(async () => {
      const { store } = this.side.rooms;
      for (const roomId of await store.roomsOf(eventId, maxRoomsOfEvent)) {
        const pdu = await lookBack(store, roomId, (room) =>
          checkIsInRoom(room, reader) === undefined ? servable(room, eventId) : undefined,
        );
        if (pdu !== undefined) return this.#transaction(await servedForms(store, roomId, reader, [pdu]));
      }
      return { ...unknownEvent(eventId), rule: 'FE-02' };
    });
  }

  /** What precedes the latest events, parents before children; the nearest of it where there is more. (FE-03) */
  missingEvents(
    reader: ServerName,
    roomId: RoomId,
    asked: Parameters<typeof missingEvents>[1],
  ): Promise<HistoryAnswer<JsonObject>> {
    return this.#inTurn(async () => {
      const found = await this.#admitted(reader, roomId, (room) => missingEvents(room, asked));
      if (isRefusal(found)) return found;
      return { events: await this.#served(reader, roomId, inOrderOfReferences(found.toReversed())) };
    });
  }

  /** The events given and what precedes them, deepest first, as a transaction. (FE-04) */
  backfill(
    reader: ServerName,
    roomId: RoomId,
    from: readonly EventId[],
    limit: number,
  ): Promise<HistoryAnswer<JsonObject>> {
    return this.#inTurn(async () => {
      const found = await this.#admitted(reader, roomId, (room) => eventsUpTo(room, from, limit));
      return isRefusal(found) ? found : this.#transaction(await this.#served(reader, roomId, found));
    });
  }

  /** The state before an event and its auth chain, as PDUs or as IDs; of any length. (FE-05) */
  state(
    reader: ServerName,
    roomId: RoomId,
    eventId: EventId,
    form: 'pdus' | 'ids',
  ): Promise<HistoryAnswer<StreamableFile>> {
    return this.#streamInTurn(reader, async () => {
      const state = await this.#admitted(reader, roomId, (room) => stateBefore(room, eventId));
      return isRefusal(state) ? state : this.#stateText(roomId, state, form);
    });
  }

  /** The auth chain of an event, without the event. (FE-06, FE-10) */
  eventAuth(reader: ServerName, roomId: RoomId, eventId: EventId): Promise<HistoryAnswer<StreamableFile>> {
    return this.#streamInTurn(reader, async () => {
      const pdu = await this.#admitted(
        reader,
        roomId,
        (room) => servable(room, eventId) ?? unknownEvent(eventId),
      );
      if (isRefusal(pdu)) return pdu;
      const { store } = this.side.rooms;
      const chain = authChainPages(store, roomId, onePage(pdu.authEvents));
      return wrapped([['auth_chain', this.#pduTexts(roomId, chain)]]);
    });
  }

  #stateText(roomId: RoomId, state: StateRef, form: 'pdus' | 'ids'): AsyncGenerator<string> {
    const { store } = this.side.rooms;
    const entries = statePages(store, roomId, state);
    const chain = authChainPages(store, roomId, this.#citedBy(roomId, statePages(store, roomId, state)));
    return form === 'ids'
      ? wrapped([
          ['pdu_ids', idTexts(entries)],
          ['auth_chain_ids', idTexts(chain)],
        ])
      : wrapped([
          ['pdus', this.#pduTexts(roomId, entries)],
          ['auth_chain', this.#pduTexts(roomId, chain)],
        ]);
  }

  async *#citedBy(
    roomId: RoomId,
    pages: AsyncIterable<readonly EventId[]>,
  ): AsyncGenerator<readonly EventId[]> {
    for await (const page of pages) {
      const edges = await this.side.rooms.store.authEventsOf(roomId, page);
      yield [...new Set(edges.flatMap(({ authEvents }) => authEvents))];
    }
  }

  async *#pduTexts(
    roomId: RoomId,
    pages: AsyncIterable<readonly EventId[]>,
  ): AsyncGenerator<readonly string[]> {
    for await (const page of pages) {
      for (let from = 0; from < page.length; from += pdusAtOnce) {
        const some = page.slice(from, from + pdusAtOnce);
        yield (await servedState(this.side.rooms.store, roomId, some)).map(stringifyJson);
      }
    }
  }

  #admitted<T>(reader: ServerName, roomId: RoomId, read: (room: Room) => T | Refusal): Promise<T | Refusal> {
    return lookBack(this.side.rooms.store, roomId, (room) => admitReader(room, reader) ?? read(room));
  }

  #served(reader: ServerName, roomId: RoomId, pdus: readonly Pdu[]): Promise<readonly JsonObject[]> {
    return servedForms(this.side.rooms.store, roomId, reader, pdus);
  }

  #transaction(pdus: readonly JsonObject[]): JsonObject {
    return { origin: this.side.ourName, origin_server_ts: this.side.now(), pdus };
  }

  async #inTurn<T extends object>(work: () => Promise<T | Refusal>): Promise<HistoryAnswer<T>> {
    return (await this.#short.run(work)) ?? 'busy';
  }

  /** The turn ends when the answer was taken, or was given up. */
  #streamInTurn(
    reader: ServerName,
    work: () => Promise<AsyncGenerator<string> | Refusal>,
  ): Promise<HistoryAnswer<StreamableFile>> {
    return new Promise((resolve, reject) => {
      const stream = async (): Promise<true> => {
        const chunks = await work();
        if ('refused' in chunks) {
          resolve(chunks);
          return true;
        }
        const file = await jsonStream(chunks);
        const closed = new Promise<true>((resolve) => file.getStream().once('close', () => resolve(true)));
        resolve(file);
        return closed;
      };
      const turns = this.#longOf.get(reader) ?? new Turns(2, 16);
      this.#longOf.set(reader, turns);
      turns
        .run(() => this.#long.run(stream))
        .then((ran) => {
          if (ran === undefined) resolve('busy');
        }, reject);
    });
  }
}

/** The text of an object of lists, each a generator of pages of JSON texts. */
async function* wrapped(
  lists: readonly (readonly [key: string, pages: AsyncIterable<readonly string[]>])[],
): AsyncGenerator<string> {
  let before = '{';
  for (const [key, pages] of lists) {
    let head = `${before}${JSON.stringify(key)}:`;
    for await (const chunk of jsonList(pages)) {
      yield head + chunk;
      head = '';
    }
    before = ',';
  }
  yield '}';
}

async function* idTexts(pages: AsyncIterable<readonly EventId[]>): AsyncGenerator<readonly string[]> {
  for await (const page of pages) yield page.map((eventId) => JSON.stringify(eventId));
}

async function* onePage(eventIds: readonly EventId[]): AsyncGenerator<readonly EventId[]> {
  yield eventIds;
}
