import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOM_EVENTS_TOPIC, type ReceivedMessage } from '@exeunt/message-bus';
import { eventIdOf } from '@exeunt/pdu';
import { roomVersion, roomVersionIds } from '@exeunt/room-version';
import { parseJson, withKeys, withoutKeys, type JsonObject } from '@exeunt/signing';
import { delivered, importRoom, pdusOf, type ImportedRoom } from '../harness/imported-room.js';
import { jsonMutations, mutated } from '../harness/json-mutations.js';
import {
  acceptInvites,
  federationUri,
  leaveRoom,
  makeKnock,
  sendKnock,
  signTemplate,
} from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { startRemoteServer, type PeerResponse, type RemoteServer } from '../harness/remote-server.js';

const knocking = roomVersionIds.filter((id) => roomVersion(id)!.knocking);
const notKnocking = roomVersionIds.filter((id) => !roomVersion(id)!.knocking);

let ours: LeaveServer;
let knocker: RemoteServer;
let observer: RemoteServer;
let kurt: string;

beforeAll(async () => {
  ours = await startLeaveServer();
  knocker = await startRemoteServer({ host: '127.0.0.2' });
  observer = await startRemoteServer({ host: '127.0.0.4' });
  acceptInvites(knocker);
  kurt = `@kurt:${knocker.name}`;
});
afterAll(async () => {
  await Promise.all([ours?.stop(), knocker?.close(), observer?.close()]);
});

/** alice of ours and olga of the observer's are joined; nobody of the knocker's is. */
function roomWith(version: string, joinRule = 'knock'): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [knocker, observer],
    grow(builder, alice) {
      const say = (type: string, content: JsonObject) =>
        builder.say({ sender: alice, type, stateKey: '', content });
      builder.member(`@olga:${observer.name}`, 'join');
      say('m.room.name', { name: 'Hall' });
      say('m.room.topic', { topic: 'doors' });
      say('m.room.join_rules', { join_rule: joinRule });
    },
  });
}

const ask = (room: ImportedRoom, userId = kurt, versions: readonly string[] = [room.version]) =>
  makeKnock(knocker, ours, room.roomId, userId, versions);

async function signedKnock(room: ImportedRoom, changes: JsonObject = {}, userId = kurt) {
  const made = await ask(room, userId);
  expect(made.status, made.body.toString()).toBe(200);
  const template = (made.json as JsonObject)['event'] as JsonObject;
  return signTemplate(knocker, room.version, template, changes);
}

/** Has knocked, and gives what the room took. */
async function knock(room: ImportedRoom, userId = kurt) {
  const signed = await signedKnock(room, {}, userId);
  const answer = await sendKnock(knocker, ours, signed);
  expect(answer.status, answer.body.toString()).toBe(200);
  return { ...signed, answer };
}

const shownIn = (answer: PeerResponse): readonly JsonObject[] =>
  (answer.json as JsonObject)['knock_room_state'] as readonly JsonObject[];

const refused = (status: number, errcode: string, rule: string): unknown[] => [
  status,
  { errcode, error: expect.any(String), rule },
];

