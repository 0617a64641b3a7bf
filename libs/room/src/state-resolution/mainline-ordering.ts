import type { EventId, Pdu } from '@exeunt/pdu';
import { citedEvent, type EventGraph } from './event-graph.js';
import { compareEventIds } from './event-id-order.js';

/**
 * The events in mainline order of a power levels event, earliest first. Without one (`undefined`), every event
 * stands at position infinity and `origin_server_ts` decides, then the event ID. Unknown events are left out.
 *
 * SR-25, SR-28; rooms/v2, State resolution: Definitions, "Mainline ordering".
 */
export function mainlineOrder(
  events: Iterable<EventId>,
  powerLevels: EventId | undefined,
  graph: Pick<EventGraph, 'event'>,
): EventId[] {
  const positionOf = mainlinePositions(powerLevels, graph);
  return [...new Set(events)]
    .map((id) => graph.event(id))
    .filter((pdu) => pdu !== undefined)
    .map((pdu) => ({ pdu, position: positionOf(pdu) }))
    .sort(
      (x, y) =>
        // 1. x's mainline position is greater, that is, x rests on an earlier power levels event; or
        comparePositions(y.position, x.position) ||
        // 2. the positions are the same, but x is earlier by origin_server_ts; or
        x.pdu.originServerTs - y.pdu.originServerTs ||
        // 3. the time is the same too, but x's event_id is less.
        compareEventIds(x.pdu.eventId, y.pdu.eventId),
    )
    .map(({ pdu }) => pdu.eventId);
}

/** Infinity less infinity is not a number, hence no subtraction. */
function comparePositions(x: number, y: number): number {
  return x === y ? 0 : x < y ? -1 : 1;
}

/** The mainline position of any event; `Infinity` where it does not rest on the mainline. */
function mainlinePositions(
  powerLevels: EventId | undefined,
  graph: Pick<EventGraph, 'event'>,
): (pdu: Pdu) => number {
  const powerLevelsOf = (pdu: Pdu | undefined): Pdu | undefined =>
    pdu === undefined ? undefined : citedEvent(pdu, 'm.room.power_levels', '', graph);

  // The mainline of P: P itself, the power levels event among its auth events, and so on, numbered from 0. What
  // is found later is kept here too, with the position it leads to, so that no path is walked twice.
  const known = new Map<EventId, number>();
  let next = powerLevels === undefined ? undefined : graph.event(powerLevels);
  for (; next !== undefined && !known.has(next.eventId); next = powerLevelsOf(next)) {
    known.set(next.eventId, known.size);
  }

  return (pdu) => {
    // e itself does not count: the walk starts at the power levels event it cites.
    const path: EventId[] = [];
    const walked = new Set<EventId>();
    let at = powerLevelsOf(pdu);
    while (at !== undefined && !known.has(at.eventId) && !walked.has(at.eventId)) {
      walked.add(at.eventId);
      path.push(at.eventId);
      at = powerLevelsOf(at);
    }
    const position = (at === undefined ? undefined : known.get(at.eventId)) ?? Infinity;
    for (const id of path) known.set(id, position);
    return position;
  };
}
