import type { Logger } from 'pino';
import type { EventId, RoomId, ServerName } from '@exeunt/pdu';
import type { Refusal } from '@exeunt/room';

/** The line that the story of a leave begins with: accepted, or refused by which rule. */
export function logLeave(
  log: Logger,
  {
    roomId,
    eventId,
    origin,
  }: { readonly roomId: RoomId; readonly eventId?: EventId; readonly origin: ServerName },
  refusal?: Refusal,
): void {
  const about = { event_id: eventId, room_id: roomId, origin };
  if (refusal === undefined) log.info(about, 'leave accepted');
  else log.info({ ...about, refused: refusal.refused, rule: refusal.rule }, 'leave refused');
}
