import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventIdOf, signPdu } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { JsonNumber, withKeys, withoutKeys, type JsonObject, type SigningKey } from '@exeunt/signing';
import { delivered, importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { federationUri, makeKnock, makeLeave, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { startRemoteServer, type PeerResponse, type RemoteServer } from '../harness/remote-server.js';

/** Row of the order of checks → what its failure is answered with. (requirements.md, section 8) */
const answers = {
  1: { status: 405, errcode: 'M_UNRECOGNIZED', rule: 'HT-03' },
  2: { status: 400, errcode: 'M_NOT_JSON', rule: 'HT-04' },
  3: { status: 401, errcode: 'M_UNAUTHORIZED', rule: 'RA-02' },
  4: { status: 400, errcode: 'M_INVALID_PARAM', rule: 'ID-09' },
  5: { status: 404, errcode: 'M_NOT_FOUND', rule: 'ML-16' },
  6: { status: 403, errcode: 'M_FORBIDDEN', rule: 'AC-05' },
  7: { status: 400, errcode: 'M_BAD_JSON', rule: 'CJ-05' },
  8: { status: 400, errcode: 'M_BAD_JSON', rule: 'EV-06' },
  9: { status: 400, errcode: 'M_INVALID_PARAM', rule: 'SL-03' },
  10: { status: 400, errcode: 'M_INVALID_PARAM', rule: 'SL-07' },
  11: { status: 400, errcode: 'M_INVALID_PARAM', rule: 'PD-02' },
} as const;
type Row = keyof typeof answers;
const rows = Object.keys(answers).map(Number) as Row[];

/** Of `send_leave`. */
const endpoints = ['v1', 'v2'] as const;
const paths = { v1: 'v1/send_leave', v2: 'v2/send_leave', knock: 'v1/send_knock' } as const;
type Put = keyof typeof paths;

interface Told {
  readonly status: number;
  readonly errcode: string;
  readonly rule: string;
}

/** `send_knock` is held to what `send_leave` is, by a requirement of its own. (KN-02) */
const answerTo = (put: Put, row: Row): Told =>
  put === 'knock' && (row === 9 || row === 10) ? { ...answers[row], rule: 'KN-02' } : answers[row];

let ours: LeaveServer;
let leaver: RemoteServer;
let stranger: RemoteServer;
let observer: RemoteServer;
let wrongKey: SigningKey;

beforeAll(async () => {
  ours = await startLeaveServer();
  leaver = await startRemoteServer({ host: '127.0.0.2' });
  stranger = await startRemoteServer({ host: '127.0.0.3' });
  observer = await startRemoteServer({ host: '127.0.0.4' });
  wrongKey = { keyId: leaver.key.keyId, seed: randomBytes(32) };
});
afterAll(async () => {
  await Promise.all([ours?.stop(), leaver?.close(), stranger?.close(), observer?.close()]);
});

const bobOf = (peer: RemoteServer): string => `@bob:${peer.name}`;

/** alice of ours and a user of the observer's are joined, bob is invited. */
function invitedRoom(
  version: string,
  grow?: Parameters<typeof importRoom>[1]['grow'],
): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [leaver, observer],
    grow(builder, alice) {
      builder.member(`@olga:${observer.name}`, 'join');
      grow?.(builder, alice);
      builder.member(bobOf(leaver), 'invite', alice);
    },
  });
}

/** alice of ours and a user of the observer's are joined; whoever is not may knock. */
function knockableRoom(version: string): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [leaver, observer],
    grow(builder, alice) {
      builder.member(`@olga:${observer.name}`, 'join');
      const content = { join_rule: 'knock' };
      builder.say({ sender: alice, type: 'm.room.join_rules', stateKey: '', content });
    },
  });
}

async function knockTemplateOf(room: ImportedRoom): Promise<JsonObject> {
  const made = await makeKnock(leaver, ours, room.roomId, bobOf(leaver), [room.version]);
  expect(made.status).toBe(200);
  return (made.json as JsonObject)['event'] as JsonObject;
}

async function templateOf(room: ImportedRoom): Promise<JsonObject> {
  const made = await makeLeave(leaver, ours, room.roomId, bobOf(leaver));
  expect(made.status).toBe(200);
  return (made.json as JsonObject)['event'] as JsonObject;
}

async function deny(room: ImportedRoom): Promise<void> {
  await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
}

async function abandon(room: ImportedRoom): Promise<void> {
  await room.say('m.room.member', room.alice, { membership: 'leave' });
}

