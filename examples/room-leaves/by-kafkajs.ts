import { Kafka } from 'kafkajs';

/** Hands every accepted PDU to `onPdu`, and again until it resolves. */
export async function readRoomEvents(
  brokers: string[],
  groupId: string,
  onPdu: (event: { room_id: string; position: number; pdu: object }) => Promise<void>,
  topic = 'exeunt.room-events.v1',
) {
  const consumer = new Kafka({ brokers }).consumer({ groupId });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    async eachMessage({ message: { headers, value } }) {
      if (String(headers?.['ce_type']) === 'exeunt.pdu-accepted.v1') await onPdu(JSON.parse(String(value)));
    },
  });
  return consumer;
}
