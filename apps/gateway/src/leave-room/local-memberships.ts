import type { Database } from '@exeunt/database';
import type { EventId, RoomId, ServerName, UserId } from '@exeunt/pdu';
import { membershipOf } from '@exeunt/room';
import { isJsonObject, parseJson, type JsonObject } from '@exeunt/signing';

/** A user's member event in a room that this server is in. */
export interface LocalMembership {
  readonly roomId: RoomId;
  readonly roomVersion: string;
  readonly eventId: EventId;
  readonly membership: string;
  readonly sender: string;
  readonly event: JsonObject;
}

/** As the event store's own reader of the log allows. */
const maxDepth = 1000;
/** Whoever makes the index waits for this advisory lock; any fixed number does. */
const INDEX_LOCK = 4_977_302_615_189n;

/**
 * The rooms of our users by user. The state of rooms is keyed by room; an index over the member entries of users of
 * ours alone finds a user's rooms without costing the leaves of others anything.
 */
export class LocalMemberships {
  readonly #database: Database;
  readonly #ourName: ServerName;
  readonly #isOurs: string;

  constructor(database: Database, ourName: ServerName) {
    this.#database = database;
    this.#ourName = ourName;
    // Literally the same in index and query, or the index is not used. A server name holds no quote.
    this.#isOurs = `type = 'm.room.member' AND right(state_key, ${ourName.length + 1}) = ':${ourName}'`;
  }

  /** Makes the index where there is none. It depends on our name, so no migration can. */
  async prepare(): Promise<void> {
    await this.#database.transaction(async (tx) => {
      // Two processes that start at once would both find none, and one of them would fail.
      await tx.query(`SELECT pg_advisory_xact_lock(${INDEX_LOCK})`);
      await tx.query(
        `CREATE INDEX IF NOT EXISTS room_state_our_members ON room_state (state_key, room_id, position DESC)
          WHERE ${this.#isOurs}`,
      );
    });
  }

  /**
   * Member events of the user in the current state of rooms that users of ours are joined to, in order of the rooms'
   * IDs after `after`; at most `limit`.
   */
  async page(
    userId: UserId,
    { after, limit }: { readonly after: RoomId | undefined; readonly limit: number },
  ): Promise<readonly LocalMembership[]> {
    const rows = await this.#database.query<{
      room_id: string;
      room_version: string;
      event_id: string;
      pdu: string;
    }>(
      `SELECT newest.room_id, rooms.room_version, newest.event_id, logged.pdu FROM (
          SELECT DISTINCT ON (room_id) room_id, event_id FROM room_state
          WHERE state_key = $1 AND ${this.#isOurs} AND room_id > $3 ORDER BY room_id, position DESC
        ) AS newest
        JOIN rooms ON rooms.room_id = newest.room_id
        JOIN room_residents AS us ON us.room_id = newest.room_id AND us.server = $2 AND us.joined > 0
        CROSS JOIN LATERAL (
          SELECT pdu FROM room_log WHERE room_log.room_id = newest.room_id
            AND room_log.event_id = newest.event_id ORDER BY position DESC LIMIT 1
        ) AS logged
        WHERE newest.event_id IS NOT NULL ORDER BY newest.room_id LIMIT $4`,
      [toStored(userId), this.#ourName, toStored(after ?? ''), limit],
    );
    return rows.map((row) => {
      const event = parseJson(row.pdu, { maxDepth });
      const content = isJsonObject(event) ? event['content'] : undefined;
      if (!isJsonObject(event) || !isJsonObject(content)) {
        throw new Error(`the log holds ${row.event_id}, which is no member event`);
      }
      return {
        roomId: fromStored(row.room_id) as RoomId,
        roomVersion: row.room_version,
        eventId: fromStored(row.event_id) as EventId,
        membership: membershipOf(content),
        sender: String(event['sender']),
        event,
      };
    });
  }
}

/** The event store writes U+0001 so; of what it escapes, an identifier can hold nothing else. */
function toStored(identifier: string): string {
  return identifier.replaceAll('\u0001', '\u0001\u0002');
}

function fromStored(text: string): string {
  return text.replaceAll('\u0001\u0002', '\u0001');
}
