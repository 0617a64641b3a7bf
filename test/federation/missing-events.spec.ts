import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pdu } from '@exeunt/pdu';
import { JsonNumber, withKeys, type JsonObject, type JsonValue } from '@exeunt/signing';
import { importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { respond, startRemoteServer, type PeerHandler, type RemoteServer } from '../harness/remote-server.js';
import { putTransaction } from '../leaving-harness.js';

/*
 * A server sends the newest of what happened while we did not listen. We ask it for what comes before, and judge that
 * first. (FE-09)
 */

let ours: LeaveServer;
let peer: RemoteServer;

beforeAll(async () => {
  ours = await startLeaveServer({ environment: { EXEUNT_FEDERATION_TIMEOUT_MS: '2000' } });
  peer = await startRemoteServer({ host: '127.0.0.2' });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close()]);
});

let transactions = 0;
const send = (pdus: readonly Pdu[], from = peer) =>
  putTransaction(from, ours, `gap${++transactions}`, { pdus: pdus.map(({ json }) => json) });

interface Gap {
  readonly room: ImportedRoom;
  /** What we have not got, oldest first. */
  readonly missed: readonly Pdu[];
  /** ian leaves, after all of that. */
  readonly leave: Pdu;
}

/** ian says `count` things that never come, and leaves. */
async function gapOf(count: number, version = '11'): Promise<Gap> {
  const ian = `@ian:${peer.name}`;
  const room = await importRoom(ours, {
    version,
    peers: [peer],
    grow: (builder) => void builder.member(ian, 'join'),
  });
  const missed = Array.from({ length: count }, (_, at) =>
    room.builder.say({ sender: ian, content: { body: `missed ${at}` } }),
  );
  return { room, missed, leave: room.builder.member(ian, 'leave') };
}

const uriOf = ({ room }: Gap): string =>
  `/_matrix/federation/v1/get_missing_events/${encodeURIComponent(room.roomId).replace('!', '%21')}`;

/** Answers as a good server does: what precedes the latest, up to the limit, oldest first. */
function serving({ room }: Gap, change: (json: JsonObject) => JsonValue = (json) => json): PeerHandler {
  const byId = new Map<string, Pdu>(room.builder.pdus.map((pdu) => [pdu.eventId, pdu]));
  return ({ json }, response) => {
    const asked = json as unknown as {
      latest_events: string[];
      earliest_events: string[];
      limit: number;
    };
    const seen = new Set([...asked.earliest_events, ...asked.latest_events]);
    const found: Pdu[] = [];
    let front = asked.latest_events;
    while (front.length > 0 && found.length < asked.limit) {
      front = front.flatMap((eventId) => [...(byId.get(eventId)?.prevEvents ?? [])]);
      front = front.filter((eventId) => !seen.has(eventId));
      for (const eventId of front) {
        seen.add(eventId);
        found.push(byId.get(eventId)!);
      }
    }
    respond(response, 200, {
      events: found
        .slice(0, asked.limit)
        .toReversed()
        .map(({ json }) => change(json)),
    });
  };
}

const asked = (gap: Gap) => peer.requests.filter(({ url }) => url === uriOf(gap));
const acceptedSince = async ({ room }: Gap, position: number) =>
  (await room.since(position)).filter(({ type }) => type === 'PduAccepted').map(({ event_id: id }) => id);
const idsOf = (pdus: readonly Pdu[]) => pdus.map(({ eventId }) => eventId);

describe.each(['1', '6', '11', '12'])('what is missing before a leave in a room of version %s', (version) => {
  it('is fetched from the server that sends, and judged before it (FE-09)', async () => {
    const gap = await gapOf(3, version);
    const position = await gap.room.position();
    const [extremity] = (await ours.ok('GET', gap.room.path()))['forward_extremities'] as string[];
    peer.on('POST', uriOf(gap), serving(gap));
    const answer = await send([gap.leave]);
    expect(answer).toMatchObject({ status: 200, json: { pdus: { [gap.leave.eventId]: {} } } });
    // Of the others nothing is said: they were not sent.
    expect(Object.keys((answer.json as { pdus: object }).pdus)).toEqual([gap.leave.eventId]);
    expect(await acceptedSince(gap, position)).toEqual(idsOf([...gap.missed, gap.leave]));
    expect(await gap.room.membership(gap.leave.sender)).toBe('leave');
    expect(asked(gap).map(({ json }) => json)).toEqual([
      { latest_events: [gap.leave.eventId], earliest_events: [extremity], limit: 20 },
    ]);
  });
});

