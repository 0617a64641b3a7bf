import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { contentHashMatches } from '@exeunt/pdu';
import { withKeys, withoutKeys, type JsonObject } from '@exeunt/signing';
import { delivered, deliveriesOf, importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { makeLeave, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { startRemoteServer, type PeerResponse, type RemoteServer } from '../harness/remote-server.js';

let ours: LeaveServer;
let leaver: RemoteServer;
let observer: RemoteServer;

beforeAll(async () => {
  ours = await startLeaveServer();
  leaver = await startRemoteServer({ host: '127.0.0.2' });
  observer = await startRemoteServer({ host: '127.0.0.3' });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), leaver?.close(), observer?.close()]);
});

function invitedRoom(version: string, users: readonly string[]): Promise<ImportedRoom> {
  return importRoom(ours, {
    version,
    peers: [leaver, observer],
    grow(builder, alice) {
      builder.member(`@olga:${observer.name}`, 'join');
      for (const user of users) builder.member(user, 'invite', alice);
    },
  });
}

async function templateOf(room: ImportedRoom, user: string): Promise<JsonObject> {
  const made = await makeLeave(leaver, ours, room.roomId, user);
  expect(made.status, made.body.toString()).toBe(200);
  return (made.json as JsonObject)['event'] as JsonObject;
}

/** The positions after `before` are consecutive; gives the domain events there. */
async function gapless(room: ImportedRoom, before: number): Promise<readonly JsonObject[]> {
  const events = await room.since(before);
  expect(events.map(({ position }) => position)).toEqual(events.map((_, at) => before + at + 1));
  return events;
}

/** Everything of the room is with the observer once the room's last event is. */
async function observed(room: ImportedRoom): Promise<readonly JsonObject[]> {
  const before = await room.position();
  await room.say('m.room.topic', '', { topic: 'the end' });
  const [last] = await room.since(before);
  await delivered(observer, last!['pdu'] as JsonObject);
  return deliveriesOf(observer, room.roomId);
}

const forbidden = (answer: PeerResponse): unknown =>
  expect([answer.status, answer.json]).toMatchObject([
    403,
    { errcode: 'M_FORBIDDEN', error: expect.any(String) },
  ]);

