import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventIdOf, signPdu } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { isJsonObject, withKeys, withoutKeys, type JsonObject } from '@exeunt/signing';
import { federationUri } from '../harness/leaving-user.js';
import { hasSynapse, startBesideSynapse, type BesideSynapse } from '../harness/beside-synapse.js';
import type { LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import type { SynapseServer, SynapseUser } from '../harness/synapse-server.js';

/**
 * A real Synapse gets our last user's leave and lacks what came before it. It asks us, who are no longer in the room,
 * and drops the leave if we refuse (its own issue 12569, seen from the other side).
 */
describe.skipIf(!hasSynapse())('a real Synapse that missed what came before our last leave', () => {
  let both: BesideSynapse;
  let synapse: SynapseServer;
  let ours: LeaveServer;
  let ian: SynapseUser;
  let alice: string;
  /** Sends in our name what our own server can't. */
  let courier: RemoteServer;

  beforeAll(async () => {
    both = await startBesideSynapse({ trustsSynapse: false });
    ({ synapse, ours } = both);
    courier = await startRemoteServer({ host: '127.0.0.3' });
    alice = `@alice:${ours.name}`;
    ian = await synapse.registerUser('ian');
  });

  afterAll(async () => {
    await Promise.all([both?.stop(), courier?.close()]);
  });

  async function inOurName(method: 'GET' | 'PUT', uri: string, body?: JsonObject): Promise<JsonObject> {
    const { status, json } = await courier.request({
      method,
      uri,
      destination: synapse.serverName,
      ...(body === undefined ? {} : { body }),
      overrides: { origin: ours.name, key: ours.running.platform.side.signingKey },
    });
    expect([status, json], synapse.logTail()).toMatchObject([200, {}]);
    return json as JsonObject;
  }

  /** alice joins a room of Synapse's, and our server takes it over from there. */
  async function joinedRoom(version: string): Promise<string> {
    const rules = roomVersion(version)!;
    const roomId = await synapse.createRoom(ian.accessToken, { roomVersion: version });
    const client = synapse.client(ian.accessToken);
    const stateUri = `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/state`;
    await client.expectOk('PUT', `${stateUri}/m.room.join_rules/`, { join_rule: 'public' });
    // So that alice may say what a room is about.
    const levels = await client.expectOk('GET', `${stateUri}/m.room.power_levels/`);
    await client.expectOk('PUT', `${stateUri}/m.room.power_levels/`, { ...levels, state_default: 0 });

    const made = await inOurName('GET', `${federationUri('v1/make_join', roomId, alice)}?ver=${version}`);
    const draft = withKeys(withoutKeys(made['event'] as JsonObject, 'unsigned'), {
      origin_server_ts: Date.now(),
      ...(rules.eventIdFormat === 'opaque-in-pdu' ? { event_id: `$join-${Date.now()}:${ours.name}` } : {}),
    });
    const join = signPdu(draft, rules, ours.name, ours.running.platform.side.signingKey);
    const joinId = eventIdOf(join, rules);
    const sent = await inOurName('PUT', federationUri('v2/send_join', roomId, joinId), join);
    const state = (sent['state'] as readonly JsonObject[]).map((pdu) => withoutKeys(pdu, 'unsigned'));
    const chain = (sent['auth_chain'] as readonly JsonObject[]).map((pdu) => withoutKeys(pdu, 'unsigned'));
    const isAlice = ({ type, state_key: stateKey }: JsonObject) =>
      type === 'm.room.member' && stateKey === alice;
    const report = await ours.ok('POST', '/v1/rooms/import', {
      room_version: version,
      state: [...state.filter((pdu) => !isAlice(pdu)), join],
      auth_chain: chain,
      forward_extremities: [joinId],
      depth: join['depth']!,
      server_keys: [await inOurName('GET', '/_matrix/key/v2/server')],
    });
    expect(report['rejected']).toEqual([]);
    return roomId;
  }

  it.each(['1', '6', '10', '11', '12'])('takes the leave, in version %s', async (version) => {
    const roomId = await joinedRoom(version);
    const path = `/v1/rooms/${encodeURIComponent(roomId)}`;
    const topics = ['one', 'two', 'three'];
    for (const topic of topics) {
      await ours.ok('POST', `${path}/state`, {
        sender: alice,
        type: 'm.room.topic',
        state_key: '',
        content: { topic },
      });
    }
    const left = await ours.ok('POST', '/v1/leaves', { user_id: alice, room_id: roomId, reason: 'bye' });
    const { events } = await ours.ok('GET', `${path}/events?limit=1000`);
    const leave = (events as readonly JsonObject[]).at(-1)!;
    expect(leave['event_id']).toBe(left['event_id']);
    expect(await synapse.getMembershipEvent(ian.accessToken, roomId, alice)).toMatchObject({
      content: { membership: 'join' },
    });

    const answer = await inOurName('PUT', federationUri('v1/send', `only-the-leave-${version}`), {
      origin: ours.name,
      origin_server_ts: Date.now(),
      pdus: [leave['pdu']!],
    });
    expect(answer).toEqual({ pdus: { [String(leave['event_id'])]: {} } });

    const theirs = await settle('Synapse has the leave', async () => {
      const event = await synapse.getMembershipEvent(ian.accessToken, roomId, alice);
      return event?.content['membership'] === 'leave' ? event : undefined;
    }).catch((cause: unknown) => {
      throw new Error(synapse.logTail(), { cause });
    });
    expect(theirs).toMatchObject({ event_id: leave['event_id'], content: { reason: 'bye' } });
    // And what it had missed: nobody else could have told it.
    const topic = await synapse
      .client(ian.accessToken)
      .expectOk('GET', `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/state/m.room.topic/`);
    expect(isJsonObject(topic) && topic['topic']).toBe(topics.at(-1));
  });
});
