import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseServerName } from '@exeunt/pdu';
import { signJson, withKeys, type JsonObject } from '@exeunt/signing';
import { asking, everyQuestion } from '../harness/asking-history.js';
import { citing } from '../harness/citing.js';
import { delivered, importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { makeKnock, makeLeave, sendKnock, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { respond, startRemoteServer, type RemoteServer } from '../harness/remote-server.js';

let ours: LeaveServer;
/** By its address. */
let leaver: RemoteServer;
/** By a name with capitals, which resolves to loopback. */
let named: RemoteServer;
let observer: RemoteServer;

beforeAll(async () => {
  ours = await startLeaveServer();
  leaver = await startRemoteServer({ host: '127.0.0.2' });
  named = underName(await startRemoteServer({ host: '127.0.0.1' }), 'LocalHost');
  observer = await startRemoteServer({ host: '127.0.0.4' });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), leaver?.close(), named?.close(), observer?.close()]);
});

/** The peer under another host name, with the port it listens on. */
function underName(peer: RemoteServer, host: string): RemoteServer {
  const name = parseServerName(`${host}:${peer.port}`)!;
  const keyResponse = (additions: JsonObject = {}): JsonObject =>
    signJson(
      withKeys(peer.keyResponse({ server_name: name, ...additions }), { signatures: {} }),
      name,
      peer.key,
    );
  peer.keys = (_, response) => respond(response, 200, keyResponse());
  return {
    ...peer,
    name,
    keyResponse,
    request: (asked) => peer.request({ ...asked, overrides: { origin: name, ...asked.overrides } }),
  };
}

/** alice of ours, a user of the observer's and one of every peer are joined. */
function roomOf(version: string, ...peers: readonly RemoteServer[]): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [...peers, observer],
    grow(builder) {
      builder.member(`@olga:${observer.name}`, 'join');
      for (const peer of peers) builder.member(`@bob:${peer.name}`, 'join');
    },
  });
}

const ask = (peer: RemoteServer, room: ImportedRoom) =>
  makeLeave(peer, ours, room.roomId, `@bob:${peer.name}`);
const denied = [403, { errcode: 'M_FORBIDDEN', error: expect.any(String), rule: 'AC-05' }];

describe.each(['1', '6', '11', '12'])('a server that an ACL bans from a room of version %s', (version) => {
  it('was given templates before, and is given none after (AC-05, ML-03)', async () => {
    const room = await roomOf(version, leaver);
    expect((await ask(leaver, room)).status).toBe(200);
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
    const before = await room.position();
    const answer = await ask(leaver, room);
    expect([answer.status, answer.json]).toEqual(denied);
    expect(await room.position()).toBe(before);
  });

  it.each(['v1', 'v2'] as const)(
    'cannot hand in a leave by %s either, and its user stays until kicked (AC-05, AC-08, SL-05)',
    async (endpoint) => {
      const room = await roomOf(version, leaver);
      const bob = `@bob:${leaver.name}`;
      const template = (await ask(leaver, room)).json as JsonObject;
      const leave = signTemplate(leaver, version, template['event'] as JsonObject);
      await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
      const before = await room.position();
      const answer = await sendLeave(leaver, ours, leave, endpoint);
      expect([answer.status, answer.json]).toEqual(denied);
      expect(await room.position()).toBe(before);
      expect(await room.membership(bob)).toBe('join');
      await room.say('m.room.member', bob, { membership: 'leave', reason: 'your server is banned' });
      expect(await room.membership(bob)).toBe('leave');
    },
  );

  it('had answers about the past before, and has none after, but for GET event (AC-05, FE-02)', async () => {
    const room = await roomOf(version, leaver);
    const about = room.builder.pdus.at(-1)!.eventId;
    const questions = everyQuestion(asking(leaver, ours, room.roomId), about);
    expect(questions).toHaveLength(6);
    for (const [endpoint, answer] of questions) {
      expect([endpoint, (await answer()).status]).toEqual([endpoint, 200]);
    }
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
    for (const [endpoint, answer] of questions) {
      const { status, json } = await answer();
      expect([endpoint, status, json]).toEqual(
        endpoint === 'event' ? [endpoint, 200, expect.anything()] : [endpoint, ...denied],
      );
    }
  });

  it('still gets what happens in the room while it is resident (BR-03)', async () => {
    const room = await roomOf(version, leaver);
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
    const before = await room.position();
    await room.say('m.room.topic', '', { topic: 'after the ban' });
    const [topic] = await room.since(before);
    const pdu = topic!['pdu'] as JsonObject;
    expect(await delivered(leaver, pdu)).toEqual(pdu);
    expect(await delivered(observer, pdu)).toEqual(pdu);
  });

  it('is let in again when the ACL says so', async () => {
    const room = await roomOf(version, leaver);
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
    expect((await ask(leaver, room)).status).toBe(403);
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: [] });
    expect((await ask(leaver, room)).status).toBe(200);
  });
});

