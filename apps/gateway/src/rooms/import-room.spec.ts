import { describe, expect, it } from 'vitest';
import { nativeEd25519 } from '@exeunt/signing';
import { paperServer, RoomBuilder } from '../../../../test/harness/room-builder.js';
import type { FederationSide } from '../federation-side.js';
import { ImportRoom, ImportRoomHandler, readImport } from './import-room.command.js';

const server = paperServer('hub.example');

/** What the import of a room built as `builtAs` answers when it is handed over as one of `version`. */
async function importAs(version: string, builtAs: string, namesVersion = true): Promise<object> {
  const { pdus } = new RoomBuilder({
    version: builtAs,
    servers: [server],
    creator: '@alice:hub.example',
    namesVersion,
  });
  const publicKey = nativeEd25519.publicKeyOf(server.key.seed);
  const handler = new ImportRoomHandler({
    ourName: server.name,
    ed25519: nativeEd25519,
    keyRing: { keysForEvents: async () => () => ({ publicKey, validAt: () => true }) },
    rooms: { executeAll: async (_: string, steps: readonly unknown[]) => steps.map(() => ({})) },
    now: () => 1,
  } as unknown as FederationSide);
  const room = readImport({ room_version: version, events: pdus.map(({ json }) => json) });
  return handler.execute(new ImportRoom(room));
}

describe('an import', () => {
  it('is of the version that the create event names, and of no other (RV-02)', async () => {
    // Version 9 reads and signs these events as version 10 does.
    expect(await importAs('9', '10')).toMatchObject({ rule: 'RV-02' });
    expect(await importAs('10', '10')).toMatchObject({ rejected: [] });
  });

  it('takes a create event that names no version for one of version 1 (RV-02)', async () => {
    expect(await importAs('1', '1', false)).toMatchObject({ rejected: [] });
    expect(await importAs('11', '11', false)).toMatchObject({ rule: 'RV-02' });
  });
});
