import { request } from 'node:https';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventIdOf, signPdu } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import {
  parseJson,
  signRequest,
  stringifyJson,
  withKeys,
  withoutKeys,
  type JsonObject,
} from '@exeunt/signing';
import { hasSynapse, startBesideSynapse, type BesideSynapse } from '../harness/beside-synapse.js';
import type { LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import type { SynapseServer, SynapseUser } from '../harness/synapse-server.js';
import { membershipsOf } from '../leaving-harness.js';

/**
 * Users of a real Synapse invite ours, and ours is on the leaving side: it signs the invite, asks Synapse for the
 * template, signs, and sends. TLS is verified both ways, by a test CA.
 */
const stableVersions = ['1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12'];

describe.skipIf(!hasSynapse())('our user, invited into a room of a real Synapse', () => {
  let both: BesideSynapse;
  let synapse: SynapseServer;
  let ours: LeaveServer;
  let ian: SynapseUser;
  let bob: string;

  beforeAll(async () => {
    both = await startBesideSynapse();
    ({ synapse, ours } = both);
    ian = await synapse.registerUser('ian');
    bob = `@bob:${ours.name}`;
  });

  afterAll(async () => {
    await both?.stop();
  });

  const invitesOf = async () => (await membershipsOf(ours, bob))['invites'] as readonly JsonObject[];

  async function invitedInto(roomVersion: string): Promise<string> {
    const roomId = await synapse.createRoom(ian.accessToken, { roomVersion, name: `of ${roomVersion}` });
    await synapse.inviteUser(ian.accessToken, roomId, bob);
    return roomId;
  }

  const leave = (roomId: string, more: JsonObject = {}) =>
    ours.platform('POST', '/v1/leaves', { user_id: bob, room_id: roomId, ...more });

  it.each(stableVersions)(
    'rejects, and Synapse has the very leave that we signed, in version %s',
    async (version) => {
      const roomId = await invitedInto(version);
      const invite = (await invitesOf()).find(({ room_id: id }) => id === roomId);
      expect(invite).toMatchObject({ sender: ian.userId, room_version: version });
      const shown = invite!['invite_room_state'] as readonly JsonObject[];
      expect(shown).toContainEqual(expect.objectContaining({ type: 'm.room.create' }));

      const answer = await leave(roomId, { reason: 'not for me' });

      expect(answer).toMatchObject({ status: 200, body: { status: 'completed', how: 'accepted' } });
      const theirs = await synapse.getMembershipEvent(ian.accessToken, roomId, bob);
      expect(theirs, synapse.logTail()).toMatchObject({
        event_id: answer.body['event_id'],
        sender: bob,
        content: { membership: 'leave', reason: 'not for me' },
      });
      expect((await invitesOf()).map(({ room_id: id }) => id)).not.toContain(roomId);
    },
  );

  it.each(stableVersions)('an invite that is taken back is gone here, in version %s', async (version) => {
    const roomId = await invitedInto(version);
    expect((await invitesOf()).map(({ room_id: id }) => id)).toContain(roomId);
    const path = `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/kick`;
    await synapse.client(ian.accessToken).expectOk('POST', path, { user_id: bob, reason: 'a mistake' });
    await settle('the invite is gone', async () =>
      (await invitesOf()).some(({ room_id: id }) => id === roomId) ? undefined : true,
    );
    expect(await leave(roomId)).toMatchObject({
      status: 200,
      body: { status: 'completed', how: 'already-out' },
    });
  });

  it('rejects three invites in a row, each with a leave of its own', async () => {
    const roomId = await invitedInto('11');
    const ids: unknown[] = [];
    for (let round = 0; round < 3; round++) {
      if (round > 0) await synapse.inviteUser(ian.accessToken, roomId, bob);
      const answer = await leave(roomId);
      expect(answer, synapse.logTail()).toMatchObject({ status: 200, body: { status: 'completed' } });
      ids.push(answer.body['event_id']);
      const theirs = await synapse.getMembershipEvent(ian.accessToken, roomId, bob);
      expect(theirs).toMatchObject({ event_id: ids.at(-1) });
    }
    expect(new Set(ids).size).toBe(3);
  });

  it.each(stableVersions.slice(6))(
    'a knock that the platform made is retracted, in version %s',
    async (version) => {
      const roomId = await synapse.createRoom(ian.accessToken, { roomVersion: version });
      await synapse
        .client(ian.accessToken)
        .expectOk('PUT', `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/state/m.room.join_rules/`, {
          join_rule: 'knock',
        });
      await knock(roomId, version);
      expect(await synapse.getMembershipEvent(ian.accessToken, roomId, bob)).toMatchObject({
        content: { membership: 'knock' },
      });

      const answer = await leave(roomId, { via: [synapse.serverName] });

      expect(answer, synapse.logTail()).toMatchObject({ status: 200, body: { status: 'completed' } });
      expect(await synapse.getMembershipEvent(ian.accessToken, roomId, bob)).toMatchObject({
        event_id: answer.body['event_id'],
        content: { membership: 'leave' },
      });
    },
  );

  /** Knocks as another service of the platform would, with our key: knocking itself is not ours yet. */
  async function knock(roomId: string, version: string): Promise<void> {
    const { signingKey } = ours.running.platform.side;
    const made = await signedRequest('GET', `make_knock/${part(roomId)}/${part(bob)}?ver=${version}`);
    const template = made['event'] as JsonObject;
    const rules = roomVersion(version)!;
    const event = signPdu(
      withKeys(withoutKeys(template, 'origin', 'event_id', 'unsigned'), { origin_server_ts: Date.now() }),
      rules,
      ours.name,
      signingKey,
    );
    await signedRequest('PUT', `send_knock/${part(roomId)}/${part(eventIdOf(event, rules))}`, event);
  }

  async function signedRequest(method: 'GET' | 'PUT', path: string, body?: JsonObject): Promise<JsonObject> {
    const { signingKey } = ours.running.platform.side;
    const uri = `/_matrix/federation/v1/${path}`;
    const authorization = signRequest(
      { method, uri, origin: ours.name, destination: synapse.serverName, content: body },
      signingKey,
    );
    const [host, port] = synapse.serverName.split(':');
    return new Promise((resolve, reject) => {
      const outgoing = request(
        {
          host,
          port,
          path: uri,
          method,
          ca: both.authority.certificate,
          headers: { authorization, 'content-type': 'application/json' },
        },
        (response) => {
          response.setEncoding('utf8');
          let text = '';
          response.on('data', (chunk: string) => (text += chunk));
          response.on('end', () =>
            response.statusCode === 200
              ? resolve(parseJson(text) as JsonObject)
              : reject(new Error(`${method} ${uri}: ${response.statusCode} ${text}`)),
          );
        },
      );
      outgoing.on('error', reject);
      outgoing.end(body === undefined ? undefined : stringifyJson(body));
    });
  }
});

const part = (text: string): string => encodeURIComponent(text);
