import { describe, expect, it } from 'vitest';
import type { EventId, RoomId, ServerName } from '@exeunt/pdu';
import type { DomainEvent, ForwardExtremity, PduAccepted, RoomHeader } from '@exeunt/room';
import { JsonNumber, type JsonValue } from '@exeunt/signing';
import type { Append, LoggedEvent } from './event-store.js';
import { HeaderWriter, readHeader, type WrittenHeader } from './stored-header.js';

const roomId = '!room:example.org' as RoomId;

/** A room's row and log, as the database keeps them. */
class Row {
  readonly log: DomainEvent[] = [];
  extremities = new Map<EventId, ForwardExtremity>();
  header = '';
  list: string | null = null;
  listsWritten = 0;

  append(writer: HeaderWriter, ...domainEvents: readonly DomainEvent[]): WrittenHeader {
    const expectedPosition = this.log.length;
    this.log.push(...domainEvents);
    for (const domainEvent of domainEvents) this.#fold(domainEvent);
    const append: Append = {
      roomId,
      expectedPosition,
      domainEvents,
      header: this.expected(),
      residents: [],
      broadcasts: [],
    };
    const written = writer.write(append);
    this.header = written.header;
    if (written.extremities !== undefined) {
      this.list = written.extremities;
      this.listsWritten++;
    }
    writer.written(append, written);
    return written;
  }

  expected(): RoomHeader {
    return {
      roomId,
      roomVersion: '11',
      createEventId: '$create' as EventId,
      position: this.log.length,
      stateChangedAt: this.log.length,
      depth: '1',
      forwardExtremities: [...this.extremities.values()],
      memberCounts: { join: 1, invite: 0, knock: 0, leave: 0, ban: 0 },
    };
  }

  read(): Promise<RoomHeader> {
    return readHeader(this.header, this.list, (_, from, limit) =>
      Promise.resolve(
        this.log
          .slice(from - 1, from - 1 + limit)
          .map((domainEvent, at): LoggedEvent => ({ position: from + at, domainEvent })),
      ),
    );
  }

  #fold(domainEvent: DomainEvent): void {
    if (domainEvent.type === 'SnapshotPlaced') {
      this.extremities = new Map(
        domainEvent.forwardExtremities.map((eventId) => [
          eventId,
          { eventId, depth: String(domainEvent.depth) },
        ]),
      );
    }
    if (domainEvent.type !== 'PduAccepted' || domainEvent.place !== 'graph') return;
    const { prev_events: parents, depth } = domainEvent.pdu;
    for (const parent of parents as readonly JsonValue[]) {
      this.extremities.delete((Array.isArray(parent) ? parent[0] : parent) as EventId);
    }
    const { eventId } = domainEvent;
    this.extremities.set(eventId, {
      eventId,
      depth: depth instanceof JsonNumber ? depth.source : String(depth),
    });
  }
}

let count = 0;
function leave(parents: readonly JsonValue[] = ['$before'], more: Partial<PduAccepted> = {}): PduAccepted {
  const eventId = `$leave${++count}` as EventId;
  return {
    type: 'PduAccepted',
    eventId,
    pdu: { prev_events: parents, depth: 7, state_key: '@user:example.org' },
    origin: 'example.org' as ServerName,
    decidedAt: 0,
    place: 'graph',
    stateAfter: 'none',
    changes: [],
    ...more,
  };
}

const leaves = (many: number): PduAccepted[] => Array.from({ length: many }, () => leave());

describe('a room of few forward extremities', () => {
  it('has them in its header, and its other column is never touched', async () => {
    const [row, writer] = [new Row(), new HeaderWriter()];
    for (const one of leaves(32)) expect(row.append(writer, one).extremities).toBeUndefined();
    expect(JSON.parse(row.header)).toEqual(row.expected());
    expect(await row.read()).toEqual(row.expected());
  });
});

describe('a storm of leaves', () => {
  it('writes the list rarely, and the header reads as if it were always there', async () => {
    const [row, writer] = [new Row(), new HeaderWriter()];
    for (let at = 0; at < 100; at++) {
      row.append(writer, ...leaves(10));
      expect(await row.read()).toEqual(row.expected());
    }
    expect(row.listsWritten).toBeLessThan(20);
  });

  it('comes down again, through merges of up to twenty, to a header that has its list', async () => {
    const [row, writer] = [new Row(), new HeaderWriter()];
    row.append(writer, ...leaves(200));
    while (row.extremities.size > 1) {
      row.append(writer, leave([...row.extremities.keys()].slice(0, 20)));
      expect(await row.read()).toEqual(row.expected());
    }
    expect(row.list).toBeNull();
  });

  it('reads pairs and large depths, and passes over what is outside the graph or refused', async () => {
    const [row, writer] = [new Row(), new HeaderWriter()];
    row.append(writer, ...leaves(50));
    const [first] = row.extremities.keys();
    const { type: _, ...refused } = leave([...row.extremities.keys()].slice(5, 6));
    row.append(
      writer,
      leave([[first!, { sha256: 'hash' }]], {
        pdu: { prev_events: [[first!, {}]], depth: new JsonNumber('9223372036854775807') },
      }),
      leave([...row.extremities.keys()].slice(3, 4), { place: 'auth-chain' }),
      { ...refused, type: 'PduRejected', rule: 'AU-20', detail: '', stateAfter: 'none' },
    );
    expect(row.listsWritten).toBe(1);
    expect(await row.read()).toEqual(row.expected());
  });
});

describe('a writer that cannot know what the row holds', () => {
  it('writes the list again after somebody else has appended', async () => {
    const [row, writer, other] = [new Row(), new HeaderWriter(), new HeaderWriter()];
    row.append(writer, ...leaves(50));
    expect(row.append(writer, leave()).extremities).toBeUndefined();
    expect(row.append(other, leave()).extremities).toBeTypeOf('string');
    expect(row.append(writer, leave()).extremities).toBeTypeOf('string');
    expect(await row.read()).toEqual(row.expected());
  });

  it('writes it again after an append of its own that may have failed', () => {
    const [row, writer] = [new Row(), new HeaderWriter()];
    row.append(writer, ...leaves(50));
    const append = { ...row.expected() };
    // Begun and never known to be durable.
    writer.write({
      roomId,
      expectedPosition: append.position,
      domainEvents: [leave()],
      header: { ...append, position: append.position + 1 },
      residents: [],
      broadcasts: [],
    });
    expect(row.append(writer, leave()).extremities).toBeTypeOf('string');
  });
});
