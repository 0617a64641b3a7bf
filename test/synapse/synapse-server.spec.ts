import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  createTestCertificateAuthority,
  type TestCertificateAuthority,
} from '../harness/test-certificate.js';
import {
  findSynapse,
  startSynapse,
  type SynapseServer,
  type SynapseUser,
} from '../harness/synapse-server.js';

/**
 * The harness's own check: a real Synapse starts, and its client API does what the federation specs beside this file
 * rely on. No server of ours is involved.
 */
const found = findSynapse();
if (found === undefined)
  console.warn('Synapse is not installed (scripts/services/install-synapse.sh): not run');

describe.skipIf(found === undefined)('a Synapse on loopback', () => {
  let authority: TestCertificateAuthority;
  let synapse: SynapseServer;
  let alice: SynapseUser;
  let bob: SynapseUser;

  beforeAll(async () => {
    authority = await createTestCertificateAuthority();
    synapse = await startSynapse({ certificateAuthority: authority });
    alice = await synapse.registerUser('alice');
    bob = await synapse.registerUser('bob');
  });

  afterAll(async () => {
    await synapse?.stop();
    await authority?.remove();
  });

  it('names its users after the host and port of its federation', () => {
    expect(alice.userId).toBe(`@alice:${synapse.serverName}`);
    expect(synapse.federationUrl).toBe(`https://${synapse.serverName}`);
  });

  it('lets a user leave a room of each version, and gives the event ID of the leave', async () => {
    const versions = await synapse.supportedRoomVersions(alice.accessToken);
    console.info(`Synapse ${synapse.version} supports the room versions ${versions.join(', ')}`);
    expect(versions).toEqual(expect.arrayContaining(['1', '6', '10', '11']));

    for (const roomVersion of versions) {
      const roomId = await synapse.createRoom(alice.accessToken, { roomVersion });
      await synapse.inviteUser(alice.accessToken, roomId, bob.userId);
      const strippedState = await synapse.waitForInvite(bob.accessToken, roomId);
      expect(strippedState.map(({ type }) => type)).toContain('m.room.create');
      await synapse.joinRoom(bob.accessToken, roomId);

      const leaveId = await synapse.leaveRoom(bob.accessToken, roomId, { reason: 'smoke' });

      const seenByAlice = await synapse.getMembershipEvent(alice.accessToken, roomId, bob.userId);
      expect(seenByAlice).toMatchObject({
        event_id: leaveId,
        content: { membership: 'leave', reason: 'smoke' },
      });
    }
  });

  it('lets a user reject an invite', async () => {
    const roomId = await synapse.createRoom(alice.accessToken);
    await synapse.inviteUser(alice.accessToken, roomId, bob.userId);
    await synapse.waitForInvite(bob.accessToken, roomId);

    const leaveId = await synapse.leaveRoom(bob.accessToken, roomId);

    expect((await synapse.invitesOf(bob.accessToken)).has(roomId)).toBe(false);
    expect(await synapse.getMembershipEvent(alice.accessToken, roomId, bob.userId)).toMatchObject({
      event_id: leaveId,
    });
  });
});
