import { describe, expect, it } from 'vitest';
import { nativeEd25519 } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../../test/harness/room-builder.js';
import type { FederationSide } from '../federation-side.js';
import { ImportRoom, ImportRoomHandler, readImport } from './import-room.command.js';

describe('an import', () => {
  it('is of the version that the create event names, and of no other (RV-02)', async () => {
    const server = paperServer('hub.example');
    const { pdus } = new RoomBuilder({ version: '10', servers: [server], creator: '@alice:hub.example' });
    const publicKey = nativeEd25519.publicKeyOf(server.key.seed);
    const handler = new ImportRoomHandler({
      ourName: server.name,
      ed25519: nativeEd25519,
      keyRing: { keysForEvents: async () => () => ({ publicKey, validAt: () => true }) },
      rooms: { executeAll: () => Promise.reject(new Error('it was to be refused')) },
      now: () => 1,
    } as unknown as FederationSide);
    // Version 9 reads and signs these events as version 10 does.
    const room = readImport({ room_version: '9', events: pdus.map(({ json }) => json) });
    expect(await handler.execute(new ImportRoom(room))).toMatchObject({ rule: 'RV-02' });
  });
});
