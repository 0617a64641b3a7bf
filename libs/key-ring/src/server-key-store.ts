import type { ServerName } from '@exeunt/pdu';
import type { ServerKeys } from './key-validity.js';

/** The keys of a server as they are kept. */
export interface KnownServerKeys extends ServerKeys {
  /** When they were last had from the server itself, in milliseconds since the epoch; 0 where they never were. */
  readonly fetchedAt: number;
}

/**
 * Where verify keys outlive a restart.
 *
 * Guarantees: what `save` has resolved for, `load` gives, to every process on the same store; keys fetched earlier
 * do not replace keys fetched later. Does not guarantee that two processes that learn different old keys at the same
 * time keep both: whoever needs the lost one fetches it again. Both reject where the store is broken.
 */
export interface ServerKeyStore {
  load(server: ServerName): Promise<KnownServerKeys | undefined>;
  save(server: ServerName, keys: KnownServerKeys): Promise<void>;
}

/** Keys in this process only, without a bound: for tests. */
export class InMemoryServerKeyStore implements ServerKeyStore {
  readonly #keys = new Map<ServerName, KnownServerKeys>();

  async load(server: ServerName): Promise<KnownServerKeys | undefined> {
    return this.#keys.get(server);
  }

  async save(server: ServerName, keys: KnownServerKeys): Promise<void> {
    if ((this.#keys.get(server)?.fetchedAt ?? 0) <= keys.fetchedAt) this.#keys.set(server, keys);
  }
}