describe('what is missing', () => {
  it('is not asked for where nothing is', async () => {
    const gap = await gapOf(2);
    peer.on('POST', uriOf(gap), serving(gap));
    expect((await send([...gap.missed, gap.leave])).status).toBe(200);
    expect(await gap.room.membership(gap.leave.sender)).toBe('leave');
    expect(asked(gap)).toEqual([]);
  });

  it('may lie between events that were sent', async () => {
    const gap = await gapOf(3);
    const position = await gap.room.position();
    peer.on('POST', uriOf(gap), serving(gap));
    await send([gap.missed[0]!, gap.leave]);
    expect(await acceptedSince(gap, position)).toEqual(idsOf([...gap.missed, gap.leave]));
  });

  it('may be more than comes at once, up to a hundred events', async () => {
    const gap = await gapOf(70);
    const position = await gap.room.position();
    peer.on('POST', uriOf(gap), serving(gap));
    await send([gap.leave]);
    expect(await acceptedSince(gap, position)).toEqual(idsOf([...gap.missed, gap.leave]));
    expect(asked(gap)).toHaveLength(4);
  });

  it('stays missing where it is more than that: the leave gets its error, and the log stays as it was (SL-13)', async () => {
    const gap = await gapOf(130);
    const position = await gap.room.position();
    peer.on('POST', uriOf(gap), serving(gap));
    expect((await send([gap.leave])).json).toMatchObject({
      pdus: { [gap.leave.eventId]: { error: expect.stringContaining('SL-13') } },
    });
    expect(await gap.room.position()).toBe(position);
    expect(asked(gap)).toHaveLength(5);
  });

  const forged = (json: JsonObject): JsonObject => withKeys(json, { content: { body: 'forged' }, depth: 3 });
  it.each<[string, (gap: Gap) => PeerHandler]>([
    ['is refused', () => (_, response) => respond(response, 403, { errcode: 'M_FORBIDDEN', error: 'no' })],
    ['is a 200 of something else', () => (_, response) => respond(response, 200, { pdus: [] })],
    ['is no list', () => (_, response) => respond(response, 200, { events: 'all' })],
    ['is no object', () => (_, response) => respond(response, 200, [])],
    ['is empty', () => (_, response) => respond(response, 200, { events: [] })],
    ['is junk', () => (_, response) => respond(response, 200, { events: [1, null, {}, { room_id: 1 }, []] })],
    ['never comes', () => () => {}],
    ['has bad signatures', (gap) => serving(gap, forged)],
    [
      'has floats, which version 6 forbids',
      (gap) => serving(gap, (json) => withKeys(json, { x: new JsonNumber('1.0') })),
    ],
    ['is the leave itself', (gap) => (_, response) => respond(response, 200, { events: [gap.leave.json] })],
    [
      'leaves one out',
      (gap) => (_, response) =>
        respond(response, 200, { events: gap.missed.slice(1).map(({ json }) => json) }),
    ],
  ])('stays missing where the answer %s', async (_, handler) => {
    const gap = await gapOf(3);
    const position = await gap.room.position();
    peer.on('POST', uriOf(gap), handler(gap));
    expect((await send([gap.leave])).json).toEqual({
      pdus: { [gap.leave.eventId]: { error: expect.stringContaining('SL-13') } },
    });
    expect(await gap.room.position()).toBe(position);
    expect(await gap.room.membership(gap.leave.sender)).toBe('join');
  });

  it('is of its room alone, whatever else comes', async () => {
    const [gap, other] = [await gapOf(2), await gapOf(1)];
    const [position, before] = [await gap.room.position(), await other.room.position()];
    peer.on('POST', uriOf(gap), (_, response) =>
      respond(response, 200, { events: [...other.missed, ...gap.missed].map(({ json }) => json) }),
    );
    await send([gap.leave]);
    expect(await acceptedSince(gap, position)).toEqual(idsOf([...gap.missed, gap.leave]));
    expect(await other.room.position()).toBe(before);
  });

  it('is fetched once where two transactions lack it, and nothing waits but these', async () => {
    const gap = await gapOf(2);
    const position = await gap.room.position();
    const good = serving(gap);
    let answer!: () => void;
    const held = new Promise<void>((resolve) => (answer = resolve));
    peer.on('POST', uriOf(gap), async (request, response) => {
      await held;
      await good(request, response);
    });
    const both = [send([gap.leave]), send([gap.leave])];
    await peer.received(({ url }) => url === uriOf(gap));
    // The room goes on meanwhile.
    const topic = await gap.room.say('m.room.topic', '', { topic: 'meanwhile' });
    answer();
    for (const { json } of await Promise.all(both))
      expect(json).toEqual({ pdus: { [gap.leave.eventId]: {} } });
    expect(await acceptedSince(gap, position)).toEqual([topic, ...idsOf([...gap.missed, gap.leave])]);
    expect(asked(gap)).toHaveLength(1);
  });
});