describe.each(knocking)('a room of version %s that takes knocks', (version) => {
  it('gives a template with its version, and knows nothing of the knock yet (KN-01, ML-14)', async () => {
    const room = await roomWith(version);
    const before = await room.position();
    expect((await ask(room)).json).toMatchObject({
      room_version: version,
      event: {
        type: 'm.room.member',
        room_id: room.roomId,
        sender: kurt,
        state_key: kurt,
        content: { membership: 'knock' },
        origin: ours.name,
      },
    });
    expect(await room.position()).toBe(before);
  });

  it('takes the knock, tells its servers, and shows itself as whole PDUs (KN-02, BR-02, SL-14)', async () => {
    const room = await roomWith(version);
    const signed = await signedKnock(room, { content: { membership: 'knock', reason: 'let me in' } });
    const before = await room.position();
    const answer = await sendKnock(knocker, ours, signed);
    expect(answer.status, answer.body.toString()).toBe(200);
    expect(await room.since(before)).toMatchObject([
      { type: 'PduAccepted', event_id: signed.eventId, pdu: signed.event },
    ]);
    expect(await room.membership(kurt)).toBe('knock');
    expect(await delivered(observer, signed.event)).toEqual(signed.event);
    const types = ['m.room.create', 'm.room.join_rules', 'm.room.name', 'm.room.topic'];
    const newest = (type: string) => room.builder.pdus.findLast((pdu) => pdu.type === type)!.json;
    expect(shownIn(answer)).toEqual(types.map(newest));
  });

  it('takes the same knock again without a new fact, and answers alike (SL-15)', async () => {
    const room = await roomWith(version);
    const first = await knock(room);
    const before = await room.position();
    const again = await sendKnock(knocker, ours, first);
    expect([again.status, again.json]).toEqual([200, first.answer.json]);
    expect(await room.position()).toBe(before);
  });

  it('shows one who repeats a knock after a ban nothing of what came since', async () => {
    const room = await roomWith(version);
    const first = await knock(room);
    await room.say('m.room.member', kurt, { membership: 'ban' });
    await room.say('m.room.topic', '', { topic: 'between us' });
    const again = await sendKnock(knocker, ours, first);
    expect([again.status, shownIn(again)]).toEqual([200, shownIn(first.answer)]);
    expect(await room.membership(kurt)).toBe('ban');
  });

  it('keeps a knock whose content is not what was hashed, without that content (SL-18, SG-11)', async () => {
    const room = await roomWith(version);
    const signed = await signedKnock(room);
    const event = withKeys(signed.event, { content: { membership: 'knock', reason: 'added' } });
    expect((await sendKnock(knocker, ours, { ...signed, event })).status).toBe(200);
    expect((await ours.member(room.roomId, kurt))!['content']).toEqual({ membership: 'knock' });
  });

  it('lets the knock be taken back by the handshake of a leave (KN-03, AU-20)', async () => {
    const room = await roomWith(version);
    await knock(room);
    const leave = await leaveRoom(knocker, ours, room.roomId, kurt);
    expect(await room.membership(kurt)).toBe('leave');
    expect(await delivered(observer, leave.event)).toEqual(leave.event);
    expect((await knock(room)).answer.status).toBe(200);
  });

  it.each(['leave', 'ban'])(
    'denies it by a %s, and the knocking server is told (BR-06, AU-21)',
    async (denial) => {
      const room = await roomWith(version);
      await knock(room);
      const before = await room.position();
      await room.say('m.room.member', kurt, { membership: denial, reason: 'full' });
      const [event] = await room.since(before);
      const pdu = event!['pdu'] as JsonObject;
      expect(await delivered(knocker, pdu)).toEqual(pdu);
      expect(await delivered(observer, pdu)).toEqual(pdu);
      const after = await ask(room);
      expect(after.status).toBe(denial === 'ban' ? 403 : 200);
    },
  );

  it('answers it with an invite, which the knocking server signs (IN-13)', async () => {
    const room = await roomWith(version);
    await knock(room);
    const invited = await ours.ok('POST', room.path('/invites'), { sender: room.alice, target: kurt });
    expect(await room.membership(kurt)).toBe('invite');
    const eventId = encodeURIComponent(String(invited['event_id']));
    const { json } = await knocker.received(({ url }) => url.endsWith(`/${eventId}`));
    const types = ((json as JsonObject)['invite_room_state'] as readonly JsonObject[]).map(
      ({ type }) => type,
    );
    expect(types).toEqual([
      'm.room.create',
      'm.room.join_rules',
      'm.room.name',
      'm.room.topic',
      'm.room.member',
    ]);
    const again = await ask(room);
    expect([again.status, again.json]).toEqual(refused(403, 'M_FORBIDDEN', 'AU-24'));
  });

  it('does not take one that the auth rules refuse, and remembers by which (AU-24, SL-11)', async () => {
    const room = await roomWith(version);
    const signed = await signedKnock(room);
    await room.say('m.room.member', kurt, { membership: 'ban' });
    const before = await room.position();
    const answer = await sendKnock(knocker, ours, signed);
    expect([answer.status, answer.json]).toEqual(refused(403, 'M_FORBIDDEN', 'AU-24'));
    expect(await room.since(before)).toMatchObject([
      { type: 'PduSoftFailed', event_id: signed.eventId, rule: 'AU-24' },
    ]);
    expect(await room.membership(kurt)).toBe('ban');
  });
});