describe.each(['1', '2', '5', '10', '11', '12'])('in a room of version %s', (version) => {
  const bob = (): string => `@bob:${leaver.name}`;

  it('the second of two different leaves of one user, off one template, is soft-failed (SL-16, SL-12)', async () => {
    const room = await invitedRoom(version, [bob()]);
    const template = await templateOf(room, bob());
    const one = signTemplate(leaver, version, template, { content: { membership: 'leave', reason: 'one' } });
    const two = signTemplate(leaver, version, template, { content: { membership: 'leave', reason: 'two' } });
    expect((await sendLeave(leaver, ours, one)).status).toBe(200);
    const before = await room.position();
    forbidden(await sendLeave(leaver, ours, two));
    expect(await gapless(room, before)).toMatchObject([
      { type: 'PduSoftFailed', event_id: two.eventId, rule: 'AU-20' },
    ]);
    expect(await ours.member(room.roomId, bob())).toMatchObject({ event_id: one.eventId });
    expect(await ours.ok('GET', room.path())).toMatchObject({ forward_extremities: [one.eventId] });
    // Told again as it was told before, and remembered once.
    forbidden(await sendLeave(leaver, ours, two));
    expect(await room.position()).toBe(before + 1);
    const reasons = (await observed(room)).map(({ content }) => (content as JsonObject)['reason']);
    expect(reasons).toContain('one');
    expect(reasons).not.toContain('two');
  });

  it('a second leave that cites the first is rejected, and there is no template for one (SL-16, PD-05, ML-05)', async () => {
    const room = await invitedRoom(version, [bob(), `@carol:${leaver.name}`]);
    const first = signTemplate(leaver, version, await templateOf(room, bob()));
    expect((await sendLeave(leaver, ours, first)).status).toBe(200);
    forbidden(await makeLeave(leaver, ours, room.roomId, bob()));
    const ofCarol = await templateOf(room, `@carol:${leaver.name}`);
    const authEvents = first.event['auth_events']!;
    const second = signTemplate(leaver, version, ofCarol, {
      sender: bob(),
      state_key: bob(),
      auth_events: authEvents,
    });
    const before = await room.position();
    forbidden(await sendLeave(leaver, ours, second));
    expect(await gapless(room, before)).toMatchObject([
      { type: 'PduRejected', event_id: second.eventId, rule: 'AU-20' },
    ]);
    expect(await ours.member(room.roomId, bob())).toMatchObject({ event_id: first.eventId });
  });

  it('two different leaves of one user at the same time: one of them is taken (SL-16)', async () => {
    const room = await invitedRoom(version, [bob()]);
    const template = await templateOf(room, bob());
    const leaves = ['one', 'two', 'three', 'four'].map((reason) =>
      signTemplate(leaver, version, template, { content: { membership: 'leave', reason } }),
    );
    const before = await room.position();
    const answers = await Promise.all(leaves.map((leave) => sendLeave(leaver, ours, leave)));
    const taken = leaves.filter((_, at) => answers[at]!.status === 200);
    expect(taken).toHaveLength(1);
    answers.filter(({ status }) => status !== 200).forEach(forbidden);
    const types = (await gapless(room, before)).map(({ type }) => type);
    expect(types).toEqual(['PduAccepted', 'PduSoftFailed', 'PduSoftFailed', 'PduSoftFailed']);
    expect(await ours.member(room.roomId, bob())).toMatchObject({ event_id: taken[0]!.eventId });
  });

  it('the same leave twenty times at once is one entry of the log, and twenty times a success (SL-15)', async () => {
    const room = await invitedRoom(version, [bob()]);
    const leave = signTemplate(leaver, version, await templateOf(room, bob()));
    const before = await room.position();
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, at) => sendLeave(leaver, ours, leave, at % 2 === 0 ? 'v2' : 'v1')),
    );
    expect(answers.map(({ status, json }) => [status, json])).toEqual(
      answers.map((_, at) => [200, at % 2 === 0 ? {} : [200, {}]]),
    );
    expect(await gapless(room, before)).toMatchObject([{ type: 'PduAccepted', event_id: leave.eventId }]);
    const copies = (await observed(room)).filter(({ sender }) => sender === bob());
    expect(copies).toEqual([leave.event]);
  });

  it('a ban that was accepted first soft-fails the leave off an older template (SL-12, PD-06, PD-11)', async () => {
    const room = await invitedRoom(version, [bob()]);
    const leave = signTemplate(leaver, version, await templateOf(room, bob()));
    const ban = await room.say('m.room.member', bob(), { membership: 'ban' });
    const before = await room.position();
    forbidden(await sendLeave(leaver, ours, leave));
    expect(await gapless(room, before)).toMatchObject([{ type: 'PduSoftFailed', event_id: leave.eventId }]);
    expect(await ours.member(room.roomId, bob())).toMatchObject({ event_id: ban });
    // Nothing that follows has it for a parent. (PD-10)
    await room.say('m.room.topic', '', { topic: 'later' });
    const [topic] = await room.since(before + 1);
    expect(JSON.stringify((topic!['pdu'] as JsonObject)['prev_events'])).not.toContain(leave.eventId);
    const senders = (await observed(room)).map(({ sender }) => sender);
    expect(senders).not.toContain(bob());
  });

  it('a ban and a leave at the same time: whichever is first, the user ends banned', async () => {
    for (let round = 0; round < 3; round++) {
      const room = await invitedRoom(version, [bob()]);
      const leave = signTemplate(leaver, version, await templateOf(room, bob()));
      const before = await room.position();
      const [left, ban] = await Promise.all([
        sendLeave(leaver, ours, leave),
        room.say('m.room.member', bob(), { membership: 'ban' }),
      ]);
      expect([200, 403]).toContain(left.status);
      const types = (await gapless(room, before)).map(({ type }) => type);
      expect(types).toEqual(
        left.status === 200 ? ['PduAccepted', 'PduAccepted'] : ['PduAccepted', 'PduSoftFailed'],
      );
      expect(await ours.member(room.roomId, bob())).toMatchObject({ event_id: ban });
    }
  });

  it('a leave whose content is not what was hashed is kept and broadcast redacted: the reason is lost (SL-18, SG-11, RV-07)', async () => {
    const room = await invitedRoom(version, [bob()]);
    const leave = signTemplate(leaver, version, await templateOf(room, bob()), {
      content: { membership: 'leave', reason: 'as it was hashed', displayname: 'Bob' },
    });
    const event = withKeys(leave.event, {
      content: { membership: 'leave', reason: 'as it was changed', displayname: 'Bob' },
    });
    expect(contentHashMatches(event)).toBe(false);
    const answer = await sendLeave(leaver, ours, { ...leave, event });
    expect([answer.status, answer.json]).toEqual([200, {}]);
    const redacted = withKeys(withoutKeys(leave.event, 'unsigned'), { content: { membership: 'leave' } });
    expect(withoutKeys((await ours.member(room.roomId, bob()))!, 'event_id')).toEqual(
      withoutKeys(redacted, 'event_id'),
    );
    expect(await ours.member(room.roomId, bob())).toMatchObject({ event_id: leave.eventId });
    expect(await delivered(observer, leave.event)).toEqual(redacted);
  });
});

