import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventIdOf, parseServerName, redact, signPdu, type RoomId, type UserId } from '@exeunt/pdu';
import { draftEvent, evolve, initialRoom } from '@exeunt/room';
import { roomVersion } from '@exeunt/room-version';
import {
  decodeBase64,
  isJsonObject,
  signaturesOf,
  verifyJsonSignature,
  withKeys,
  withoutKeys,
  type JsonObject,
} from '@exeunt/signing';

import { hasSynapse, startBesideSynapse, type BesideSynapse } from '../harness/beside-synapse.js';
import type { LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { startRemoteServer, type ReceivedRequest, type RemoteServer } from '../harness/remote-server.js';
import type { SynapseServer, SynapseUser } from '../harness/synapse-server.js';

/**
 * A real Synapse rejects our invites: it calls our make_leave and send_leave by itself, and checks our keys,
 * certificate, templates and answers as a stranger does. TLS is verified both ways, by a test CA.
 *
 * Synapse hides a failed rejection behind a leave that it makes up, so event IDs are compared, never memberships.
 */
const stableVersions = ['1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12'];

describe.skipIf(!hasSynapse())('a user of a real Synapse, invited into our room', () => {
  let both: BesideSynapse;
  let synapse: SynapseServer;
  let ours: LeaveServer;
  let observer: RemoteServer;
  let bob: SynapseUser;
  let alice: string;
  let supported: readonly string[];

  beforeAll(async () => {
    both = await startBesideSynapse();
    ({ synapse, ours } = both);
    const tls = await both.authority.issue(['127.0.0.3']);
    observer = await startRemoteServer({ host: '127.0.0.3', tls });
    alice = `@alice:${ours.name}`;
    bob = await synapse.registerUser('bob');
    supported = await synapse.supportedRoomVersions(bob.accessToken);
  });

  afterAll(async () => {
    await Promise.all([both?.stop(), observer?.close()]);
  });

  /** A room that our server makes, into which a user of the observer's then joins. */
  async function roomWithObserver(version: string): Promise<string> {
    const { room_id } = await ours.ok('POST', '/v1/rooms', {
      room_version: version,
      creator: alice,
      join_rule: 'public',
    });
    const roomId = String(room_id);
    const olga = `@olga:${observer.name}` as UserId;
    const logged = await ours.running.platform.store.read(roomId as RoomId, 1, 1000);
    const room = logged.reduce((folded, { domainEvent }) => evolve(folded, domainEvent), initialRoom());
    const draft = draftEvent(room, {
      type: 'm.room.member',
      sender: olga,
      stateKey: olga,
      content: { membership: 'join' },
      originServerTs: Date.now(),
      origin: observer.name,
    });
    const withId =
      room.version.eventIdFormat === 'opaque-in-pdu'
        ? withKeys(draft, { event_id: `$join:${observer.name}` })
        : draft;
    const join = signPdu(withId, room.version, observer.name, observer.key);
    const events = logged.flatMap(({ domainEvent }) => ('pdu' in domainEvent ? [domainEvent.pdu] : []));
    const report = await ours.ok('POST', '/v1/rooms/import', {
      room_version: version,
      events: [...events, join],
      server_keys: [observer.keyResponse()],
    });
    expect(report['rejected']).toEqual([]);
    return roomId;
  }

  async function invite(roomId: string): Promise<void> {
    await ours.ok('POST', `/v1/rooms/${encodeURIComponent(roomId)}/invites`, {
      sender: alice,
      target: bob.userId,
    });
    await synapse.waitForInvite(bob.accessToken, roomId);
  }

  async function acceptedSelfLeaves(roomId: string): Promise<readonly JsonObject[]> {
    const { events } = await ours.ok('GET', `/v1/rooms/${encodeURIComponent(roomId)}/events?limit=1000`);
    return (events as readonly JsonObject[]).filter(({ type, pdu }) => {
      if (type !== 'PduAccepted' || !isJsonObject(pdu) || !isJsonObject(pdu['content'])) return false;
      return pdu['sender'] === bob.userId && pdu['content']['membership'] === 'leave';
    });
  }

  function pdusOf({ url, json }: ReceivedRequest): readonly JsonObject[] {
    if (!url.startsWith('/_matrix/federation/v1/send/') || !isJsonObject(json)) return [];
    return json['pdus'] as readonly JsonObject[];
  }

  it('the versions tested here are all that this Synapse knows as stable', () => {
    expect(supported.filter((version) => /^\d+$/.test(version)).sort()).toEqual([...stableVersions].sort());
  });

  it.each(stableVersions)(
    'C2, C3: rejects, and everyone gets that very leave, in version %s',
    async (version) => {
      const roomId = await roomWithObserver(version);
      await invite(roomId);

      const leaveId = await synapse.leaveRoom(bob.accessToken, roomId, { reason: 'not for me' });

      // Our side has the event that Synapse has, with its signature and the reason.
      const member = (await ours.member(roomId, bob.userId))!;
      expect(member).toMatchObject({
        event_id: leaveId,
        sender: bob.userId,
        content: { membership: 'leave', reason: 'not for me' },
      });
      const rules = roomVersion(version)!;
      const pdu = rules.eventIdFormat === 'opaque-in-pdu' ? member : withoutKeys(member, 'event_id');
      expect(eventIdOf(pdu, rules)).toBe(leaveId);
      const keys = await synapseKeys();
      const signatures = signaturesOf(pdu, synapse.serverName);
      expect(signatures.length).toBeGreaterThan(0);
      for (const { keyId, signature } of signatures) {
        expect(verifyJsonSignature(redact(pdu, rules), signature, keys.get(keyId)!)).toBe(true);
      }
      // And so has the third server.
      await observer.received((request) =>
        pdusOf(request).some(
          (sent) => sent['state_key'] === bob.userId && eventIdOf(sent, rules) === leaveId,
        ),
      );
    },
  );

  async function synapseKeys(): Promise<ReadonlyMap<string, Uint8Array>> {
    const answer = await ours.running.platform.side.client.serverKeys(parseServerName(synapse.serverName)!);
    if (!answer.ok) throw new Error(answer.error);
    const verifyKeys = (answer.body as JsonObject)['verify_keys'] as JsonObject;
    return new Map(
      Object.entries(verifyKeys).map(([keyId, key]) => [
        keyId,
        decodeBase64(String((key as JsonObject)['key']))!,
      ]),
    );
  }

  it('C28: rejects three invites in a row, each with a leave of its own', async () => {
    const roomId = await roomWithObserver('11');
    const ids: string[] = [];
    for (let round = 0; round < 3; round++) {
      await invite(roomId);
      ids.push(await synapse.leaveRoom(bob.accessToken, roomId));
      expect(await ours.member(roomId, bob.userId)).toMatchObject({ event_id: ids.at(-1) });
    }
    expect(new Set(ids).size).toBe(3);
    expect((await acceptedSelfLeaves(roomId)).map(({ event_id }) => event_id)).toEqual(ids);
  });

  it('SL-16: a second rejection of one invite adds nothing, and a template for it is refused by AU-20', async () => {
    const roomId = await roomWithObserver('11');
    await invite(roomId);
    const leaveId = await synapse.leaveRoom(bob.accessToken, roomId);
    const { position } = await ours.ok('GET', `/v1/rooms/${encodeURIComponent(roomId)}`);

    await synapse
      .client(bob.accessToken)
      .request('POST', `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/leave`, {});

    expect(await ours.ok('GET', `/v1/rooms/${encodeURIComponent(roomId)}`)).toMatchObject({ position });
    expect(await ours.member(roomId, bob.userId)).toMatchObject({ event_id: leaveId });
    expect(
      await ours.ok('POST', `/v1/rooms/${encodeURIComponent(roomId)}/explain`, { user_id: bob.userId }),
    ).toMatchObject({ accepted: false, refusal: { refused: 'not-authorised', rule: 'AU-20' } });
  });

  it('C29: an invite that is taken back reaches Synapse as a kick, and nowhere as a leave of the user', async () => {
    const roomId = await roomWithObserver('11');
    await invite(roomId);

    const { event_id } = await ours.ok('POST', `/v1/rooms/${encodeURIComponent(roomId)}/state`, {
      sender: alice,
      type: 'm.room.member',
      state_key: bob.userId,
      content: { membership: 'leave', reason: 'a mistake' },
    });

    await settle('Synapse takes the invite back', async () =>
      (await synapse.invitesOf(bob.accessToken)).has(roomId) ? undefined : true,
    );
    const theirs = await synapse.getMembershipEvent(bob.accessToken, roomId, bob.userId);
    expect(theirs).toMatchObject({ event_id, sender: alice, content: { membership: 'leave' } });
    const delivered = await observer.received((request) =>
      pdusOf(request).some((pdu) => eventIdOf(pdu, roomVersion('11')!) === event_id),
    );
    expect(pdusOf(delivered).map(({ sender }) => sender)).not.toContain(bob.userId);
    expect(await acceptedSelfLeaves(roomId)).toEqual([]);
  });
});