function expectRefusal(answer: PeerResponse, { status, errcode, rule }: Told): void {
  expect([answer.status, answer.json]).toEqual([status, { errcode, error: expect.any(String), rule }]);
}

describe.each(['1', '5', '6', '11', '12'])('in a room of version %s', (version) => {
  const rules = roomVersion(version)!;
  const applies = (row: Row): boolean => row !== 7 || rules.strictCanonicalJson;
  const puts: readonly Put[] = rules.knocking ? ['v1', 'v2', 'knock'] : endpoints;
  /** By whether they are for knocks, and what is the case with them: `abandoned`, `denied`. */
  const rooms = new Map<string, { readonly room: ImportedRoom; readonly template: JsonObject }>();

  beforeAll(async () => {
    for (const isAbandoned of [false, true]) {
      for (const isDenied of [false, true]) {
        for (const isForKnocks of rules.knocking ? [false, true] : [false]) {
          const room = await (isForKnocks ? knockableRoom : invitedRoom)(version);
          const template = await (isForKnocks ? knockTemplateOf : templateOf)(room);
          if (isDenied) await deny(room);
          if (isAbandoned) await abandon(room);
          rooms.set(`${isForKnocks} ${isAbandoned} ${isDenied}`, { room, template });
        }
      }
    }
  });

  /** A request that is wrong in every one of the rows, and in nothing else. */
  async function violate(
    put: Put,
    wrong: ReadonlySet<Row>,
  ): Promise<{ readonly answer: PeerResponse; readonly room: ImportedRoom; readonly moved: number }> {
    const { room, template } = rooms.get(`${put === 'knock'} ${wrong.has(5)} ${wrong.has(6)}`)!;
    const draft = withKeys(withoutKeys(template, 'origin', ...(wrong.has(8) ? ['depth'] : [])), {
      ...(rules.eventIdFormat === 'opaque-in-pdu'
        ? { event_id: `$${randomBytes(9).toString('base64url')}:${leaver.name}` }
        : {}),
      ...(wrong.has(7) ? { 'org.example.float': new JsonNumber('1.0') } : {}),
      ...(wrong.has(9) ? { content: { membership: 'join' } } : {}),
    });
    const event = signPdu(draft, rules, leaver.name, wrong.has(11) ? wrongKey : leaver.key);
    const another = signPdu(
      withKeys(draft, { origin_server_ts: 1, event_id: `$x:${leaver.name}` }),
      rules,
      leaver.name,
      leaver.key,
    );
    const eventId = wrong.has(4) ? 'no-event-id' : eventIdOf(wrong.has(10) ? another : event, rules);
    const before = await room.position();
    const answer = await leaver.request({
      method: wrong.has(1) ? 'POST' : 'PUT',
      uri: federationUri(paths[put], room.roomId, eventId),
      destination: ours.name,
      baseUrl: ours.federationUrl,
      body: event,
      overrides: {
        ...(wrong.has(2) ? { rawBody: '{"type":' } : {}),
        ...(wrong.has(3) ? { key: wrongKey } : {}),
      },
    });
    return { answer, room, moved: (await room.position()) - before };
  }

  const single = rows.filter(applies);
  it.each(puts.flatMap((put) => single.map((row) => [put, row] as const)))(
    '%s: row %s alone is told as its own error, and the log stays as it was',
    async (put, row) => {
      const { answer, moved } = await violate(put, new Set([row]));
      expectRefusal(answer, answerTo(put, row));
      expect(moved).toBe(0);
    },
  );

  const pairs = single.flatMap((earlier) =>
    single.filter((one) => one > earlier).map((one) => [earlier, one] as const),
  );
  it.each(puts.flatMap((put) => pairs.map((pair) => [put, ...pair] as const)))(
    '%s: row %s goes before row %s, and the log stays as it was',
    async (put, earlier, one) => {
      const { answer, moved } = await violate(put, new Set([earlier, one]));
      expectRefusal(answer, answerTo(put, earlier));
      expect(moved).toBe(0);
    },
  );

  it.each(puts)('%s: everything wrong at once is told as a wrong method', async (put) => {
    expectRefusal((await violate(put, new Set(single))).answer, answerTo(put, 1));
  });

  describe.each(endpoints)('by %s', (endpoint) => {
    const good = endpoint === 'v1' ? [200, {}] : {};

    /** An event that its own auth events refuse: join rules are no auth event of a leave. (TOP-02, AE-02) */
    function withJoinRules(room: ImportedRoom, template: JsonObject): JsonObject {
      const joinRules = room.builder.pdus.find(({ type }) => type === 'm.room.join_rules')!;
      const reference = rules.referencesArePairs
        ? [joinRules.eventId, { sha256: 'A'.repeat(43) }]
        : joinRules.eventId;
      return { auth_events: [...(template['auth_events'] as readonly string[]), reference] };
    }

    it('a bad signature (11) goes before a wrong content hash (12) and the auth rules (14) (GX-12, PD-02)', async () => {
      const room = await invitedRoom(version);
      const template = await templateOf(room);
      const leave = signTemplate(leaver, version, template, withJoinRules(room, template));
      const event = withKeys(leave.event, {
        content: { membership: 'leave', reason: 'not what was hashed' },
        signatures: { [leaver.name]: { [leaver.key.keyId]: 'a'.repeat(86) } },
      });
      const before = await room.position();
      const answer = await sendLeave(leaver, ours, { ...leave, event }, endpoint);
      expectRefusal(answer, answers[11]);
      expect(await room.position()).toBe(before);
    });

    it('a wrong content hash (12) refuses nothing: a known leave is known by what it is without its content (13) (SL-15, SL-18)', async () => {
      const room = await invitedRoom(version);
      const leave = signTemplate(leaver, version, await templateOf(room));
      expect((await sendLeave(leaver, ours, leave, endpoint)).status).toBe(200);
      const before = await room.position();
      const event = withKeys(leave.event, { content: { membership: 'leave', reason: 'added later' } });
      const answer = await sendLeave(leaver, ours, { ...leave, event }, endpoint);
      expect([answer.status, answer.json]).toEqual([200, good]);
      expect(await room.position()).toBe(before);
    });

    it('a leave accepted before (13) goes before the auth rules (14) and the current state (15) (SL-15)', async () => {
      const room = await invitedRoom(version);
      const leave = signTemplate(leaver, version, await templateOf(room));
      expect((await sendLeave(leaver, ours, leave, endpoint)).status).toBe(200);
      await room.say('m.room.member', bobOf(leaver), { membership: 'ban' });
      const before = await room.position();
      const again = await sendLeave(leaver, ours, leave, endpoint);
      expect([again.status, again.json]).toEqual([200, good]);
      expect(await room.position()).toBe(before);
      expect(await room.membership(bobOf(leaver))).toBe('ban');
    });

    it('the auth rules (14) go before the current state (15): rejected, with the rule in the log (SL-11, PD-04, AE-02)', async () => {
      const room = await invitedRoom(version);
      const template = await templateOf(room);
      const leave = signTemplate(leaver, version, template, withJoinRules(room, template));
      await room.say('m.room.member', bobOf(leaver), { membership: 'ban' });
      const before = await room.position();
      const answer = await sendLeave(leaver, ours, leave, endpoint);
      expect([answer.status, answer.json]).toEqual([
        403,
        { errcode: 'M_FORBIDDEN', error: expect.any(String), rule: 'AE-02' },
      ]);
      expect(await room.since(before)).toEqual([
        expect.objectContaining({
          position: before + 1,
          type: 'PduRejected',
          event_id: leave.eventId,
          rule: 'AE-02',
          pdu: leave.event,
        }),
      ]);
      const again = await sendLeave(leaver, ours, leave, endpoint);
      expect([again.status, again.json]).toEqual([answer.status, answer.json]);
      expect(await room.position()).toBe(before + 1);
    });

    it('what the state before refuses (14) is rejected with its rule: no prev_events, no state before (SL-13)', async () => {
      const room = await invitedRoom(version);
      const leave = signTemplate(leaver, version, await templateOf(room), { prev_events: [] });
      const before = await room.position();
      const answer = await sendLeave(leaver, ours, leave, endpoint);
      expect([answer.status, answer.json]).toMatchObject([403, { errcode: 'M_FORBIDDEN', rule: 'SL-13' }]);
      expect(await room.since(before)).toMatchObject([{ type: 'PduRejected', rule: 'SL-13' }]);
    });

    it('what the current state refuses (15) is soft-failed with its rule, and the room stays as it was (SL-12, PD-06, PD-11)', async () => {
      const room = await invitedRoom(version);
      const leave = signTemplate(leaver, version, await templateOf(room));
      await room.say('m.room.member', bobOf(leaver), { membership: 'ban' });
      const { forward_extremities: extremities, position } = await ours.ok('GET', room.path());
      const answer = await sendLeave(leaver, ours, leave, endpoint);
      expect([answer.status, answer.json]).toEqual([
        403,
        { errcode: 'M_FORBIDDEN', error: expect.any(String), rule: 'AU-20' },
      ]);
      expect(await room.since(Number(position))).toEqual([
        expect.objectContaining({ type: 'PduSoftFailed', event_id: leave.eventId, rule: 'AU-20' }),
      ]);
      expect(await ours.ok('GET', room.path())).toMatchObject({ forward_extremities: extremities });
      expect(await room.membership(bobOf(leaver))).toBe('ban');
    });

    it('a wrong content hash (12) does not save from the auth rules (14)', async () => {
      const room = await invitedRoom(version);
      const template = await templateOf(room);
      const leave = signTemplate(leaver, version, template, withJoinRules(room, template));
      const event = withKeys(leave.event, { content: { membership: 'leave', reason: 'not hashed' } });
      const before = await room.position();
      expect(await sendLeave(leaver, ours, { ...leave, event }, endpoint)).toMatchObject({
        status: 403,
        json: { rule: 'AE-02' },
      });
      expect(await room.since(before)).toMatchObject([
        { type: 'PduRejected', pdu: { content: { membership: 'leave' } } },
      ]);
    });

    it('with nothing wrong it is stored and handed to the sender before the answer (16) (SL-14)', async () => {
      const room = await invitedRoom(version);
      const leave = signTemplate(leaver, version, await templateOf(room), {
        content: { membership: 'leave', reason: 'enough' },
      });
      const before = await room.position();
      const answer = await sendLeave(leaver, ours, leave, endpoint);
      expect([answer.status, answer.json]).toEqual([200, good]);
      expect(await room.since(before)).toMatchObject([
        { type: 'PduAccepted', event_id: leave.eventId, place: 'graph', pdu: leave.event },
      ]);
      expect(await delivered(observer, leave.event)).toEqual(leave.event);
    });

    it('a genuine leave handed in by another server (9) is not taken, nor told as known (13) (GX-12, SL-03)', async () => {
      const room = await invitedRoom(version);
      const leave = signTemplate(leaver, version, await templateOf(room));
      const foreign = await sendLeave(stranger, ours, leave, endpoint);
      expectRefusal(foreign, answers[9]);
      expect((await sendLeave(leaver, ours, leave, endpoint)).status).toBe(200);
      const before = await room.position();
      expectRefusal(await sendLeave(stranger, ours, leave, endpoint), answers[9]);
      expect(await room.position()).toBe(before);
    });
  });
});

