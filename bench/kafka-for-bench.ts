import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { progress } from './report.js';

type Services = typeof import('../scripts/services/kafka.mjs');
type KafkaServer = Awaited<ReturnType<Services['startKafka']>>;

/** A Kafka of this benchmark's own, whose messages carry the time the broker has written them. */
export async function kafkaForBench(): Promise<KafkaServer> {
  // A script, so it is not among what is compiled; benchmarks run in the repository's root.
  const script = pathToFileURL(resolve('scripts/services/kafka.mjs')).href;
  const { startKafka } = (await import(script)) as Services;
  const server = await startKafka({ properties: { 'log.message.timestamp.type': 'LogAppendTime' } });
  progress('Kafka is up');
  return server;
}
