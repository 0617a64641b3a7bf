import { Inject, Logger } from '@nestjs/common';
import { Command, CommandHandler, type ICommandHandler } from '@nestjs/cqrs';
import { noteRemoval } from '@exeunt/leaving';
import {
  checkPduSignatures,
  contentHashMatches,
  eventIdOf,
  isPduFault,
  parseEventId,
  parsePdu,
  parseRoomId,
  parseUserId,
  serverNameOf,
  signingKeysNamed,
  withRedactedContent,
  type EventId,
  type Pdu,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { acceptPdu, admitServer, type Refusal } from '@exeunt/room';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { isJsonObject, memberOf, stringifyJson, type JsonObject, type JsonValue } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { faultRefusal } from '../member-handshake/accept-membership.command.js';
import { isPassing } from '../passing-failure.js';
import { MissingEvents } from './missing-events.js';
import { Turns } from './turns.js';

/** Another server sends a transaction. Gives its answer as JSON text, or `busy`. */
export class ReceiveTransaction extends Command<string | 'busy'> {
  constructor(
    readonly origin: ServerName,
    readonly txnId: string,
    /** At most 50. (TX-01) */
    readonly pdus: readonly JsonValue[],
  ) {
    super();
  }
}

/** What became of one PDU: nothing to say, or why it was not taken. */
type PduResult = { readonly error?: string };

interface Received {
  readonly origin: ServerName;
  /** By event ID as computed here; the first of two alike counts. (TX-02) */
  readonly results: Map<EventId, PduResult>;
}

const transactionsAtOnce = 16;
const transactionsWaiting = 200;
/** Rooms of one transaction at a time; those of one room are taken in order. */
const roomsAtOnce = 8;

/** SG-08 asks for the sender's server alone; an invite may come without the signature of the invitee's. */
const asSent = { awaitsInvitee: true };

/**
 * Takes in the PDUs of a transaction, each by itself: one that is bad gets an error and stops no other. Nothing is
 * broadcast from here, for whoever made an event sends it to everybody. The first answer is kept and given again to a
 * repeat; a transaction that could not be finished has none, and what it did do is done. (TX-02, TX-04, TX-07, TX-08)
 *
 * - A room that we are in judges the PDU by its current state. What it cites as parents and we lack is asked for at
 *   the server that sends, and judged before it, as if it had been sent; where a gap stays, the PDU gets an error.
 *   (FE-09)
 * - In a room that we are not in, a leave or ban of a user of ours takes the invite back, or denies the knock.
 *   Everything else is skipped, with an error where the event's ID can be computed. (TX-10)
 * - EDUs are dropped: none is about leaving.
 */
@CommandHandler(ReceiveTransaction)
export class ReceiveTransactionHandler implements ICommandHandler<ReceiveTransaction> {
  readonly #log = new Logger('receive-transaction');
  readonly #turns = new Turns(transactionsAtOnce, transactionsWaiting);
  readonly #underWay = new Map<string, Promise<string | 'busy'>>();
  readonly #missingEvents: MissingEvents;

  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {
    this.#missingEvents = new MissingEvents(side);
  }

  execute(transaction: ReceiveTransaction): Promise<string | 'busy'> {
    const key = JSON.stringify([transaction.origin, transaction.txnId]);
    // A repeat that comes while the first is under way shares its answer.
    const shared = this.#underWay.get(key);
    if (shared !== undefined) return shared;
    const answer = this.#answer(transaction).finally(() => this.#underWay.delete(key));
    this.#underWay.set(key, answer);
    return answer;
  }

  async #answer({ origin, txnId, pdus }: ReceiveTransaction): Promise<string | 'busy'> {
    const { receivedTransactions, now } = this.side;
    const known = await receivedTransactions.answerTo(origin, txnId);
    if (known !== undefined) return known;
    const results = await this.#turns.run(() => this.#receive(origin, pdus));
    if (results === undefined) return 'busy';
    const answer = stringifyJson({ pdus: Object.fromEntries(results) });
    return receivedTransactions.keep(origin, txnId, answer, now());
  }

  async #receive(origin: ServerName, pdus: readonly JsonValue[]): Promise<ReadonlyMap<EventId, PduResult>> {
    const received: Received = { origin, results: new Map() };
    const byRoom = new Map<RoomId, JsonObject[]>();
    for (const json of pdus) {
      const named = isJsonObject(json) ? memberOf(json, 'room_id') : undefined;
      const roomId = typeof named === 'string' ? parseRoomId(named) : undefined;
      // Without a room there is no version, and without a version no ID to answer under. (TX-10)
      if (!isJsonObject(json) || roomId === undefined) continue;
      const others = byRoom.get(roomId);
      if (others === undefined) byRoom.set(roomId, [json]);
      else others.push(json);
    }
    const rooms = [...byRoom];
    const work = async (): Promise<void> => {
      for (let next = rooms.shift(); next !== undefined; next = rooms.shift()) {
        await this.#receiveIntoRoom(received, ...next);
      }
    };
    await Promise.all(Array.from({ length: Math.min(roomsAtOnce, rooms.length) }, work));
    return received.results;
  }

  async #receiveIntoRoom(received: Received, roomId: RoomId, jsons: readonly JsonObject[]): Promise<void> {
    const { ourName, rooms } = this.side;
    const { origin } = received;
    const room = await rooms.query(roomId, (room) => ({
      version: room.isKnown ? room.version : undefined,
      refusal: admitServer(room, { origin, ourName }),
    }));
    if (room.refusal?.refused === 'not-resident' || room.version === undefined) {
      for (const json of jsons) await this.#receiveFromAfar(received, roomId, json, room.version);
      return;
    }
    const pdus = this.#readable(received, jsons, room.version);
    if (room.refusal !== undefined) {
      // ACLs go by who sends the transaction, PDU by PDU. (TX-08)
      for (const pdu of pdus) note(received, pdu.eventId, room.refusal);
      return;
    }
    const { version } = room;
    const sent = await this.#checked(received, pdus, version);
    const known = new Set(sent.map(({ eventId }) => eventId));
    // Nobody is told what became of these.
    const besides: Received = { origin, results: new Map() };
    await this.#missingEvents.judgeWithParents(origin, roomId, sent, {
      check: (jsons) => {
        const ofRoom = this.#readable(besides, jsons, version).filter((pdu) => pdu.roomId === roomId);
        return this.#checked(besides, ofRoom, version);
      },
      // Put in line all at once, they become one append, in their order.
      judge: async (pdus) => {
        const toBeTold = ({ eventId }: Pdu): Received => (known.has(eventId) ? received : besides);
        await Promise.all(pdus.map((pdu) => this.#judge(toBeTold(pdu), roomId, pdu)));
      },
    });
  }

  #judge(received: Received, roomId: RoomId, pdu: Pdu): Promise<void> {
    const { ourName, rooms, now } = this.side;
    const { origin } = received;
    return this.#unlessBroken(received, pdu.eventId, async () => {
      const { refusal } = await rooms.execute(roomId, (room) => {
        const denied = admitServer(room, { origin, ourName });
        if (denied !== undefined) return { domainEvents: [], broadcasts: [], refusal: denied };
        return {
          ...acceptPdu(room, { pdu, origin, ourName, now: now(), against: 'current-state' }),
          broadcasts: [],
        };
      });
      note(received, pdu.eventId, refusal);
    });
  }

  /** The PDUs that are well formed for the room's version; the others get their error. (PD-01, CJ-05) */
  #readable(received: Received, jsons: readonly JsonObject[], version: RoomVersion): readonly Pdu[] {
    return jsons.flatMap((json) => {
      const pdu = parsePdu(json, version);
      if (!isPduFault(pdu)) return [pdu];
      const eventId = idOf(json, version);
      if (eventId !== undefined) note(received, eventId, faultRefusal(pdu));
      return [];
    });
  }

  /** Those whose signatures hold, redacted where the hash does not. (PD-02, PD-03) */
  async #checked(received: Received, pdus: readonly Pdu[], version: RoomVersion): Promise<readonly Pdu[]> {
    const { keyRing, ed25519 } = this.side;
    const needs = pdus.flatMap((pdu) =>
      signingKeysNamed(pdu, asSent).map((named) => ({ ...named, atTs: pdu.originServerTs })),
    );
    const keyOf = await keyRing.keysForEvents(needs, version);
    const checks = await Promise.all(pdus.map((pdu) => checkPduSignatures(pdu, keyOf, ed25519, asSent)));
    return pdus.flatMap((pdu, at) => {
      const check = checks[at]!;
      if (check.ok) return [contentHashMatches(pdu.json) ? pdu : withRedactedContent(pdu)];
      const detail = `${check.server}: ${check.detail}`;
      note(received, pdu.eventId, { refused: 'bad-signature', rule: 'PD-02', detail });
      return [];
    });
  }

  /** A PDU of a room that no user of ours is joined to. */
  async #receiveFromAfar(
    received: Received,
    roomId: RoomId,
    json: JsonObject,
    version: RoomVersion | undefined,
  ): Promise<void> {
    const target = this.#whoIsRemoved(json);
    const stream =
      target === undefined
        ? undefined
        : (await this.side.leaving.store.load({ userId: target, roomId })).state;
    const pending = stream?.invite ?? stream?.knock ?? stream?.last;
    // Of a knock the version may not be known, and then nothing can be said of an event of its room.
    const named = pending?.roomVersion === undefined ? version : roomVersion(pending.roomVersion);
    if (target === undefined || pending === undefined || named === undefined) {
      const eventId = idOf(json, version);
      const detail = 'no user of this server is in the room, invited to it or knocking';
      if (eventId !== undefined) note(received, eventId, { refused: 'not-resident', rule: 'TX-10', detail });
      return;
    }
    const [pdu] = await this.#checked(received, this.#readable(received, [json], named), named);
    if (pdu === undefined) return;
    await this.#unlessBroken(received, pdu.eventId, async () => {
      const { eventId, sender, authEvents } = pdu;
      const { origin } = received;
      const at = this.side.now();
      const { refusal } = await this.side.leaving.store.execute({ userId: target, roomId }, (state) =>
        noteRemoval(state, { eventId, sender, origin, authEvents, pdu: pdu.json, at }),
      );
      const no: Refusal | undefined = refusal && {
        refused: 'not-authorised',
        rule: 'IN-06',
        detail: refusal.detail,
      };
      note(received, eventId, no);
    });
  }

  /** The user of ours whom the event takes out of the room, by somebody else's doing. */
  #whoIsRemoved(json: JsonObject): UserId | undefined {
    const stateKey = memberOf(json, 'state_key');
    const content = memberOf(json, 'content');
    if (memberOf(json, 'type') !== 'm.room.member' || !isJsonObject(content)) return undefined;
    const membership = memberOf(content, 'membership');
    if (membership !== 'leave' && membership !== 'ban') return undefined;
    const target = typeof stateKey === 'string' ? parseUserId(stateKey) : undefined;
    if (target === undefined || serverNameOf(target) !== this.side.ourName) return undefined;
    return memberOf(json, 'sender') === target ? undefined : target;
  }

  /** A fault of ours on one PDU is that PDU's error; only a store that can't be had stops the transaction. */
  async #unlessBroken(received: Received, eventId: EventId, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (cause) {
      if (isPassing(cause)) throw cause;
      this.#log.error(
        `${eventId}: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}`,
      );
      received.results.set(eventId, { error: 'something is broken on this server' });
    }
  }
}

function note({ results }: Received, eventId: EventId, refusal: Refusal | undefined): void {
  if (results.has(eventId)) return;
  results.set(eventId, refusal === undefined ? {} : { error: `${refusal.detail} (${refusal.rule})` });
}

/** The ID to answer under, if it can be had. Without a version only an ID of versions 1 and 2 stands in the event. */
function idOf(json: JsonObject, version: RoomVersion | undefined): EventId | undefined {
  if (version === undefined) {
    const stated = memberOf(json, 'event_id');
    return typeof stated === 'string' ? parseEventId(stated, roomVersion('1')!) : undefined;
  }
  try {
    return eventIdOf(json, version);
  } catch {
    // Too malformed to have one.
    return undefined;
  }
}