describe('a template is asked for', () => {
  const wrongs = ['method', 'auth', 'path', 'room', 'acl', 'user', 'membership'] as const;
  type Wrong = (typeof wrongs)[number];
  const told: Record<Wrong, Told> = {
    method: answers[1],
    auth: answers[3],
    path: { status: 400, errcode: 'M_INVALID_PARAM', rule: 'ID-05' },
    room: answers[5],
    acl: answers[6],
    user: { status: 403, errcode: 'M_FORBIDDEN', rule: 'ML-02' },
    membership: { status: 403, errcode: 'M_FORBIDDEN', rule: 'AU-20' },
  };
  const rooms = new Map<string, ImportedRoom>();

  beforeAll(async () => {
    for (const isAbandoned of [false, true]) {
      for (const isDenied of [false, true]) {
        const room = await invitedRoom('11');
        if (isDenied) await deny(room);
        if (isAbandoned) await abandon(room);
        rooms.set(`${isAbandoned} ${isDenied}`, room);
      }
    }
  });

  const pairs = wrongs.flatMap((earlier, at) => wrongs.slice(at).map((one) => [earlier, one] as const));
  it.each(pairs)(
    'a wrong %s goes before a wrong %s (ML-01 to ML-05, ML-14, ML-16, ML-17)',
    async (...pair) => {
      const wrong = new Set<Wrong>(pair);
      const room = rooms.get(`${wrong.has('room')} ${wrong.has('acl')}`)!;
      const user = wrong.has('path')
        ? 'bob'
        : `@${wrong.has('membership') ? 'nobody' : 'bob'}:${wrong.has('user') ? stranger.name : leaver.name}`;
      const before = await room.position();
      const answer = await leaver.request({
        method: wrong.has('method') ? 'POST' : 'GET',
        uri: federationUri('v1/make_leave', room.roomId, user),
        destination: ours.name,
        baseUrl: ours.federationUrl,
        overrides: wrong.has('auth') ? { key: wrongKey } : {},
      });
      const { status, errcode, rule } = told[pair[0]];
      expect([answer.status, answer.json]).toEqual([status, { errcode, error: expect.any(String), rule }]);
      expect(await room.position()).toBe(before);
    },
  );
});

