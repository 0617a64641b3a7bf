import { setTimeout as delay } from 'node:timers/promises';
import {
  checkPduSignatures,
  contentHashMatches,
  isPduFault,
  parsePdu,
  signingKeysNamed,
  withRedactedContent,
  type EventId,
  type Pdu,
  type RoomId,
  type ServerName,
} from '@exeunt/pdu';
import type { Refusal } from '@exeunt/room';
import type { RoomVersion } from '@exeunt/room-version';
import { memberOf, type JsonObject, type JsonValue } from '@exeunt/signing';
import type { FederationSide } from '../federation-side.js';
import { MatrixError } from '../matrix-error/matrix-error.js';

/** A PDU that was not taken, by its ID where it has one that can be told, and the rule. */
export interface NotTaken {
  readonly event_id: string;
  /** `RULE: detail`. */
  readonly reason: string;
}

/** What the checks say that need no room. (PD-01 to PD-03) */
export interface Receipt {
  /** Each once; those with a wrong content hash redacted. */
  readonly passed: ReadonlyMap<EventId, Pdu>;
  readonly dropped: readonly NotTaken[];
  /** Nothing can be said of these yet: their servers have not told their keys. */
  readonly undecided: readonly Pdu[];
}

/**
 * SG-08 names the sender's server alone: an invite that the invitee's server never signed is part of its room, and a room
 * that left it out would differ from everybody else's.
 */
const ofThePast = { awaitsInvitee: true };

/** How many signatures are being checked at a time. */
const checksAtOnce = 64;

/** Takes in the keys that were handed over with PDUs. Throws {@link MatrixError} for a bad response. */
export async function learnKeys({ keyRing }: FederationSide, responses: readonly JsonValue[]): Promise<void> {
  for (const response of responses) {
    const learned = await keyRing.learn(response);
    if ('fault' in learned) {
      throw new MatrixError(400, 'M_INVALID_PARAM', `server_keys: ${learned.fault}`, learned.rule);
    }
  }
}

/** How long keys of other servers are waited for. Without it: until each server was asked, and no longer. */
export interface KeyPatience {
  /** A PDU without a known key is undecided while its server has not answered since then, in ms since the epoch. */
  readonly since: number;
  /** For how long the answers of servers are waited for now; undefined: as long as it takes to ask each. */
  readonly askForMs: number | undefined;
}

/**
 * Checks format, signatures and content hash of PDUs that are handed over, keys being fetched where they are missing.
 * What lacks a key then is undecided as far as the patience goes, and else dropped. (PD-01 to PD-03)
 */
export async function checkOnReceipt(
  { keyRing, ed25519 }: FederationSide,
  jsons: readonly JsonObject[],
  version: RoomVersion,
  { since, askForMs }: KeyPatience = { since: 0, askForMs: undefined },
): Promise<Receipt> {
  const dropped: NotTaken[] = [];
  const parsed: Pdu[] = [];
  for (const json of jsons) {
    const pdu = parsePdu(json, version);
    if (!isPduFault(pdu)) parsed.push(pdu);
    else {
      const named = memberOf(json, 'event_id');
      dropped.push({
        event_id: typeof named === 'string' ? named : '',
        reason: `${pdu.rule}: ${pdu.detail}`,
      });
    }
    if (parsed.length % 500 === 0) await new Promise((resume) => setImmediate(resume));
  }
  const needs = parsed.flatMap((pdu) =>
    signingKeysNamed(pdu, ofThePast).map((named) => ({ ...named, atTs: pdu.originServerTs })),
  );
  const keyOf =
    (await withinMs(askForMs, keyRing.keysForEvents(needs, version))) ??
    // The others are still being asked: at a later attempt their answers are there.
    (await keyRing.keysForEvents(needs, version, false));
  const answeredAt = new Map<ServerName, number>();
  const mayTellYet = async (server: ServerName): Promise<boolean> => {
    const known = answeredAt.get(server) ?? (since === 0 ? Infinity : await keyRing.lastAnswered(server));
    answeredAt.set(server, known);
    return known < since;
  };
  const passed = new Map<EventId, Pdu>();
  const undecided = new Map<EventId, Pdu>();
  for (let from = 0; from < parsed.length; from += checksAtOnce) {
    const some = parsed.slice(from, from + checksAtOnce);
    const checks = await Promise.all(some.map((pdu) => checkPduSignatures(pdu, keyOf, ed25519, ofThePast)));
    for (const [at, pdu] of some.entries()) {
      const check = checks[at]!;
      if (check.ok) passed.set(pdu.eventId, contentHashMatches(pdu.json) ? pdu : withRedactedContent(pdu));
      else if (check.lacksKey && (await mayTellYet(check.server))) undecided.set(pdu.eventId, pdu);
      else dropped.push({ event_id: pdu.eventId, reason: `PD-02: ${check.server}: ${check.detail}` });
    }
  }
  return { passed, dropped, undecided: [...undecided.values()] };
}

/** What `work` gives; undefined where that takes longer, and then it goes on by itself. */
async function withinMs<T>(ms: number | undefined, work: Promise<T>): Promise<T | undefined> {
  if (ms === undefined) return work;
  const callOff = new AbortController();
  const late = delay(ms, undefined, { signal: callOff.signal }).catch(() => undefined);
  try {
    return await Promise.race([work, late]);
  } finally {
    callOff.abort();
    // What becomes of it then concerns nobody any more.
    work.catch(() => {});
  }
}

/** Of the PDUs those of the room; the others are added to what was not taken. (AE-05) */
export function ofOneRoom(pdus: Iterable<Pdu>, roomId: RoomId, others: NotTaken[]): readonly Pdu[] {
  return [...pdus].filter((pdu) => {
    if (pdu.roomId === roomId) return true;
    others.push({ event_id: pdu.eventId, reason: `AE-05: the event's room is ${pdu.roomId}` });
    return false;
  });
}

/** Whether a PDU of the graph that is refused so was judged by the rules, and is in the room's log with that. (PD-08) */
export function isInLog({ refused }: Refusal): boolean {
  return refused === 'not-authorised' || refused === 'soft-failed';
}

/** As it is told that the room refuses a PDU. */
export function notTaken({ eventId }: Pdu, { rule, detail }: Refusal): NotTaken {
  return { event_id: eventId, reason: `${rule}: ${detail}` };
}
