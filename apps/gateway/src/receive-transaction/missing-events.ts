import type { EventId, Pdu, RoomId, ServerName } from '@exeunt/pdu';
import { inOrderOfReferences, missingParents } from '@exeunt/room';
import { isJsonObject, memberOf, type JsonObject } from '@exeunt/signing';
import type { FederationSide } from '../federation-side.js';

/** As many as other servers give at once. */
const eventsAtOnce = 20;
/** A gap that is larger stays: whoever was away for so long imports the room. */
const maxRequests = 5;
/** The server that sends has the transaction open meanwhile. */
const requestMs = 10_000;
const deadlineMs = 20_000;
/** The extremities that are told to the other side; it walks on until it meets one of them. */
const maxEarliest = 100;

/** Takes of what came the PDUs of the room that pass the checks on receipt: format, signatures, hash. */
export type CheckedPdus = (jsons: readonly JsonObject[]) => Promise<readonly Pdu[]>;

/**
 * Fetches what received PDUs cite as parents and we lack, from the server that sent them: the nearest hundred, in some
 * seconds, one fetch a room at a time, with nothing locked. What it gives is still to be judged. (FE-09)
 */
export class MissingEvents {
  readonly #side: FederationSide;
  /** The last fetch of each room; none of them rejects. */
  readonly #underWay = new Map<RoomId, Promise<unknown>>();

  constructor(side: FederationSide) {
    this.#side = side;
  }

  /**
   * Gives `judge` the PDUs, with what was missing before them, in an order in which they can be judged; where nothing
   * seems to be missing, as they are. Where a gap stays, what comes after it is given all the same and can't be judged.
   * The server's faults are not told. Rejects with what `check` and `judge` do.
   */
  async judgeWithParents(
    origin: ServerName,
    roomId: RoomId,
    pdus: readonly Pdu[],
    { check, judge }: { readonly check: CheckedPdus; readonly judge: (all: readonly Pdu[]) => Promise<void> },
  ): Promise<void> {
    const { rooms } = this.#side;
    // They are judged by what is known then, so a look at what was known is enough here.
    if ((await rooms.peek(roomId, (room) => missingParents(room, pdus))).length === 0) return judge(pdus);
    const before = this.#underWay.get(roomId) ?? Promise.resolve();
    // What the one before has brought and had judged may be what is missing here.
    const judged = before.then(async () => {
      const found = await this.#fetch(origin, roomId, pdus, check);
      await judge(found.length === 0 ? pdus : inOrderOfReferences([...found, ...pdus]));
    });
    const ended = judged.catch(() => {});
    this.#underWay.set(roomId, ended);
    try {
      await judged;
    } finally {
      if (this.#underWay.get(roomId) === ended) this.#underWay.delete(roomId);
    }
  }

  async #fetch(
    origin: ServerName,
    roomId: RoomId,
    pdus: readonly Pdu[],
    check: CheckedPdus,
  ): Promise<readonly Pdu[]> {
    const found = new Map<EventId, Pdu>();
    const known = new Set(pdus.map(({ eventId }) => eventId));
    const endsAt = performance.now() + deadlineMs;
    for (let requests = 0; requests < maxRequests; requests++) {
      const latest = await this.#lacking(roomId, [...pdus, ...found.values()]);
      const timeoutMs = Math.min(requestMs, Math.floor(endsAt - performance.now()));
      if (latest.length === 0 || timeoutMs <= 0) break;
      const given = await this.#ask(origin, roomId, latest, timeoutMs);
      const fresh = (await check(given)).filter(({ eventId }) => !known.has(eventId));
      if (fresh.length === 0) break;
      for (const pdu of fresh) {
        known.add(pdu.eventId);
        found.set(pdu.eventId, pdu);
      }
    }
    return [...found.values()];
  }

  #lacking(roomId: RoomId, pdus: readonly Pdu[]): Promise<readonly Pdu[]> {
    return this.#side.rooms.query(roomId, (room) => missingParents(room, pdus));
  }

  async #ask(
    origin: ServerName,
    roomId: RoomId,
    latest: readonly Pdu[],
    timeoutMs: number,
  ): Promise<readonly JsonObject[]> {
    const earliest = await this.#side.rooms.query(roomId, (room) => room.forwardExtremities);
    const result = await this.#side.client.missingEvents(
      origin,
      roomId,
      {
        latest: latest.slice(0, eventsAtOnce).map(({ eventId }) => eventId),
        earliest: earliest.slice(-maxEarliest).map(({ eventId }) => eventId),
        limit: eventsAtOnce,
      },
      { timeoutMs },
    );
    const events = result.ok ? memberOf(result.body, 'events') : undefined;
    return Array.isArray(events) ? events.filter(isJsonObject).slice(0, eventsAtOnce) : [];
  }
}