describe.each(['7', '11', '12'])(
  'a server that an ACL bans from a room of version %s where one may knock',
  (version) => {
    it('gets no template for a knock, and hands none in (AC-05, KN-01, KN-02)', async () => {
      const room = await roomOf(version);
      await room.say('m.room.join_rules', '', { join_rule: 'knock' });
      const kurt = `@kurt:${leaver.name}`;
      const made = await makeKnock(leaver, ours, room.roomId, kurt, [version]);
      const knock = signTemplate(leaver, version, (made.json as JsonObject)['event'] as JsonObject);
      await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
      const before = await room.position();
      for (const answer of [
        await makeKnock(leaver, ours, room.roomId, kurt, [version]),
        await sendKnock(leaver, ours, knock),
      ]) {
        expect([answer.status, answer.json]).toEqual(denied);
      }
      expect(await room.position()).toBe(before);
    });
  },
);

describe('an ACL', () => {
  const allowed = 200;
  const banned = 403;

  it.each(
    citing<[string, JsonObject, string, number]>(2, [
      ['that allows all', { allow: ['*'] }, 'AC-01', allowed],
      ['that is empty', {}, 'AC-02', banned],
      ['with an empty list of allowed', { allow: [] }, 'AC-02', banned],
      ['that names the address as denied', { allow: ['*'], deny: ['127.0.0.2'] }, 'AC-01', banned],
      ['that allows another address', { allow: ['127.0.0.3'] }, 'AC-01', banned],
      ['that allows and denies', { allow: ['127.0.0.2'], deny: ['127.0.0.2'] }, 'AC-01', banned],
      ['with * in the middle', { allow: ['*'], deny: ['127.*.2'] }, 'AC-04', banned],
      ['with ? for one character', { allow: ['*'], deny: ['127.0.0.?'] }, 'AC-04', banned],
      ['with ? for none', { allow: ['*'], deny: ['127.0.0.2?'] }, 'AC-04', allowed],
      ['of a part of the name', { allow: ['*'], deny: ['127.0.0'] }, 'AC-04', allowed],
      [
        'with a dot that is any character to a regex',
        { allow: ['*'], deny: ['127x0.0.2'] },
        'AC-04',
        allowed,
      ],
      [
        'with what is special to a regex',
        { allow: ['*'], deny: ['127.0.0.[2]', '(.*)', '127.0.0.\\d'] },
        'AC-04',
        allowed,
      ],
      ['without IP literals', { allow: ['*'], allow_ip_literals: false }, 'AC-01', banned],
      [
        'with another than a boolean for IP literals',
        { allow: ['*'], allow_ip_literals: 'false' },
        'AC-02',
        allowed,
      ],
      ['with entries that are no strings', { allow: [1, null, '*'], deny: [{}, 127] }, 'AC-09', allowed],
      ['whose deny is no list', { allow: ['*'], deny: '127.0.0.2' }, 'AC-09', allowed],
      ['whose allow is no list', { allow: '*' }, 'AC-09', banned],
      ['of a thousand stars', { allow: ['*'], deny: [`${'*1'.repeat(1000)}x`] }, 'AC-09', allowed],
    ]),
  )('%s', async (_, content, __, status) => {
    const room = await roomOf('11', leaver);
    await room.say('m.room.server_acl', '', content);
    expect((await ask(leaver, room)).status).toBe(status);
  });

  it('ignores the port of the asking server, and a port in an entry matches nothing (AC-03)', async () => {
    const room = await roomOf('11', leaver);
    expect(leaver.name).toBe(`127.0.0.2:${leaver.port}`);
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: [leaver.name] });
    expect((await ask(leaver, room)).status).toBe(allowed);
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
    expect((await ask(leaver, room)).status).toBe(banned);
  });

  it.each([
    ['localhost', banned],
    ['LOCALHOST', banned],
    ['LocalHost', banned],
    ['loc?lh*', banned],
    ['LOC?LH*', banned],
    ['localhost:*', allowed],
    ['*.localhost', allowed],
  ])('matches names whatever their case: LocalHost and %s (AC-04)', async (entry, status) => {
    const room = await roomOf('11', named);
    expect((await ask(named, room)).status).toBe(allowed);
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: [entry], allow_ip_literals: false });
    expect((await ask(named, room)).status).toBe(status);
    await room.say('m.room.server_acl', '', { allow: [entry] });
    expect((await ask(named, room)).status).toBe(status === banned ? allowed : banned);
  });

  it('of another state key is none (AC-01)', async () => {
    const room = await roomOf('11', leaver);
    await room.say('m.room.server_acl', 'x', { allow: [] });
    expect((await ask(leaver, room)).status).toBe(allowed);
  });

  it('is there from the first with a room that is made with one (AC-01)', async () => {
    const { room_id: roomId } = await ours.ok('POST', '/v1/rooms', {
      creator: `@alice:${ours.name}`,
      server_acl: { allow: ['*'], deny: ['127.0.0.2'] },
    });
    const answer = await makeLeave(leaver, ours, String(roomId), `@bob:${leaver.name}`);
    expect([answer.status, answer.json]).toEqual(denied);
  });

  it('of a room that nobody here is in says nothing: the room is not known (AC-10)', async () => {
    const room = await roomOf('11', leaver);
    await room.say('m.room.server_acl', '', { allow: ['*'], deny: ['127.0.0.2'] });
    await room.say('m.room.member', room.alice, { membership: 'leave' });
    const answer = await ask(leaver, room);
    expect([answer.status, answer.json]).toMatchObject([404, { errcode: 'M_NOT_FOUND' }]);
  });
});
