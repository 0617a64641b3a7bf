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

/**
 * An event of a local user over the room's forward extremities: authorised by the current state, drafted, hashed and
 * signed; or why it may not be. (SG-04, EV-06)
 */
export function makeLocalEvent(room: Room, local: LocalWish, side: FederationSide): Pdu | Refusal {
  const { ourName, signingKey, now, randomId } = side;
  if (serverNameOf(local.sender) !== ourName) {
    return {
      refused: 'user-not-local',
      rule: 'SG-08',
      detail: `${local.sender} is not a user of ${ourName}`,
    };
  }
  const wish: EventWish = { ...local, originServerTs: now(), origin: ourName };
  const refusal = checkWish(room, wish);
  if (refusal !== undefined) return refusal;
  const draft = draftEvent(room, wish);
  const { version } = room;
  const withId =
    version.eventIdFormat === 'opaque-in-pdu'
      ? withKeys(draft, { event_id: `$${randomId()}:${ourName}` })
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
  side: FederationSide,
): Decision & { readonly pdu?: Pdu } {
  const pdu = makeLocalEvent(room, local, side);
  if ('refused' in pdu) return { domainEvents: [], broadcasts: [], refusal: pdu };
  const { ourName, now } = side;
  const decision = acceptPdu(room, { pdu, origin: ourName, ourName, now: now(), against: 'current-state' });
  // What we made ourselves and then refused never was: nobody has seen it.
  return decision.refusal === undefined
    ? { ...decision, pdu }
    : { domainEvents: [], broadcasts: [], refusal: decision.refusal };
}
