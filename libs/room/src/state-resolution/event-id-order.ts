import type { EventId } from '@exeunt/pdu';

/** Orders event IDs by codepoint: negative where `x` is less. JavaScript's `<` would compare UTF-16 units. */
export function compareEventIds(x: EventId, y: EventId): number {
  return x === y ? 0 : Buffer.compare(Buffer.from(x, 'utf8'), Buffer.from(y, 'utf8'));
}
