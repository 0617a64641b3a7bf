import type { Session } from '@exeunt/database';
import { systemClock, type Clock } from './clock.js';
import { LogMessageBus, type LogBusOptions } from './log-message-bus.js';
import type { ReceivedMessage } from './message-bus.js';
import type { MessageLog, PlacedMessage, Place } from './message-log.js';
import { fromStoredText, toStoredText } from './stored-text.js';
import { DEAD_LETTER_TOPIC, ROOM_EVENTS_TOPIC } from './topics.js';

/** The behaviour of {@link EmbeddedMessageBus}. */
export interface EmbeddedBusOptions extends LogBusOptions {
  /** How often messages that nobody needs any more are deleted. Default 60,000. */
  readonly pruneEveryMs?: number;
  /** How many messages one delete takes at most. Default 1,000. */
  readonly pruneBatch?: number;
  /**
   * For a topic that no group has ever read: how many of the newest messages of a partition are kept. Other topics
   * keep everything until a group has read it. Default: 100,000 of room events and of dead letters.
   */
  readonly keepUnread?: Readonly<Record<string, number>>;
}

/**
 * The message bus in the application's own database, for one process: tables `bus_messages`, `bus_cursors` and
 * `bus_partitions` of the migration {@link EmbeddedBus1700000000002}.
 *
 * Retention: a message goes once every group that has ever consumed its topic is past it. A new group starts at the
 * oldest message that is still there. A group that never comes back holds its messages for ever; delete its rows
 * in `bus_cursors` to give them up.
 */
export class EmbeddedMessageBus extends LogMessageBus {
  readonly #log: DatabaseMessageLog;
  readonly #clock: Clock;
  readonly #pruneEveryMs: number;
  readonly #onProblem: (what: string, cause: unknown) => void;
  #callOffPrune: () => void = () => {};
  #pruning: Promise<void> = Promise.resolve();
  #pruneEnded = false;

  constructor(database: Session, options: EmbeddedBusOptions = {}) {
    const log = new DatabaseMessageLog(database, {
      pruneBatch: options.pruneBatch ?? 1_000,
      keepUnread: options.keepUnread ?? { [ROOM_EVENTS_TOPIC]: 100_000, [DEAD_LETTER_TOPIC]: 100_000 },
    });
    super(log, options);
    this.#log = log;
    this.#clock = options.clock ?? systemClock;
    this.#pruneEveryMs = options.pruneEveryMs ?? 60_000;
    this.#onProblem = options.onProblem ?? (() => {});
    this.#pruneLater();
  }

  /** Deletes what nobody needs any more, in bounded batches; gives how many messages that were. */
  async prune(): Promise<number> {
    return await this.#log.prune(() => this.#pruneEnded);
  }

  override async close(): Promise<void> {
    this.#pruneEnded = true;
    this.#callOffPrune();
    await Promise.all([super.close(), this.#pruning]);
  }

  #pruneLater(): void {
    this.#callOffPrune = this.#clock.after(this.#pruneEveryMs, () => {
      this.#pruning = this.prune()
        .then(
          () => {},
          (cause: unknown) => this.#onProblem('prune the embedded bus', cause),
        )
        .then(() => {
          if (!this.#pruneEnded) this.#pruneLater();
        });
    });
  }
}

interface MessageRow {
  readonly offset: string;
  readonly key: string;
  readonly headers: string;
  readonly value: string;
}

class DatabaseMessageLog implements MessageLog {
  readonly #database: Session;
  readonly #pruneBatch: number;
  readonly #keepUnread: Readonly<Record<string, number>>;

  constructor(
    database: Session,
    options: { readonly pruneBatch: number; readonly keepUnread: Readonly<Record<string, number>> },
  ) {
    this.#database = database;
    this.#pruneBatch = options.pruneBatch;
    this.#keepUnread = options.keepUnread;
  }

