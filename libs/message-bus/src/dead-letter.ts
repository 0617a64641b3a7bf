import type { BusMessage, MessageBus, ReceivedMessage } from './message-bus.js';
import { DEAD_LETTER_TOPIC } from './topics.js';

/**
 * The dead letter for a message that `consumer` cannot read: the message as it came, why, and where it stood.
 * The same message gives the same `ce_id`, so that a repeat can be recognised. `at`: ms since the epoch.
 */
export function deadLetterOf(
  message: ReceivedMessage,
  reason: string,
  consumer: string,
  at: number,
): BusMessage {
  const { topic, partition, offset, key, headers, value } = message;
  return {
    topic: DEAD_LETTER_TOPIC,
    key,
    headers: {
      ce_specversion: '1.0',
      ce_id: `${consumer}/${topic}/${partition}/${offset}`,
      ce_source: `/exeunt/${consumer}`,
      ce_type: 'exeunt.dead-letter.v1',
      ce_time: new Date(at).toISOString(),
      'content-type': 'application/json',
    },
    value: JSON.stringify({
      reason,
      consumer,
      message: { topic, partition, offset, key, headers, value },
    }),
  };
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
