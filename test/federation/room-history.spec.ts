import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { redact, type EventId, type Pdu } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { JsonNumber, memberOf, parseJson, stringifyJson, type JsonObject } from '@exeunt/signing';
import { asking, everyQuestion, type HistoryQuestions } from '../harness/asking-history.js';
import { importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { startRemoteServer, type PeerResponse, type RemoteServer } from '../harness/remote-server.js';
import { putTransaction } from '../leaving-harness.js';

let ours: LeaveServer;
/** In the rooms. */
let resident: RemoteServer;
let stranger: RemoteServer;

beforeAll(async () => {
  ours = await startLeaveServer();
  resident = await startRemoteServer({ host: '127.0.0.2' });
  stranger = await startRemoteServer({ host: '127.0.0.3' });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), resident?.close(), stranger?.close()]);
});

const list = (answer: PeerResponse, key: string): readonly JsonObject[] => {
  expect(answer.status, answer.body.toString()).toBe(200);
  expect(answer.headers['content-type']).toMatch(/^application\/json/);
  return memberOf(answer.json as JsonObject, key) as unknown as readonly JsonObject[];
};
const texts = (pdus: readonly JsonObject[]): readonly string[] => pdus.map((pdu) => stringifyJson(pdu));
const sorted = (pdus: readonly JsonObject[]): readonly string[] => texts(pdus).toSorted();
const jsonOf = (pdus: readonly Pdu[]): string[] => pdus.map(({ json }) => stringifyJson(json));
const error = (errcode: string, rule?: string): unknown => ({
  errcode,
  error: expect.any(String),
  ...(rule === undefined ? {} : { rule }),
});

/** Everything on the auth chains of some events, without them unless they cite one another. */
function chainOf(byId: ReadonlyMap<EventId, Pdu>, events: readonly Pdu[]): readonly Pdu[] {
  const chain = new Set<EventId>();
  const waiting = events.flatMap(({ authEvents }) => [...authEvents]);
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (chain.has(next)) continue;
    chain.add(next);
    waiting.push(...byId.get(next)!.authEvents);
  }
  return [...chain].map((eventId) => byId.get(eventId)!);
}

