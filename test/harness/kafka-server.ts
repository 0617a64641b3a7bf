/**
 * A real Kafka for contract tests and outages. The same code starts one from the command line, so it is a script that
 * runs without a build; this is its typed face.
 *
 * A suite asks `findKafka()` first: `undefined` means that it cannot run here and must say so.
 */
export { findKafka, startKafka, type FoundKafka, type KafkaServer } from '../../scripts/services/kafka.mjs';
