/** A Kafka to test against: one that somebody configured, or what it takes to start one of our own. */
export type FoundKafka =
  | { kind: 'configured'; brokers: string[] }
  | { kind: 'installed'; version: string; directory: string }
  | { kind: 'docker'; image: string };

/** A running Kafka, one broker that is its own controller, reachable without TLS or SASL on loopback. */
export interface KafkaServer {
  /** `127.0.0.1:port`; the same after a restart. */
  readonly brokers: string[];
  readonly version: string;
  /** Process ID of the broker while it runs; another after a restart. Undefined in a container. */
  readonly pid: number | undefined;
  /** Where its files are: `data`, `server.log`, `server.properties`. Undefined in a container. */
  readonly directory: string | undefined;
  /** Ends it in an orderly way and starts it again on the same port with the same data. */
  restart(): Promise<void>;
  /** Kills it as `kill -9` does. It stays down until `start`. */
  kill9(): Promise<void>;
  /** Starts it again after `kill9` with the same data and port. Does nothing while it is running. */
  start(): Promise<void>;
  /** Ends it and deletes its directory. Later calls do nothing. */
  stop(): Promise<void>;
}

/**
 * EXEUNT_TEST_KAFKA_BROKERS (comma-separated) when that is set, else what install-kafka.sh installed if there is a
 * `java` as well, else the official image where a Docker engine answers, else `undefined`: the caller says that its
 * tests do not run. With EXEUNT_TEST_SERVICES=docker it is the image even where Kafka is installed.
 */
export function findKafka(): FoundKafka | undefined;

/**
 * Starts a Kafka with fresh data on free ports of 127.0.0.1 and waits until it tells its metadata. It ends with this
 * process, however that ends. Groups form without delay and members may have short sessions; topics are not created by
 * themselves. `properties` are added to, or replace, those of its `server.properties`.
 *
 * @throws when there is neither an installed Kafka nor a Docker engine, or with the broker's log when it does not come up
 */
export function startKafka(options?: { properties?: Record<string, string> }): Promise<KafkaServer>;