describe.each(['1', '2', '5', '11', '12'])('the past of a room of version %s', (version) => {
  let room: ImportedRoom;
  let ask: HistoryQuestions;
  let byId: Map<EventId, Pdu>;
  /** A line of events with a fork of two in it; `merge` cites both. */
  let first: Pdu, left: Pdu, right: Pdu, merge: Pdu, last: Pdu;

  beforeAll(async () => {
    const bob = `@bob:${resident.name}`;
    room = await importRoom(ours, {
      version,
      peers: [resident],
      grow(builder, alice) {
        builder.member(bob, 'join');
        first = builder.say({ sender: alice, type: 'm.room.topic', stateKey: '', content: { topic: 'one' } });
        const fork = (topic: string) =>
          builder.make({ sender: alice, type: 'm.room.name', stateKey: '', content: { name: topic } });
        [left, right] = [fork('left'), fork('right')];
        for (const pdu of [left, right]) {
          builder.receive(pdu, 'history');
          builder.pdus.push(pdu);
        }
        merge = builder.say({ sender: bob, content: { body: 'both' } });
        last = builder.say({ sender: alice, type: 'm.room.topic', stateKey: '', content: { topic: 'two' } });
      },
    });
    ask = asking(resident, ours, room.roomId);
    byId = new Map(room.builder.pdus.map((pdu) => [pdu.eventId, pdu]));
  });

  it('is given an event at a time, as signed and as a transaction (FE-02)', async () => {
    for (const pdu of room.builder.pdus) {
      const answer = await ask.event(pdu.eventId);
      expect(texts(list(answer, 'pdus'))).toEqual(jsonOf([pdu]));
      expect(answer.json).toEqual({
        origin: ours.name,
        origin_server_ts: expect.any(Number),
        pdus: [expect.anything()],
      });
    }
  });

  it('is walked from the latest events back, and given parents first (FE-03)', async () => {
    const missing = async (latest: readonly Pdu[], more: JsonObject = {}) => {
      const answer = await ask.missing(
        latest.map(({ eventId }) => eventId),
        more,
      );
      return texts(list(answer, 'events'));
    };
    const forked = await missing([last], { limit: 3 });
    expect(forked.at(-1)).toBe(stringifyJson(merge.json));
    expect(forked.toSorted()).toEqual(jsonOf([left, right, merge]).toSorted());
    expect((await missing([last], { limit: 4 })).slice(0, 1)).toEqual(jsonOf([first]));
    expect(await missing([last], { limit: 1 })).toEqual(jsonOf([merge]));
    expect(await missing([last], { limit: 0 })).toEqual([]);
    expect((await missing([merge])).length).toBe(Math.min(10, room.builder.pdus.length - 2));
    expect((await missing([last], { limit: 1000 })).length).toBe(room.builder.pdus.length - 1);
    // Earliest ones are neither given nor walked through, nor are those above which nothing is wanted.
    const since = { earliest_events: [left.eventId, right.eventId] };
    expect(await missing([last], since)).toEqual(jsonOf([merge]));
    expect(await missing([last], { earliest_events: [last.eventId] })).toEqual([]);
    expect((await missing([last], { earliest_events: [left.eventId], limit: 2 })).toSorted()).toEqual(
      jsonOf([right, merge]).toSorted(),
    );
    expect((await missing([last], { min_depth: Number(left.depth) })).toSorted()).toEqual(
      jsonOf([left, right, merge]).toSorted(),
    );
    expect((await missing([left, right])).at(-1)).toBe(stringifyJson(first.json));
  });

  it('is given from some events back, deepest first, they included (FE-04)', async () => {
    const backfill = async (from: readonly Pdu[], limit: number) => {
      const answer = await ask.backfill(
        from.map(({ eventId }) => eventId),
        String(limit),
      );
      expect(answer.json).toMatchObject({ origin: ours.name, origin_server_ts: expect.any(Number) });
      return texts(list(answer, 'pdus'));
    };
    expect(await backfill([last], 1)).toEqual(jsonOf([last]));
    expect(await backfill([last], 2)).toEqual(jsonOf([last, merge]));
    expect((await backfill([last], 4)).toSorted()).toEqual(jsonOf([last, merge, left, right]).toSorted());
    expect((await backfill([left, right], 2)).toSorted()).toEqual(jsonOf([left, right]).toSorted());
    const all = await backfill([last, merge], 1000);
    expect(all.toSorted()).toEqual(jsonOf(room.builder.pdus).toSorted());
    expect(all.at(-1)).toBe(stringifyJson(room.builder.pdus[0]!.json));
  });

  it('has a state before each event, with its auth chain; PDUs and IDs agree (FE-05, FE-10)', async () => {
    const state = new Map<string, Pdu>();
    for (const pdu of room.builder.pdus) {
      // Of the fork's two, each sees the room without the other.
      if (pdu === right) state.delete('m.room.name ');
      const before = [...state.values()];
      if (pdu === merge || pdu === last) {
        // Which of the two names it is, resolution says: the one that the room has now.
        const name = room.builder.room.entry(room.builder.room.currentState(), 'm.room.name', '')!;
        before.splice(
          before.findIndex(({ type }) => type === 'm.room.name'),
          1,
          byId.get(name)!,
        );
      }
      const full = await ask.state(pdu.eventId);
      expect(sorted(list(full, 'pdus'))).toEqual(jsonOf(before).toSorted());
      expect(sorted(list(full, 'auth_chain'))).toEqual(jsonOf(chainOf(byId, before)).toSorted());
      const ids = await ask.stateIds(pdu.eventId);
      const idsOf = (pdus: readonly Pdu[]) => pdus.map(({ eventId }) => eventId).toSorted();
      expect([...list(ids, 'pdu_ids')].toSorted()).toEqual(idsOf(before));
      expect([...list(ids, 'auth_chain_ids')].toSorted()).toEqual(idsOf(chainOf(byId, before)));
      if (pdu.stateKey !== undefined) state.set(`${pdu.type} ${pdu.stateKey}`, pdu);
    }
  });

  it('has an auth chain for each event, without the event (FE-06, FE-10)', async () => {
    for (const pdu of room.builder.pdus) {
      const chain = list(await ask.eventAuth(pdu.eventId), 'auth_chain');
      expect(sorted(chain)).toEqual(jsonOf(chainOf(byId, [pdu])).toSorted());
    }
    const chain = list(await ask.eventAuth(last.eventId), 'auth_chain');
    expect(chain.some(({ type }) => type === 'm.room.create')).toBe(version !== '12');
  });

  it('is not for a server without a user in it (FE-02, FE-05)', async () => {
    for (const [endpoint, answer] of everyQuestion(asking(stranger, ours, room.roomId), last.eventId)) {
      const { status, json } = await answer();
      expect([endpoint, status, json]).toEqual(
        endpoint === 'event'
          ? [endpoint, 404, error('M_NOT_FOUND', 'FE-02')]
          : [endpoint, 403, error('M_FORBIDDEN', 'FE-05')],
      );
    }
  });
});

