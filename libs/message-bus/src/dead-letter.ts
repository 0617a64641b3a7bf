import type { BusMessage, MessageBus, ReceivedMessage } from './message-bus.js';
import { DEAD_LETTER_TOPIC } from './topics.js';

/** Of a dead letter, in bytes: below what a broker takes, which other producers' messages may be just within. */
const maxBytes = 900_000;
const maxKeyLength = 1_000;

/**
 * The dead letter for a message that `consumer` cannot take: the message as it came, why, and where it stood. What would
 * be too large for the bus is left out, value first, then headers, and `left_out` names it: the message itself is where
 * it says. The same message gives the same `ce_id`, so that a repeat can be recognised; `part` tells apart what is said
 * of one message at different times. `at`: ms since the epoch.
 */
export function deadLetterOf(
  message: ReceivedMessage,
  reason: string,
  consumer: string,
  at: number,
  part?: string,
): BusMessage {
  const { topic, partition, offset, key } = message;
  return {
    topic: DEAD_LETTER_TOPIC,
    key: key.slice(0, maxKeyLength),
    headers: {
      ce_specversion: '1.0',
      ce_id: [consumer, topic, partition, offset, ...(part === undefined ? [] : [part])].join('/'),
      ce_source: `/exeunt/${consumer}`,
      ce_type: 'exeunt.dead-letter.v1',
      ce_time: new Date(at).toISOString(),
      'content-type': 'application/json',
    },
    value: within(maxBytes, reason, consumer, message),
  };
}

function within(most: number, reason: string, consumer: string, message: ReceivedMessage): string {
  const { topic, partition, offset, key, headers, value } = message;
  const place = { topic, partition, offset, key: key.slice(0, maxKeyLength) };
  const letters = [
    { reason, consumer, message: { ...place, headers, value } },
    { reason, consumer, message: { ...place, headers, value: '' }, left_out: ['value'] },
    {
      reason: reason.slice(0, maxKeyLength),
      consumer,
      message: { ...place, headers: {}, value: '' },
      left_out: ['headers', 'value'],
    },
  ].map((letter) => JSON.stringify(letter));
  return letters.find((letter) => Buffer.byteLength(letter) <= most) ?? letters.at(-1)!;
}

/** Publishes {@link deadLetterOf} a message; once it resolves, the consumer may go on to the next one. */
export async function parkInDeadLetter(
  bus: Pick<MessageBus, 'publish'>,
  message: ReceivedMessage,
  reason: string,
  consumer: string,
  at: number,
): Promise<void> {
  await bus.publish([deadLetterOf(message, reason, consumer, at)]);
}
