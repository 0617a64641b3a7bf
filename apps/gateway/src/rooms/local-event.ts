import { isPduFault, parsePdu, serverNameOf, signPdu, type Pdu } from '@exeunt/pdu';
import {
  acceptPdu,
  checkWish,
  draftEvent,
  type Decision,
  type EventWish,
  type Refusal,
  type Room,
} from '@exeunt/room';
import { withKeys } from '@exeunt/signing';
import type { FederationSide } from '../federation-side.js';

/** What a local user wants to say; the rest comes from the room and from us. */
export type LocalWish = Pick<EventWish, 'type' | 'sender' | 'stateKey' | 'content'>;

/** What an event is made of besides the wish and the room. */
export interface Making {
  /** Ms since the epoch. */
  readonly now: number;
  /** Of the event ID in versions 1 and 2. */
  readonly opaqueId: string;
}

/**
 * Fixed once a wish, before the room is asked: a decision is run again for each fact that it finds missing, and must
 * make the same event again, or it would ask for another event's facts each time and never come to an end.
 */
export function makingOf({ now, randomId }: Pick<FederationSide, 'now' | 'randomId'>): Making {
  return { now: now(), opaqueId: randomId() };
}

/**
 * An event of a local user over the room's forward extremities: authorised by the current state, drafted, hashed and
 * signed; or why it may not be. (SG-04, EV-06)
 */
export function makeLocalEvent(
  room: Room,
  local: LocalWish,
  making: Making,
  { ourName, signingKey }: Pick<FederationSide, 'ourName' | 'signingKey'>,
): Pdu | Refusal {
  if (serverNameOf(local.sender) !== ourName) {
    return {
      refused: 'user-not-local',
      rule: 'SG-08',
      detail: `${local.sender} is not a user of ${ourName}`,
    };
  }
  const wish: EventWish = { ...local, originServerTs: making.now, origin: ourName };
  const refusal = checkWish(room, wish);
  if (refusal !== undefined) return refusal;
  const draft = draftEvent(room, wish);
  const { version } = room;
  const withId =
    version.eventIdFormat === 'opaque-in-pdu'
      ? withKeys(draft, { event_id: `$${making.opaqueId}:${ourName}` })
      : draft;
  const pdu = parsePdu(signPdu(withId, version, ourName, signingKey), version);
  if (!isPduFault(pdu)) return pdu;
  const refused =
    pdu.fault === 'too-large' ? 'too-large' : pdu.fault === 'canonical-json' ? 'not-canonical' : 'bad-format';
  return { refused, rule: pdu.rule, detail: pdu.detail };
}

/** Makes the event and accepts it in one go, as one command on the room. */
export function sayLocally(
  room: Room,
  local: LocalWish,
  making: Making,
  side: Pick<FederationSide, 'ourName' | 'signingKey'>,
): Decision & { readonly pdu?: Pdu } {
  const pdu = makeLocalEvent(room, local, making, side);
  if ('refused' in pdu) return { domainEvents: [], broadcasts: [], refusal: pdu };
  const { ourName } = side;
  const decision = acceptPdu(room, {
    pdu,
    origin: ourName,
    ourName,
    now: making.now,
    against: 'current-state',
  });
  // What we made ourselves and then refused never was: nobody has seen it.
  return decision.refusal === undefined
    ? { ...decision, pdu }
    : { domainEvents: [], broadcasts: [], refusal: decision.refusal };
}