it('numbers and texts are served as they were signed, whatever is in them (CJ-04, BR-04)', async () => {
  let odd!: Pdu, after!: Pdu;
  const room = await importRoom(ours, {
    version: '1',
    peers: [resident],
    grow(builder, alice) {
      builder.member(`@bob:${resident.name}`, 'join');
      const numbers = '[1.0, 1e3, -0, 0.10, 12345678901234567890, 1e400]';
      odd = builder.say({
        sender: alice,
        type: 'org.example.odd',
        stateKey: '',
        content: parseJson(
          `{"numbers":${numbers},"nul":"\\u0000","😀":"\\u2028","__proto__":{"x":1}}`,
        ) as JsonObject,
        changes: { depth: new JsonNumber('9223372036854775806') },
      });
      after = builder.say({ sender: alice, content: {} });
    },
  });
  const ask = asking(resident, ours, room.roomId);
  for (const [answer, key] of [
    [await ask.event(odd.eventId), 'pdus'],
    [await ask.missing([after.eventId]), 'events'],
    [await ask.backfill([after.eventId], '10'), 'pdus'],
    [await ask.state(after.eventId), 'pdus'],
  ] as const) {
    expect(texts(list(answer, key))).toContain(stringifyJson(odd.json));
    expect(answer.body.toString()).toContain('[1.0,1e3,-0,0.10,12345678901234567890,1e400]');
    expect(answer.body.toString()).toContain('"depth":9223372036854775806');
  }
});