  /**
   * One statement. The counter row of a partition is locked from here to the commit, so that offsets become visible
   * in their order and a roll-back leaves no gap; rows are taken in key order, so that two publishers of several
   * topics can't wait for each other.
   */
  async append(messages: readonly PlacedMessage[]): Promise<void> {
    await this.#database.query({
      name: 'bus-append',
      text: `WITH incoming AS (
         SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[])
           WITH ORDINALITY AS m(topic, partition, key, headers, value, place)
       ), counted AS (
         SELECT topic, partition, count(*) AS n FROM incoming GROUP BY topic, partition
       ), allocated AS (
         INSERT INTO bus_partitions AS p (topic, partition, next_offset)
         SELECT topic, partition, n FROM counted ORDER BY topic, partition
         ON CONFLICT (topic, partition) DO UPDATE SET next_offset = p.next_offset + excluded.next_offset
         RETURNING p.topic, p.partition, p.next_offset
       )
       INSERT INTO bus_messages (topic, partition, "offset", key, headers, value)
       SELECT i.topic, i.partition,
              a.next_offset - c.n - 1 + row_number() OVER (PARTITION BY i.topic, i.partition ORDER BY i.place),
              i.key, i.headers, i.value
         FROM incoming i
         JOIN counted c ON c.topic = i.topic AND c.partition = i.partition
         JOIN allocated a ON a.topic = i.topic AND a.partition = i.partition`,
      values: [
        messages.map((message) => message.topic),
        messages.map((message) => message.partition),
        messages.map((message) => toStoredText(message.key)),
        // JSON.stringify escapes NUL and half surrogate pairs, so the headers need no second look.
        messages.map((message) => JSON.stringify(message.headers)),
        messages.map((message) => toStoredText(message.value)),
      ],
    });
  }

  async partitionsUsed(topic: string): Promise<number> {
    const [row] = await this.#database.query<{ used: number }>(
      `SELECT coalesce(max(partition) + 1, 0)::int AS used FROM bus_partitions WHERE topic = $1`,
      [topic],
    );
    return row?.used ?? 0;
  }

  async cursor({ topic, partition, group }: Place): Promise<number> {
    await this.#database.query(
      `INSERT INTO bus_cursors (topic, partition, consumer_group, "offset") VALUES ($1, $2, $3, 0)
       ON CONFLICT DO NOTHING`,
      [topic, partition, group],
    );
    const [row] = await this.#database.query<{ offset: string }>(
      `SELECT "offset"::text AS "offset" FROM bus_cursors
        WHERE topic = $1 AND partition = $2 AND consumer_group = $3`,
      [topic, partition, group],
    );
    return Number(row?.offset ?? 0);
  }

  async read({ topic, partition }: Place, from: number, limit: number): Promise<readonly ReceivedMessage[]> {
    const rows = await this.#database.query<MessageRow>(
      `SELECT "offset"::text AS "offset", key, headers, value FROM bus_messages
        WHERE topic = $1 AND partition = $2 AND "offset" >= $3::bigint
        ORDER BY bus_messages."offset" LIMIT $4::int`,
      [topic, partition, String(from), limit],
    );
    return rows.map((row) => ({
      topic,
      partition,
      offset: row.offset,
      key: fromStoredText(row.key),
      headers: JSON.parse(row.headers) as Record<string, string>,
      value: fromStoredText(row.value),
    }));
  }

  async commit({ topic, partition, group }: Place, from: number, to: number): Promise<boolean> {
    const moved = await this.#database.query(
      `UPDATE bus_cursors SET "offset" = $5::bigint
        WHERE topic = $1 AND partition = $2 AND consumer_group = $3 AND "offset" = $4::bigint
        RETURNING 1 AS moved`,
      [topic, partition, group, String(from), String(to)],
    );
    return moved.length > 0;
  }

  async check(): Promise<void> {
    await this.#database.query('SELECT 1 FROM bus_partitions LIMIT 1');
  }

  async prune(enough: () => boolean): Promise<number> {
    const partitions = await this.#database.query<{
      topic: string;
      partition: number;
      next_offset: string;
      read: string | null;
    }>(
      `SELECT p.topic, p.partition, p.next_offset::text AS next_offset,
              (SELECT min(c."offset") FROM bus_cursors c
                WHERE c.topic = p.topic AND c.partition = p.partition)::text AS read
         FROM bus_partitions p`,
    );
    let pruned = 0;
    for (const { topic, partition, next_offset, read } of partitions) {
      const keep = this.#keepUnread[topic] ?? Infinity;
      const floor = read === null ? Math.max(0, Number(next_offset) - keep) : Number(read);
      for (let full = floor > 0; full && !enough();) {
        // Offsets have no gap, so a range of them is a bounded number of rows.
        const gone = await this.#database.query(
          `DELETE FROM bus_messages WHERE topic = $1 AND partition = $2 AND "offset" < least($3::bigint,
             (SELECT min("offset") FROM bus_messages WHERE topic = $1 AND partition = $2) + $4::bigint)
           RETURNING 1 AS gone`,
          [topic, partition, String(floor), this.#pruneBatch],
        );
        pruned += gone.length;
        full = gone.length === this.#pruneBatch;
      }
    }
    return pruned;
  }
}
