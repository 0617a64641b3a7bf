import type { Session } from '@exeunt/database';
import {
  parkInDeadLetter,
  ROOM_EVENTS_TOPIC,
  type MessageBus,
  type ReceivedMessage,
} from '@exeunt/message-bus';
import { parseRoomId, parseUserId } from '@exeunt/pdu';

/** Who has left which room, and when: a row of `room_leaves` for each leave. A group that is new reads everything. */
export async function projectRoomLeaves(bus: MessageBus, database: Session, group = 'room-leaves') {
  await database.query(`CREATE TABLE IF NOT EXISTS room_leaves (
    room_id text, position bigint, user_id text, left_at timestamptz, PRIMARY KEY (room_id, position))`);
  const insert = 'INSERT INTO room_leaves VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING';
  const handle = async (batch: readonly ReceivedMessage[]) => {
    for (const message of batch) {
      const leave = readLeave(message);
      if (leave instanceof Error) await parkInDeadLetter(bus, message, leave.message, group, Date.now());
      else if (leave !== undefined) await database.query(insert, leave);
    }
  };
  return bus.consume({ topic: ROOM_EVENTS_TOPIC, group, maxBatch: 100, handle });
}

/** The row of a message; undefined where it tells of something else, an error where it is not as agreed. */
function readLeave({ headers, value }: ReceivedMessage): readonly unknown[] | Error | undefined {
  if (headers['ce_type'] !== 'exeunt.pdu-accepted.v1') return undefined;
  try {
    const { room_id: roomId, position, pdu } = JSON.parse(value);
    if (pdu.type !== 'm.room.member' || pdu.content.membership !== 'leave') return undefined;
    const row = [parseRoomId(roomId), position, parseUserId(pdu.state_key)];
    if (!Number.isSafeInteger(position) || row.includes(undefined)) return new TypeError('an ID is missing');
    return [...row, new Date(headers['ce_time'] ?? '').toISOString()];
  } catch (cause) {
    return cause as Error;
  }
}