describe.each(['2', '10', '11', '12'])('an event of a room of version %s that was redacted', (version) => {
  const rules = roomVersion(version)!;
  let room: ImportedRoom;
  let ask: HistoryQuestions;
  /** By who redacts what: those that apply, and those that don't. */
  let byAdmin: Pdu, byOwnServer: Pdu, byNobody: Pdu, topic: Pdu, member: Pdu, create: Pdu, named: Pdu;
  let after: Pdu;

  beforeAll(async () => {
    const [bob, carol] = [`@bob:${resident.name}`, `@carol:${resident.name}`];
    room = await importRoom(ours, {
      version,
      peers: [resident],
      grow(builder, alice) {
        const redactIt = (
          sender: string,
          { eventId }: Pdu,
          key = rules.redactsInContent ? 'content' : 'top',
        ) =>
          builder.say({
            sender,
            type: 'm.room.redaction',
            content: key === 'content' ? { redacts: eventId } : {},
            ...(key === 'top' ? { changes: { redacts: eventId } } : {}),
          });
        create = builder.pdus[0]!;
        builder.member(bob, 'join');
        member = builder.member(carol, 'join', carol, {
          content: { membership: 'join', displayname: 'Carol', reason: 'nice here' },
        });
        const say = (sender: string) => builder.say({ sender, content: { body: 'secret' } });
        [byAdmin, byOwnServer, byNobody, named] = [say(bob), say(carol), say(alice), say(bob)];
        topic = builder.say({
          sender: alice,
          type: 'm.room.topic',
          stateKey: '',
          content: { topic: 'hush' },
        });
        for (const pdu of [byAdmin, topic, member, create]) redactIt(alice, pdu);
        redactIt(bob, byOwnServer);
        // Without the power, of another server: the auth rules of versions 1 and 2 take no such event.
        if (!rules.redactionAuthRule) redactIt(bob, byNobody);
        // Where another version has the name, it names nothing.
        redactIt(alice, named, rules.redactsInContent ? 'top' : 'content');
        after = builder.say({ sender: alice, content: { body: 'after' } });
      },
    });
    ask = asking(resident, ours, room.roomId);
  });

  const redacted = (pdu: Pdu) => stringifyJson(redact(pdu.json, rules));
  const whole = (pdu: Pdu) => stringifyJson(pdu.json);

  it('is served in redacted form wherever a redaction applies, and whole elsewhere (FE-08, RV-09)', async () => {
    const one = async ({ eventId }: Pdu) => texts(list(await ask.event(eventId), 'pdus'))[0];
    for (const pdu of [byAdmin, byOwnServer, topic, member]) {
      expect(redacted(pdu)).not.toBe(whole(pdu));
      expect(await one(pdu)).toBe(redacted(pdu));
    }
    for (const pdu of [byNobody, named, create]) expect(await one(pdu)).toBe(whole(pdu));
  });

  it('is so in every answer that has it (FE-08)', async () => {
    const answers = [
      list(await ask.missing([after.eventId], { limit: 20 }), 'events'),
      list(await ask.backfill([after.eventId], '100'), 'pdus'),
    ];
    for (const answer of answers) {
      expect(texts(answer)).toContain(redacted(byAdmin));
      expect(texts(answer)).toContain(whole(byNobody));
      expect(texts(answer)).not.toContain(whole(byAdmin));
    }
    const state = texts(list(await ask.state(after.eventId), 'pdus'));
    expect(state).toEqual(expect.arrayContaining([redacted(topic), redacted(member), whole(create)]));
    expect(texts(list(await ask.eventAuth(byOwnServer.eventId), 'auth_chain'))).toContain(redacted(member));
  });
});