describe('a question about the past', () => {
  /** What can be wrong, in the order in which it is told. */
  const told = [
    ['an unknown method', [405, 'M_UNRECOGNIZED', 'HT-03']],
    ['a signature by another key', [401, 'M_UNAUTHORIZED', 'RA-02']],
    ['a bad room ID', [400, 'M_INVALID_PARAM', 'ID-07']],
    ['a bad event ID', [400, 'M_INVALID_PARAM', 'ID-09']],
    ['an unknown room', [404, 'M_NOT_FOUND', 'ML-16']],
    ['a server that is not in the room', [403, 'M_FORBIDDEN', 'FE-05']],
    ['a server that is denied', [403, 'M_FORBIDDEN', 'AC-05']],
    ['an unknown event', [404, 'M_NOT_FOUND', 'FE-05']],
  ] as const;
  type Wrong = (typeof told)[number][0];
  const questions = {
    state: (roomId: string, eventId: string) =>
      `${federationUri('v1/state', roomId)}?event_id=${encodeURIComponent(eventId)}`,
    state_ids: (roomId: string, eventId: string) =>
      `${federationUri('v1/state_ids', roomId)}?event_id=${encodeURIComponent(eventId)}`,
    event_auth: (roomId: string, eventId: string) => federationUri('v1/event_auth', roomId, eventId),
    backfill: (roomId: string, eventId: string) =>
      `${federationUri('v1/backfill', roomId)}?limit=1&v=${encodeURIComponent(eventId)}`,
  };
  type Question = keyof typeof questions;
  const pairs = told.flatMap(([one], at) => told.slice(at).map(([other]) => [one, other] as const));
  const rooms = new Map<boolean, ImportedRoom>();

  beforeAll(async () => {
    for (const isDenied of [false, true]) {
      const room = await importRoom(ours, {
        version: '11',
        peers: [leaver],
        grow: (builder) => void builder.member(bobOf(leaver), 'join'),
      });
      if (isDenied) await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.*'] });
      rooms.set(isDenied, room);
    }
  });

  function ask(question: Question, wrong: ReadonlySet<Wrong>): Promise<PeerResponse> {
    const room = rooms.get(wrong.has('a server that is denied'))!;
    const roomId = wrong.has('a bad room ID')
      ? 'room'
      : wrong.has('an unknown room')
        ? `!unknown:${ours.name}`
        : room.roomId;
    const eventId = wrong.has('a bad event ID')
      ? 'event'
      : wrong.has('an unknown event')
        ? `$${'a'.repeat(43)}`
        : room.builder.pdus.at(-1)!.eventId;
    const peer = wrong.has('a server that is not in the room') ? stranger : leaver;
    const method = wrong.has('an unknown method') ? 'PUT' : 'GET';
    return peer.request({
      method,
      uri: questions[question](roomId, eventId),
      destination: ours.name,
      baseUrl: ours.federationUrl,
      ...(method === 'PUT' ? { body: {} } : {}),
      ...(wrong.has('a signature by another key')
        ? { overrides: { key: { keyId: peer.key.keyId, seed: wrongKey.seed } } }
        : {}),
    });
  }

  it.each(Object.keys(questions) as Question[])('%s is answered where nothing is wrong', async (question) => {
    expect((await ask(question, new Set())).status).toBe(200);
  });

  it.each(
    (Object.keys(questions) as Question[]).flatMap((question) =>
      pairs
        // Backfill gives what there is of the events that are named.
        .filter(([one]) => question !== 'backfill' || one !== 'an unknown event')
        .map((pair) => [question, ...pair] as const),
    ),
  )('%s: %s goes before %s (FE-04, FE-05, FE-06)', async (question, one, other) => {
    const answer = await ask(question, new Set([one, other]));
    const [status, errcode, rule] = told.find(([wrong]) => wrong === one)![1];
    expect([answer.status, answer.json]).toEqual([status, { errcode, error: expect.any(String), rule }]);
  });
});
