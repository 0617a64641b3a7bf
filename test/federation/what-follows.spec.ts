import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOM_EVENTS_TOPIC } from '@exeunt/message-bus';
import { parseJson, type JsonObject } from '@exeunt/signing';
import { importRoom } from '../harness/imported-room.js';
import { leaveRoom } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { putTransaction } from '../leaving-harness.js';

/* What an accepted event brings about besides itself, as the rest of the platform and its operators hear of it. */

let ours: LeaveServer;
let peer: RemoteServer;
const heard: JsonObject[] = [];

beforeAll(async () => {
  ours = await startLeaveServer();
  peer = await startRemoteServer({ host: '127.0.0.2' });
  await ours.running.platform.bus.consume({
    topic: ROOM_EVENTS_TOPIC,
    group: 'test-of-what-follows',
    maxBatch: 100,
    handle: async (batch) => void heard.push(...batch.map(({ value }) => parseJson(value) as JsonObject)),
  });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), peer?.close()]);
});

const told = (eventId: string) =>
  settle(`${eventId} on the bus`, () => heard.find(({ event_id: id }) => id === eventId));

async function stateResets(): Promise<number> {
  const metrics = await (await fetch(`${ours.platformUrl}/metrics`)).text();
  return Number(/^exeunt_state_resets_total (\d+)$/m.exec(metrics)?.[1]);
}

describe('a server whose last user leaves', () => {
  it('is named with the leave, so that nobody goes on sending to it', async () => {
    const users = ['@ian', '@ida'].map((name) => `${name}:${peer.name}`);
    const room = await importRoom(ours, {
      version: '11',
      peers: [peer],
      grow: (builder) => users.forEach((user) => builder.member(user, 'join')),
    });
    const first = await leaveRoom(peer, ours, room.roomId, users[0]!);
    const last = await leaveRoom(peer, ours, room.roomId, users[1]!);
    expect(await told(first.eventId)).not.toHaveProperty('servers_left');
    expect(await told(last.eventId)).toMatchObject({ servers_left: [peer.name] });
  });
});

describe('a user who left and whom state resolution brings back', () => {
  it('is counted, for people will wonder', async () => {
    const [ian, ida] = [`@ian:${peer.name}`, `@ida:${peer.name}`];
    const room = await importRoom(ours, {
      version: '11',
      peers: [peer],
      grow: (builder) => [ian, ida].forEach((user) => builder.member(user, 'join')),
    });
    const { builder } = room;
    const fork = builder.room.forwardExtremities.map(({ eventId }) => eventId);
    // Older than the join, says the leave; so it loses as soon as a fork makes the two compete.
    const leave = builder.make({
      sender: ian,
      type: 'm.room.member',
      stateKey: ian,
      content: { membership: 'leave' },
      ts: 1,
    });
    await putTransaction(peer, ours, 'leave', { pdus: [leave.json] });
    expect(await room.membership(ian)).toBe('leave');
    const before = await stateResets();
    const beside = builder.make({ sender: ida, content: {}, ts: Date.now(), changes: { prev_events: fork } });
    await putTransaction(peer, ours, 'beside', { pdus: [beside.json] });
    expect(await room.membership(ian)).toBe('join');
    expect(await stateResets()).toBe(before + 1);
  });
});
