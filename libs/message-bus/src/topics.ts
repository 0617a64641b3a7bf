/** Every accepted PDU as an integration event; key: room ID, in room order. */
export const ROOM_EVENTS_TOPIC = 'exeunt.room-events.v1';
/** PDUs with their destinations; key: bucket of destinations. What federation-sender consumes. */
export const OUTBOUND_PDUS_TOPIC = 'exeunt.outbound-pdus.v1';
/** PDUs, whole rooms and knocks that other services of the platform hand over; key: room ID. */
export const INGEST_TOPIC = 'exeunt.ingest.v1';
/** Messages that a consumer could not read, with the reason; key: as the failed message. */
export const DEAD_LETTER_TOPIC = 'exeunt.dead-letter.v1';

/** All topics of the contract. */
export const TOPICS = [ROOM_EVENTS_TOPIC, OUTBOUND_PDUS_TOPIC, INGEST_TOPIC, DEAD_LETTER_TOPIC] as const;