describe('the history visibility', () => {
  const dave = (): string => `@dave:${resident.name}`;

  /** What is said before dave is invited, between invite and join, while he is in, and after he has left and come back. */
  async function roomOf(
    visibility: string,
  ): Promise<{ room: ImportedRoom; said: Readonly<Record<string, Pdu>> }> {
    const said: Record<string, Pdu> = {};
    const room = await importRoom(ours, {
      version: '11',
      peers: [resident],
      grow(builder, alice) {
        const say = (when: string) => (said[when] = builder.say({ sender: alice, content: { body: when } }));
        builder.say({
          sender: alice,
          type: 'm.room.history_visibility',
          stateKey: '',
          content: { history_visibility: visibility },
        });
        say('before');
        builder.member(dave(), 'invite', alice);
        say('invited');
        builder.member(dave(), 'join');
        say('joined');
        builder.member(dave(), 'leave');
        say('left');
        builder.member(dave(), 'join');
      },
    });
    return { room, said };
  }

  it.each([
    ['world_readable', ['before', 'invited', 'joined', 'left']],
    ['shared', ['before', 'invited', 'joined', 'left']],
    ['nonsense', ['before', 'invited', 'joined', 'left']],
    ['invited', ['invited', 'joined']],
    ['joined', ['joined']],
  ])(
    '%s shows a server that is in the room %j, and the redacted form of the rest',
    async (visibility, seen) => {
      const { room, said } = await roomOf(visibility);
      const ask = asking(resident, ours, room.roomId);
      const expected = Object.entries(said).map(([when, { json, roomVersion }]) =>
        stringifyJson(seen.includes(when) ? json : redact(json, roomVersion)),
      );
      const events = Object.values(said);
      const served = await Promise.all(
        events.map(async ({ eventId }) => list(await ask.event(eventId), 'pdus')),
      );
      expect(texts(served.flat())).toEqual(expected);
      const latest = room.builder.pdus.at(-1)!.eventId;
      for (const answer of [
        list(await ask.missing([latest], { limit: 20 }), 'events'),
        list(await ask.backfill([latest], '100'), 'pdus'),
      ]) {
        const messages = answer.filter(({ type }) => type === 'm.room.message');
        expect(sorted(messages)).toEqual(expected.toSorted());
      }
    },
  );
});

describe('events that did not become part of the room', () => {
  it('are served on demand where they were soft-failed, and never where they were rejected (PD-08, PD-10)', async () => {
    const [bob, carol] = [`@bob:${resident.name}`, `@carol:${resident.name}`];
    let base!: Pdu, rejected!: Pdu, softFailed!: Pdu, child!: Pdu;
    const room = await importRoom(ours, {
      version: '11',
      peers: [resident],
      grow(builder) {
        builder.member(carol, 'join');
        base = builder.member(bob, 'join');
        // Bob has no power to set one.
        const content = { topic: 'mine' };
        rejected = builder.make({ sender: bob, type: 'm.room.topic', stateKey: '', content });
        softFailed = builder.make({ sender: bob, content: { body: 'late' } });
        child = builder.make({
          sender: bob,
          content: { body: 'later' },
          changes: {
            prev_events: [softFailed.eventId, rejected.eventId],
            depth: Number(softFailed.depth) + 1,
          },
        });
      },
    });
    const ban = await room.say('m.room.member', bob, { membership: 'ban' });
    const position = await room.position();
    await putTransaction(resident, ours, 'late', {
      pdus: [rejected, softFailed, child].map(({ json }) => json),
    });
    expect((await room.since(position)).map(({ type }) => type)).toEqual([
      'PduRejected',
      'PduSoftFailed',
      'PduSoftFailed',
    ]);

    const ask = asking(resident, ours, room.roomId);
    for (const { eventId } of [softFailed, child]) expect((await ask.event(eventId)).status).toBe(200);
    for (const [endpoint, answer] of everyQuestion(ask, rejected.eventId)) {
      const { status, json, body } = await answer();
      if (status === 200) {
        expect(['backfill', 'get_missing_events']).toContain(endpoint);
        expect(body.toString()).not.toContain(stringifyJson(rejected.json));
      } else expect([endpoint, status, json]).toMatchObject([endpoint, 404, { errcode: 'M_NOT_FOUND' }]);
    }
    const missing = async (eventId: string) =>
      texts(list(await ask.missing([eventId], { limit: 20 }), 'events'));
    const backfill = async (eventId: string) => texts(list(await ask.backfill([eventId], '100'), 'pdus'));
    for (const answer of [missing, backfill]) {
      // The child that is named refers to it, so it comes, and what is behind both; the rejected one does not.
      expect(await answer(child.eventId)).toEqual(expect.arrayContaining(jsonOf([softFailed, base])));
      expect(await answer(child.eventId)).not.toContain(stringifyJson(rejected.json));
      expect(await answer(ban)).toContain(stringifyJson(base.json));
      expect(await answer(ban)).not.toContain(stringifyJson(softFailed.json));
    }
  });
});
