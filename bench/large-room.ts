import { isPduFault, parsePdu, serverNameOf, type RoomId, type UserId } from '@exeunt/pdu';
import {
  beginRoom,
  draftEvent,
  evolve,
  ingestPdu,
  initialRoom,
  isRefusal,
  placeCreate,
  type Decision,
  type DomainEvent,
  type Room,
} from '@exeunt/room';
import { withKeys } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../test/harness/room-builder.js';

/** Decides the next facts of a room that grows. */
export type GrowthStep = (room: Room) => Decision;

/**
 * The steps by which a room of `ourName` gets its members: created by `@alice` of that server, then joined by each of
 * `members`, one after the other, decided by the rules as an import decides. The joins carry no signatures that hold:
 * whoever runs the steps believes them.
 */
export function growth(options: {
  readonly version: string;
  readonly ourName: string;
  readonly members: Iterable<string>;
}): { readonly roomId: RoomId; readonly steps: Iterable<GrowthStep> } {
  const { version, ourName, members } = options;
  const start = new RoomBuilder({ version, servers: [paperServer(ourName)], creator: `@alice:${ourName}` });
  return { roomId: start.roomId, steps: stepsOf(start, members) };
}

function* stepsOf(start: RoomBuilder, members: Iterable<string>): Generator<GrowthStep> {
  const [create, ...others] = start.pdus;
  if (create === undefined) throw new Error('the room has no beginning');
  const context = {
    origin: serverNameOf(create.sender),
    ourName: serverNameOf(create.sender),
    now: Date.now(),
  };
  yield () => {
    const begun = beginRoom(create, create.roomId, 'graph');
    if (isRefusal(begun)) throw new Error(begun.detail);
    return { domainEvents: [begun], broadcasts: [] };
  };
  yield (room) => ({ domainEvents: [placeCreate(room, create, context)], broadcasts: [] });
  for (const pdu of others) yield (room) => ingestPdu(room, pdu, context);
  let originServerTs = Date.now() - 86_400_000 + others.length;
  for (const member of members) {
    originServerTs++;
    const origin = serverNameOf(member as UserId);
    const claims = {
      hashes: { sha256: 'e'.repeat(43) },
      signatures: { [origin]: { 'ed25519:paper': 'e'.repeat(86) } },
    };
    const wish = {
      type: 'm.room.member',
      sender: member as UserId,
      stateKey: member,
      content: { membership: 'join', displayname: member.slice(1, member.indexOf(':')) },
      originServerTs,
      origin,
    };
    yield (room) => {
      const pdu = parsePdu(withKeys(draftEvent(room, wish), claims), room.version);
      if (isPduFault(pdu)) throw new Error(pdu.detail);
      return ingestPdu(room, pdu, { ...context, origin });
    };
  }
}

/** Users of some servers, `perServer` of each. */
export function* usersOf(count: number, perServer: number): Generator<string> {
  for (let at = 0; at < count; at++) yield `@user-${at}:server-${Math.floor(at / perServer)}.example.org`;
}

/** The log that the steps make, and nothing of the room that they made it with. */
export function logOf(steps: Iterable<GrowthStep>): readonly DomainEvent[] {
  const room = initialRoom();
  const log: DomainEvent[] = [];
  for (const step of steps) {
    const { domainEvents, refusal } = step(room);
    if (refusal !== undefined) throw new Error(`${refusal.rule}: ${refusal.detail}`);
    for (const domainEvent of domainEvents) {
      evolve(room, domainEvent);
      log.push(domainEvent);
    }
  }
  return log;
}