describe.each(['2', '11', '12'])('a hundred users of a room of version %s', (version) => {
  it('leave at once, off one place in the graph: all are taken, every one is in the state and with the observer (SL-14, ML-12, BR-01, EV-05)', async () => {
    const users = Array.from({ length: 100 }, (_, at) => `@user${at}:${leaver.name}`);
    const room = await invitedRoom(version, users);
    const templates = await Promise.all(users.map((user) => templateOf(room, user)));
    expect(new Set(templates.map((template) => JSON.stringify(template['prev_events']))).size).toBe(1);
    const leaves = templates.map((template) => signTemplate(leaver, version, template));
    const before = await room.position();

    const answers = await Promise.all(
      leaves.map((leave, at) => sendLeave(leaver, ours, leave, at % 3 === 0 ? 'v1' : 'v2')),
    );

    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
    const events = await gapless(room, before);
    expect(events.map(({ type }) => type)).toEqual(leaves.map(() => 'PduAccepted'));
    const ids = leaves.map(({ eventId }) => eventId).sort();
    expect(events.map(({ event_id: id }) => String(id)).sort()).toEqual(ids);
    const shown = await ours.ok('GET', room.path());
    expect([...(shown['forward_extremities'] as readonly string[])].sort()).toEqual(ids);
    expect(shown).toMatchObject({ members: { join: 2, invite: 0, leave: 100 }, position: before + 100 });
    for (const { eventId, event } of leaves.slice(0, 10)) {
      expect(await ours.member(room.roomId, String(event['sender']))).toMatchObject({ event_id: eventId });
    }

    // The next event cites as many of them as it may, and those after it come down to one.
    const next = await room.position();
    for (let said = 0; said < 7; said++) await room.say('m.room.topic', '', { topic: `number ${said}` });
    const topics = (await room.since(next)).map(({ pdu }) => pdu as JsonObject);
    expect((topics[0]!['prev_events'] as readonly unknown[]).length).toBe(20);
    expect((await ours.ok('GET', room.path()))['forward_extremities']).toHaveLength(1);
    expect(await room.membership(users[99]!)).toBe('leave');

    await delivered(observer, topics.at(-1)!);
    const got = deliveriesOf(observer, room.roomId);
    const signatures = (pdu: JsonObject): string => JSON.stringify(pdu['signatures']);
    const gotLeaves = got.filter(({ sender }) => users.includes(String(sender)));
    expect(gotLeaves.map(signatures).sort()).toEqual(leaves.map(({ event }) => signatures(event)).sort());
    await settle('nothing is pending', async () => {
      const status = await ours.ok('GET', `/v1/destinations/${encodeURIComponent(observer.name)}`);
      return status['pending'] === 0 ? status : undefined;
    });
  });
});
