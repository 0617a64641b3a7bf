export {
  DatabaseServerKeyStore,
  ServerKeys1700000000001,
  type Database,
} from './database-server-key-store.js';
export { isKeyUsableForEvent, maxKeysPerResponse, readServerKeys } from './key-validity.js';
export type { KeyResponseFault, KeyUse, OldVerifyKey, ServerKeys } from './key-validity.js';
export {
  KeyRing,
  type KeyNeed,
  type KeyOf,
  type KeyRingDependencies,
  type KeyRingOptions,
  type Learned,
  type ServerKeyFetch,
} from './key-ring.js';
export { generateSigningKeyLine, OwnKeys, seedBytes } from './own-keys.js';
export { InMemoryServerKeyStore, type KnownServerKeys, type ServerKeyStore } from './server-key-store.js';
