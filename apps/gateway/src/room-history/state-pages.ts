import type { EventStore } from '@exeunt/event-store';
import type { EventId, RoomId } from '@exeunt/pdu';
import { stateKeyOf, type StateRef } from '@exeunt/room';

const pageSize = 1_000;

/** The events of a state, each once, in pages of at most a thousand. A state never changes, so neither do the pages. */
export async function* statePages(
  store: EventStore,
  roomId: RoomId,
  { base, overlay }: StateRef,
): AsyncGenerator<readonly EventId[]> {
  const over = [...overlay.values()].filter((eventId) => eventId !== null);
  for (let from = 0; from < over.length; from += pageSize) yield over.slice(from, from + pageSize);
  let after: readonly [type: string, stateKey: string] | undefined;
  for (;;) {
    const entries = await store.stateAt(roomId, base, {
      limit: pageSize,
      ...(after === undefined ? {} : { after }),
    });
    yield entries.flatMap(({ type, stateKey, eventId }) =>
      eventId === null || overlay.has(stateKeyOf(type, stateKey)) ? [] : [eventId],
    );
    const last = entries.at(-1);
    if (last === undefined || entries.length < pageSize) return;
    after = [last.type, last.stateKey];
  }
}