it('a knock is on the bus like any other event of the room', async () => {
  const room = await roomWith('11');
  const seen: ReceivedMessage[] = [];
  const consumption = await ours.running.platform.bus.consume({
    topic: ROOM_EVENTS_TOPIC,
    group: 'who-knocks',
    maxBatch: 100,
    handle: (batch) => Promise.resolve(void seen.push(...batch)),
  });
  const { eventId, event } = await knock(room);
  const message = await settle('the knock is on the bus', () =>
    seen.find(({ headers }) => headers['ce_subject'] === eventId),
  );
  await consumption.stop();
  expect(message.key).toBe(room.roomId);
  expect((parseJson(message.value) as JsonObject)['pdu']).toEqual(event);
});

describe.each(['public', 'invite', 'restricted', 'knock_restricted'])('the join rule %s', (joinRule) => {
  it.each(knocking)(
    'takes no knock in version %s, but for knock_restricted since 10 (AU-24)',
    async (version) => {
      const room = await roomWith(version, joinRule);
      const answer = await ask(room);
      const takes = joinRule === 'knock_restricted' && roomVersion(version)!.knockRestricted;
      if (takes) expect((await knock(room)).answer.status).toBe(200);
      else expect([answer.status, answer.json]).toEqual(refused(403, 'M_FORBIDDEN', 'AU-24'));
    },
  );
});

describe.each(notKnocking)('a room of version %s, which has no knocks', (version) => {
  it('says so to a server that knows the version, and refuses the knock itself (AU-24, KN-01)', async () => {
    const room = await roomWith(version);
    const answer = await ask(room);
    expect([answer.status, answer.json]).toEqual(refused(403, 'M_FORBIDDEN', 'AU-24'));
    const draft = room.builder.make({
      sender: `@olga:${observer.name}`,
      type: 'm.room.member',
      stateKey: `@olga:${observer.name}`,
      content: { membership: 'knock' },
    });
    const sent = await sendKnock(observer, ours, { ...draft, event: draft.json });
    expect([sent.status, sent.json]).toEqual(refused(403, 'M_FORBIDDEN', 'AU-24'));
  });
});

describe('the room versions that the asking server knows', () => {
  let room: ImportedRoom;
  beforeAll(async () => {
    room = await roomWith('10');
  });
  const incompatible = [
    400,
    {
      errcode: 'M_INCOMPATIBLE_ROOM_VERSION',
      error: expect.any(String),
      rule: 'KN-01',
      room_version: '10',
    },
  ];
  const missing = refused(400, 'M_MISSING_PARAM', 'KN-01');
  const given = [200, expect.objectContaining({ room_version: '10' })];

  it.each([
    ['', missing],
    ['?', missing],
    ['?ver', missing],
    ['?ver=', missing],
    ['?ver=,', missing],
    ['?version=10', missing],
    ['?VER=10', missing],
    ['?ver=10', given],
    ['?ver=1&ver=10&ver=12', given],
    ['?ver=1,7,10', given],
    ['?ver=9&other=x&ver=10', given],
    ['?ver=%31%30', given],
    ['?ver=9', incompatible],
    ['?ver=1&ver=1', incompatible],
    ['?ver=10.0', incompatible],
    ['?ver=%2010', incompatible],
    ['?ver=__proto__', incompatible],
    [`?${'ver=9&'.repeat(1000)}ver=10`, given],
  ])('%j', async (query, expected) => {
    const answer = await knocker.request({
      method: 'GET',
      uri: `${federationUri('v1/make_knock', room.roomId, kurt)}${query}`,
      destination: ours.name,
      baseUrl: ours.federationUrl,
    });
    expect([answer.status, answer.json]).toEqual(expected);
  });
});

