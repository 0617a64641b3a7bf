import { setTimeout as delay } from 'node:timers/promises';
import type { Admin, ITopicMetadata } from 'kafkajs';
import { rootCause } from './kafka-client.js';
import { DEAD_LETTER_TOPIC, INGEST_TOPIC, OUTBOUND_PDUS_TOPIC, ROOM_EVENTS_TOPIC } from './topics.js';

/**
 * How many partitions each topic gets when it is created, and must have ever after: which partition a key belongs to
 * follows from it. A PDU costs at most one message a partition of the outbound topic, and as many senders can share
 * the work.
 */
export const KAFKA_PARTITIONS: Readonly<Record<string, number>> = {
  [ROOM_EVENTS_TOPIC]: 12,
  [OUTBOUND_PDUS_TOPIC]: 24,
  [INGEST_TOPIC]: 12,
  [DEAD_LETTER_TOPIC]: 3,
};

/** How long a topic that we create keeps its messages, read or not: 30 days. */
export const KAFKA_RETENTION_MS = 30 * 24 * 3_600_000;
const MOST_REPLICAS = 3;

/** A topic stands on the cluster with another number of partitions than is configured. */
export class PartitionCountMismatch extends Error {
  override readonly name = 'PartitionCountMismatch';
}

/**
 * Creates the topics that are missing, with up to three replicas of which all but one must acknowledge, and checks that
 * each has the number of partitions that is configured.
 *
 * @throws {PartitionCountMismatch} with the way out, when one has not
 */
export async function ensureTopics(
  admin: Admin,
  partitions: Readonly<Record<string, number>>,
  deadline: number,
): Promise<void> {
  const present = new Set(await admin.listTopics());
  const missing = Object.entries(partitions).filter(([topic]) => !present.has(topic));
  if (missing.length > 0) {
    const { brokers } = await admin.describeCluster();
    const replicas = Math.min(MOST_REPLICAS, Math.max(1, brokers.length));
    // Where another process is quicker, kafkajs answers false, and the check below is for both.
    await admin.createTopics({
      waitForLeaders: false,
      topics: missing.map(([topic, numPartitions]) => ({
        topic,
        numPartitions,
        replicationFactor: replicas,
        configEntries: [
          { name: 'retention.ms', value: `${KAFKA_RETENTION_MS}` },
          { name: 'min.insync.replicas', value: `${Math.max(1, replicas - 1)}` },
        ],
      })),
    });
  }
  // A new topic takes a moment to reach the broker that is asked, and to have leaders.
  for (;;) {
    try {
      return await checkTopics(admin, partitions);
    } catch (cause) {
      if (cause instanceof PartitionCountMismatch || performance.now() > deadline) throw cause;
      await delay(50);
    }
  }
}

/**
 * Resolves when every topic has its number of partitions and each of them a leader: a message can be taken.
 *
 * @throws {PartitionCountMismatch} when a count differs, or another error saying what is missing
 */
export async function checkTopics(admin: Admin, partitions: Readonly<Record<string, number>>): Promise<void> {
  let topics: readonly ITopicMetadata[];
  try {
    ({ topics } = await admin.fetchTopicMetadata({ topics: Object.keys(partitions) }));
  } catch (cause) {
    throw rootCause(cause);
  }
  for (const [name, wanted] of Object.entries(partitions)) {
    const found = topics.find((topic) => topic.name === name)?.partitions ?? [];
    if (found.length === 0) throw new Error(`the Kafka topic ${name} is not there`);
    if (found.length !== wanted) {
      throw new PartitionCountMismatch(
        `The Kafka topic ${name} has ${found.length} partitions, but ${wanted} are configured: ` +
          `keys would change partition and lose their order, so configure ${found.length}, ` +
          `or let its consumers read it to the end, delete it and start again.`,
      );
    }
    const leaderless = found.find((partition) => partition.leader < 0);
    if (leaderless) {
      throw new Error(`partition ${leaderless.partitionId} of the Kafka topic ${name} has no leader`);
    }
  }
}
