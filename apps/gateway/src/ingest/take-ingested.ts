import { noteKnock } from '@exeunt/leaving';
import type { EventId, Pdu, RoomId } from '@exeunt/pdu';
import { acceptPdu, inOrderOfReferences, isRefusal, type Refusal } from '@exeunt/room';
import { stringifyJson } from '@exeunt/signing';
import type { FederationSide } from '../federation-side.js';
import { MatrixError } from '../matrix-error/matrix-error.js';
import { createIn, receiveRoom, takeRoom } from '../rooms/import-room.command.js';
import { checkOnReceipt, isInLog, learnKeys, notTaken, ofOneRoom, type NotTaken } from '../rooms/receipt.js';
import type { IngestMessage } from './ingest-message.js';

/** How a message stands when it is taken in. */
export interface IngestCircumstances {
  /**
   * When it first came, in ms since the epoch: who has not told its keys since may tell them yet. 0: nobody is waited
   * for any more, and what lacks a key is not taken.
   */
  readonly keysSince: number;
  /** For how long keys are waited for now: who has not answered by then goes on being asked, for the next attempt. */
  readonly askForMs: number;
  /** Whether earlier messages of the room wait, so that what is missing may come with them. */
  readonly isBehindOthers: boolean;
}

/** What became of a message. What was taken is durable. */
export interface Ingested {
  /** Why some of it, or all, was not taken, and never will be. */
  readonly notTaken?: string;
  /** The value of a message that says what may be taken later. */
  readonly waits?: { readonly roomId: RoomId; readonly value: string };
  /** Whether any of it was taken. */
  readonly isTaken: boolean;
}

/**
 * Takes in what another service of the platform hands over, as far as it can be taken. A repeat changes nothing. Nothing
 * is broadcast: whoever made a PDU sends it. Rejects where the store can't be had, or is broken.
 */
export async function takeIngested(
  side: FederationSide,
  message: IngestMessage,
  value: string,
  circumstances: IngestCircumstances,
): Promise<Ingested> {
  try {
    switch (message.type) {
      case 'exeunt.ingest-room.v1':
        return await takeIngestedRoom(side, message, value, circumstances);
      case 'exeunt.ingest-pdus.v1':
        return await takeIngestedPdus(side, message, value, circumstances);
      case 'exeunt.ingest-knock.v1':
        return await takeIngestedKnock(side, message);
      default:
        return message satisfies never;
    }
  } catch (cause) {
    if (cause instanceof MatrixError) return { isTaken: false, notTaken: cause.body().error };
    throw cause;
  }
}

/** All at once or not yet: a snapshot can't be added to, and most of a graph rests on the rest of it. */
async function takeIngestedRoom(
  side: FederationSide,
  { room, roomId }: Extract<IngestMessage, { type: 'exeunt.ingest-room.v1' }>,
  value: string,
  { keysSince, askForMs }: IngestCircumstances,
): Promise<Ingested> {
  const receipt = await receiveRoom(side, room, { since: keysSince, askForMs });
  const create = createIn([...receipt.passed.values(), ...receipt.undecided]);
  // Said at once, or it would wait under the name of a room that it is not.
  if (create !== undefined && create.roomId !== roomId) {
    return { isTaken: false, notTaken: `the key is not the room, which is ${create.roomId} (AE-05)` };
  }
  if (receipt.undecided.length > 0) return { isTaken: false, waits: { roomId, value } };
  const taken = await takeRoom(side, room, receipt);
  if (isRefusal(taken)) return { isTaken: false, notTaken: reasonOf(taken) };
  return ingested(true, taken.lost, taken.report.accepted + taken.report.rejected.length);
}

/** Each by itself, against the current state, for they are of now: PD-01 to PD-07 as in a transaction. */
async function takeIngestedPdus(
  side: FederationSide,
  { roomId, pdus, serverKeys }: Extract<IngestMessage, { type: 'exeunt.ingest-pdus.v1' }>,
  value: string,
  { keysSince, askForMs, isBehindOthers }: IngestCircumstances,
): Promise<Ingested> {
  const { ourName, rooms, now } = side;
  await learnKeys(side, serverKeys);
  const version = await rooms.query(roomId, (room) => (room.isKnown ? room.version : undefined));
  if (version === undefined) {
    if (isBehindOthers) return { isTaken: false, waits: { roomId, value } };
    return { isTaken: false, notTaken: 'the room is not known here (ML-16)' };
  }
  const { passed, dropped, undecided } = await checkOnReceipt(side, pdus, version, {
    since: keysSince,
    askForMs,
  });
  const lost: NotTaken[] = [...dropped];
  const ordered = inOrderOfReferences(ofOneRoom(passed.values(), roomId, lost));
  const decisions = await rooms.executeAll(
    roomId,
    ordered.map((pdu) => (room) => ({
      ...acceptPdu(room, { pdu, origin: ourName, ourName, now: now(), against: 'current-state' }),
      broadcasts: [],
    })),
  );
  const waiting = new Map<EventId, Pdu>(ofOneRoom(undecided, roomId, lost).map((pdu) => [pdu.eventId, pdu]));
  let taken = 0;
  for (const [at, pdu] of ordered.entries()) {
    const refusal = decisions[at]?.refusal;
    if (refusal === undefined || isInLog(refusal)) taken++;
    else if (mayBeKnownYet(refusal, waiting, isBehindOthers)) waiting.set(pdu.eventId, pdu);
    else lost.push(notTaken(pdu, refusal));
  }
  const known = ingested(taken > 0 || pdus.length === 0, lost, pdus.length);
  if (waiting.size === 0) return known;
  const left = stringifyJson({ room_id: roomId, pdus: [...waiting.values()].map(({ json }) => json) });
  return { ...known, waits: { roomId, value: left } };
}

/** Whether what a PDU cites, and is not known, is waiting itself or may be among what waits before it. */
function mayBeKnownYet(
  { refused, events = [] }: Refusal,
  waiting: ReadonlyMap<EventId, Pdu>,
  isBehindOthers: boolean,
): boolean {
  return (
    refused === 'unknown-reference' && (isBehindOthers || events.every((eventId) => waiting.has(eventId)))
  );
}

async function takeIngestedKnock(
  { leaving, now }: FederationSide,
  { userId, roomId, knock }: Extract<IngestMessage, { type: 'exeunt.ingest-knock.v1' }>,
): Promise<Ingested> {
  const { refusal } = await leaving.store.execute({ userId, roomId }, (state) =>
    noteKnock(state, { ...knock, at: now() }),
  );
  return refusal === undefined ? { isTaken: true } : { isTaken: false, notTaken: refusal.detail };
}

/** Longest reason of one PDU; there may be a thousand, and a dead letter has its limits. */
const maxReasonLength = 300;

function ingested(isTaken: boolean, lost: readonly NotTaken[], of: number): Ingested {
  if (lost.length === 0) return { isTaken };
  const each = lost.map(({ event_id: eventId, reason }) => {
    return `${eventId === '' ? 'one without an ID' : eventId.slice(0, 255)}: ${reason.slice(0, maxReasonLength)}`;
  });
  return { isTaken, notTaken: `${lost.length} of ${of} PDUs: ${each.join('; ')}` };
}

function reasonOf({ rule, detail }: Refusal): string {
  return `${detail} (${rule})`;
}