describe('a template for a knock is asked for', () => {
  const wrongs = ['method', 'auth', 'path', 'ver', 'room', 'acl', 'user', 'version', 'membership'] as const;
  type Wrong = (typeof wrongs)[number];
  const told: Record<Wrong, readonly [status: number, errcode: string, rule: string]> = {
    method: [405, 'M_UNRECOGNIZED', 'HT-03'],
    auth: [401, 'M_UNAUTHORIZED', 'RA-02'],
    path: [400, 'M_INVALID_PARAM', 'ID-05'],
    ver: [400, 'M_MISSING_PARAM', 'KN-01'],
    room: [404, 'M_NOT_FOUND', 'ML-16'],
    acl: [403, 'M_FORBIDDEN', 'AC-05'],
    user: [403, 'M_FORBIDDEN', 'ML-02'],
    version: [400, 'M_INCOMPATIBLE_ROOM_VERSION', 'KN-01'],
    membership: [403, 'M_FORBIDDEN', 'AU-24'],
  };
  const rooms = new Map<string, ImportedRoom>();

  beforeAll(async () => {
    for (const isAbandoned of [false, true]) {
      for (const isDenied of [false, true]) {
        const room = await roomWith('11');
        await room.say('m.room.member', `@banned:${knocker.name}`, { membership: 'ban' });
        await room.say('m.room.member', `@banned:${observer.name}`, { membership: 'ban' });
        if (isDenied) await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
        if (isAbandoned) await room.say('m.room.member', room.alice, { membership: 'leave' });
        rooms.set(`${isAbandoned} ${isDenied}`, room);
      }
    }
  });

  const pairs = wrongs.flatMap((earlier, at) => wrongs.slice(at).map((one) => [earlier, one] as const));
  it.each(pairs)('a wrong %s goes before a wrong %s (KN-01)', async (...pair) => {
    const wrong = new Set<Wrong>(pair);
    const room = rooms.get(`${wrong.has('room')} ${wrong.has('acl')}`)!;
    const server = wrong.has('user') ? observer.name : knocker.name;
    const user = wrong.has('path') ? 'kurt' : `@${wrong.has('membership') ? 'banned' : 'kurt'}:${server}`;
    const query = wrong.has('ver') ? '' : `?ver=${wrong.has('version') ? '10' : '11'}`;
    const before = await room.position();
    const answer = await knocker.request({
      method: wrong.has('method') ? 'POST' : 'GET',
      uri: `${federationUri('v1/make_knock', room.roomId, user)}${query}`,
      destination: ours.name,
      baseUrl: ours.federationUrl,
      overrides: wrong.has('auth') ? { key: observer.key } : {},
    });
    const [status, errcode, rule] = told[pair[0]];
    expect([answer.status, answer.json]).toMatchObject([status, { errcode, rule }]);
    expect(await room.position()).toBe(before);
  });
});

describe('at the same time', () => {
  it('two knocks of one user off one template are both taken, and the user knocks once', async () => {
    const room = await roomWith('11');
    const template = ((await ask(room)).json as JsonObject)['event'] as JsonObject;
    const knocks = ['one', 'two'].map((reason) =>
      signTemplate(knocker, '11', template, { content: { membership: 'knock', reason } }),
    );
    const answers = await Promise.all(knocks.map((one) => sendKnock(knocker, ours, one)));
    expect(answers.map(({ status }) => status)).toEqual([200, 200]);
    const { members } = await ours.ok('GET', room.path());
    expect(members).toMatchObject({ knock: 1 });
    for (const { event } of knocks) expect(await delivered(observer, event)).toEqual(event);
  });

  it('the same knock ten times is one knock', async () => {
    const room = await roomWith('11');
    const signed = await signedKnock(room);
    const before = await room.position();
    const answers = await Promise.all(Array.from({ length: 10 }, () => sendKnock(knocker, ours, signed)));
    expect(new Set(answers.map((answer) => answer.body.toString())).size).toBe(1);
    expect(await room.since(before)).toHaveLength(1);
    const sent = (): number =>
      observer.requests.flatMap(pdusOf).filter((pdu) => eventIdOf(pdu, roomVersion('11')!) === signed.eventId)
        .length;
    await delivered(observer, signed.event);
    expect(sent()).toBe(1);
  });

  it('knocks of many users are all taken, and every one is counted', async () => {
    const room = await roomWith('11');
    const users = Array.from({ length: 20 }, (_, at) => `@kurt${at}:${knocker.name}`);
    const knocks = await Promise.all(users.map((userId) => signedKnock(room, {}, userId)));
    const answers = await Promise.all(knocks.map((one) => sendKnock(knocker, ours, one)));
    expect(answers.map(({ status }) => status)).toEqual(users.map(() => 200));
    expect(await ours.ok('GET', room.path())).toMatchObject({ members: { knock: 20 } });
  });

  it('a knock and the ban of its user end in the ban, whichever was first', async () => {
    const room = await roomWith('11');
    const signed = await signedKnock(room);
    const [answer] = await Promise.all([
      sendKnock(knocker, ours, signed),
      room.say('m.room.member', kurt, { membership: 'ban' }),
    ]);
    expect([200, 403]).toContain(answer.status);
    expect(await room.membership(kurt)).toBe('ban');
  });
});

describe('whatever is changed in a valid knock', () => {
  it('the answer is no fault of ours, and the log holds what the answer says (HT-04, SL-14)', async () => {
    const attempts = fc.record({
      version: fc.constantFrom(...knocking),
      mutations: fc.array(jsonMutations, { minLength: 1, maxLength: 3 }),
      isSignedAfter: fc.boolean(),
    });
    const rooms = new Map<string, ImportedRoom>();
    let users = 0;
    await fc.assert(
      fc.asyncProperty(attempts, async ({ version, mutations, isSignedAfter }) => {
        const room = rooms.get(version) ?? (await roomWith(version));
        rooms.set(version, room);
        const good = await signedKnock(room, {}, `@kurt${users++}:${knocker.name}`);
        let event = mutated(
          isSignedAfter ? withoutKeys(good.event, 'hashes', 'signatures') : good.event,
          mutations,
        );
        let { eventId } = good;
        try {
          if (isSignedAfter) event = knocker.signPdu(event, version);
          eventId = eventIdOf(event, roomVersion(version)!);
        } catch {
          // Nobody could sign it: it goes as it is, under the ID that it had.
        }
        const before = await room.position();
        const answer = await sendKnock(knocker, ours, { ...good, eventId, event });
        const added = await room.since(before);
        expect([200, 400, 403, 413]).toContain(answer.status);
        if (answer.status === 200) expect(added).toMatchObject([{ type: 'PduAccepted', event_id: eventId }]);
        else if (answer.status !== 403) expect(added).toEqual([]);
        if (answer.status !== 200) {
          expect(answer.json).toMatchObject({ errcode: expect.any(String), error: expect.any(String) });
        }
      }),
      { numRuns: 100 },
    );
  });
});

it('knocks are counted, and a no under its rule', async () => {
  const counted = async (labels: string): Promise<number> => {
    const text = await (await fetch(`${ours.platformUrl}/metrics`)).text();
    const line = text.split('\n').find((one) => one.startsWith(labels));
    return Number(line?.slice(labels.length + 1) ?? 0);
  };
  const accepted = 'exeunt_knocks_total{outcome="accepted",rule=""}';
  const refusals = 'exeunt_knock_templates_total{outcome="refused",rule="AU-24"}';
  const before = [await counted(accepted), await counted(refusals)];
  await knock(await roomWith('11'));
  await ask(await roomWith('11', 'invite'));
  expect([await counted(accepted), await counted(refusals)]).toEqual(before.map((count) => count + 1));
});
