import type { RoomVersion } from '@exeunt/room-version';
import { isJsonObject, memberOf, type JsonValue } from '@exeunt/signing';
import {
  parseServerName,
  signingKeysNamed,
  type EventVerifyKey,
  type Pdu,
  type ServerName,
  type SigningStage,
} from '@exeunt/pdu';
import { LRUCache } from 'lru-cache';
import {
  isKeyUsableForEvent,
  readServerKeys,
  type KeyResponseFault,
  type OldVerifyKey,
  type ServerKeys,
} from './key-validity.js';
import type { OwnKeys } from './own-keys.js';
import type { KnownServerKeys, ServerKeyStore } from './server-key-store.js';

/** A key that a signature names, and the time of what it has signed in milliseconds since the epoch. */
export interface KeyNeed {
  readonly server: ServerName;
  readonly keyId: string;
  readonly atTs: number;
}

/** Gives the keys that were asked for, as `checkPduSignatures` takes them; undefined for what is not known. */
export type KeyOf = (server: ServerName, keyId: string) => EventVerifyKey | undefined;

/** What asking a server for its keys gives: the body unchecked, or why not. `FederationClient.serverKeys` fits. */
export type ServerKeyFetch =
  { readonly ok: true; readonly body: JsonValue } | { readonly ok: false; readonly retryAfterMs?: number };

/** What became of a key response that was handed in. */
export type Learned = { readonly server: ServerName } | KeyResponseFault;

/** Bounds; each has a default. */
export interface KeyRingOptions {
  /** Servers whose keys are in memory; 20,000. */
  readonly maxServers?: number;
  /** Servers that are remembered to have failed; 20,000. */
  readonly maxFailures?: number;
  /** Fetches at a time; 32. */
  readonly maxFetches?: number;
  /** Fetches that wait for their turn; 1000. What comes after is answered from what is known. */
  readonly maxWaitingFetches?: number;
  /** How soon after a good answer a server is asked again, however many unknown keys are named; 30 s. */
  readonly minRefetchMs?: number;
  /** Wait after a first failure; doubles with each further one. 5 s. */
  readonly minBackoffMs?: number;
  /** Longest wait after failures; an hour. */
  readonly maxBackoffMs?: number;
  /** Longest wait after failures while the server itself seems to be calling; a minute. */
  readonly maxBackoffForRequestMs?: number;
}

export interface KeyRingDependencies {
  /** Asks the server itself, over authenticated TLS, bounded in time and size. Must not reject. */
  readonly fetchKeys: (server: ServerName) => Promise<ServerKeyFetch>;
  readonly store: ServerKeyStore;
  /** Our own keys, which are never fetched. */
  readonly own: OwnKeys;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** At least 0, below 1: spreads what would be tried again at the same moment. */
  readonly random: () => number;
  readonly options?: KeyRingOptions;
}

const defaults: Required<KeyRingOptions> = {
  maxServers: 20_000,
  maxFailures: 20_000,
  maxFetches: 32,
  maxWaitingFetches: 1000,
  minRefetchMs: 30_000,
  minBackoffMs: 5000,
  maxBackoffMs: 3_600_000,
  maxBackoffForRequestMs: 60_000,
};

/** Servers that one call waits for at a time, so that a large import leaves turns to others. */
const serversAtATime = 16;
/** Old keys kept of one server; those that expired last. */
const maxOldKeys = 64;

interface Failure {
  readonly failures: number;
  readonly failedAt: number;
  readonly retryAt: number;
  /** Whether there are keys of the server all the same. */
  readonly isKnown: boolean;
}

/**
 * The verify keys of other servers, and of our own.
 *
 * A server is asked when a key is missing or no longer (or not yet) valid for its use; concurrent askers share one
 * fetch. After a good answer it is left alone for `minRefetchMs`, after a failure for a growing time. Keys that are
 * valid now are used until they are not, up to seven days, without asking whether the server has withdrawn them. All
 * memory is bounded.
 *
 * A bad answer changes nothing that is known, and old keys are kept when the server no longer lists them. A current
 * key that a newer answer leaves out becomes an old one. Methods reject only where the store is broken; without the
 * network they answer from what is known. (KY-03, KY-09 to KY-13, RA-14)
 */
export class KeyRing {
  readonly #dependencies: KeyRingDependencies;
  readonly #options: Required<KeyRingOptions>;
  readonly #known: LRUCache<ServerName, KnownServerKeys>;
  /** Apart from the keys, so that a flood of invented names pushes out no key. */
  readonly #failures: LRUCache<ServerName, Failure>;
  readonly #loading = new Map<ServerName, Promise<KnownServerKeys | undefined>>();
  readonly #fetching = new Map<ServerName, Promise<void>>();
  readonly #saving = new Map<ServerName, Promise<void>>();
  readonly #turns: Turns;

  constructor(dependencies: KeyRingDependencies) {
    this.#dependencies = dependencies;
    this.#options = { ...defaults, ...dependencies.options };
    this.#known = new LRUCache({ max: this.#options.maxServers });
    this.#failures = new LRUCache({ max: this.#options.maxFailures });
    this.#turns = new Turns(this.#options.maxFetches, this.#options.maxWaitingFetches);
  }

  /**
   * The public key, 32 bytes, that a request by `server` may be signed with: one of its current `verify_keys`, valid
   * now; undefined where there is none, also after asking the server. Old keys authenticate no request. (RA-14)
   */
  async keyForRequest(server: ServerName, keyId: string): Promise<Uint8Array | undefined> {
    const { own, now } = this.#dependencies;
    if (server === own.serverName) return own.currentKey(keyId);
    const current = (keys: KnownServerKeys | undefined) =>
      keys !== undefined && keys.validUntilTs >= now() ? keys.verifyKeys.get(keyId) : undefined;
    // Keys that only an import has told us of are a last resort: the server itself is asked first.
    const isEnough = (keys: KnownServerKeys | undefined) =>
      keys?.fetchedAt !== 0 && current(keys) !== undefined;
    return current(await this.#keysOf(server, 'request', isEnough));
  }

  /** The keys that the PDU's required signers name. See `keysForEvents`. (KY-11) */
  keysForEvent(pdu: Pdu, stage: SigningStage = {}): Promise<KeyOf> {
    const needs = signingKeysNamed(pdu, stage).map((named) => ({ ...named, atTs: pdu.originServerTs }));
    return this.keysForEvents(needs, pdu.roomVersion);
  }

  /**
   * The keys for many events of one room version at once, each server asked at most once. The answer holds every
   * key of the servers named, at the moment it resolves; keys that cannot be had are missing from it. Where nobody
   * `mayBeAsked` they are those that are known. (KY-11)
   */
  async keysForEvents(needs: Iterable<KeyNeed>, version: RoomVersion, mayBeAsked = true): Promise<KeyOf> {
    const { own, now } = this.#dependencies;
    const byServer = new Map<ServerName, KeyNeed[]>();
    for (const need of needs) {
      if (need.server === own.serverName) continue;
      const ofServer = byServer.get(need.server);
      if (ofServer === undefined) byServer.set(need.server, [need]);
      else ofServer.push(need);
    }

    const found = new Map<ServerName, KnownServerKeys>();
    const waiting = [...byServer];
    const work = async () => {
      for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
        const [server, ofServer] = next;
        const isEnough = (known: KnownServerKeys | undefined) =>
          !mayBeAsked ||
          ofServer.every(
            ({ keyId, atTs }) => eventVerifyKey(known, keyId, now())?.validAt(atTs, version) === true,
          );
        const keys = await this.#keysOf(server, 'event', isEnough);
        if (keys !== undefined) found.set(server, keys);
      }
    };
    await Promise.all(Array.from({ length: Math.min(serversAtATime, waiting.length) }, work));

    const nowTs = now();
    return (server, keyId) =>
      server === own.serverName ? own.verifyKey(keyId) : eventVerifyKey(found.get(server), keyId, nowTs);
  }

  /**
   * Takes in a key response that did not come from its server, such as the `server_keys` of an import, after the same
   * checks. Whoever hands it in is trusted with it: its signature shows only that its maker holds its keys. Where the
   * server itself has answered before, it adds old keys and changes nothing else.
   */
  async learn(body: JsonValue): Promise<Learned> {
    const name = isJsonObject(body) ? memberOf(body, 'server_name') : undefined;
    const server = typeof name === 'string' ? parseServerName(name) : undefined;
    if (server === undefined) return { fault: 'server_name is no server name', rule: 'KY-01' };
    const nowTs = this.#dependencies.now();
    const learned = readServerKeys(body, server, nowTs);
    if ('fault' in learned) return learned;
    if (server === this.#dependencies.own.serverName) return { server };

    await this.#load(server);
    const known = this.#known.peek(server);
    const isNewer =
      known === undefined || (known.fetchedAt === 0 && known.validUntilTs < learned.validUntilTs);
    const merged = isNewer ? merge(learned, known, nowTs) : merge(known, learned, nowTs);
    await this.#keep(server, { ...merged, fetchedAt: known?.fetchedAt ?? 0 });
    return { server };
  }

  /**
   * When the server itself last answered with its keys, in milliseconds since the epoch; 0 where it never did. A key
   * that was asked for before then, and is not known, is none of the server's.
   */
  async lastAnswered(server: ServerName): Promise<number> {
    if (server === this.#dependencies.own.serverName) return Infinity;
    return (await this.#load(server))?.fetchedAt ?? 0;
  }

  async #keysOf(
    server: ServerName,
    purpose: 'request' | 'event',
    isEnough: (known: KnownServerKeys | undefined) => boolean,
  ): Promise<KnownServerKeys | undefined> {
    const known = await this.#load(server);
    if (isEnough(known)) return known;
    const isUnderWay = this.#fetching.has(server);
    if (!isUnderWay && !this.#mayFetch(server, purpose, known)) return known;
    await this.#fetch(server);
    return this.#known.get(server) ?? known;
  }

  #mayFetch(server: ServerName, purpose: 'request' | 'event', known: KnownServerKeys | undefined): boolean {
    const nowTs = this.#dependencies.now();
    const failure = this.#failures.get(server);
    if (failure === undefined) {
      return known === undefined || nowTs >= known.fetchedAt + this.#options.minRefetchMs;
    }
    // Who calls is perhaps back: an hour of backoff would refuse it for an hour.
    const soonest =
      purpose === 'request' ? failure.failedAt + this.#options.maxBackoffForRequestMs : failure.retryAt;
    return nowTs >= Math.min(failure.retryAt, soonest);
  }

  #load(server: ServerName): Promise<KnownServerKeys | undefined> {
    const known = this.#known.get(server);
    if (known !== undefined) return Promise.resolve(known);
    const failure = this.#failures.get(server);
    if (failure?.isKnown === false && this.#dependencies.now() < failure.retryAt) {
      return Promise.resolve(undefined);
    }
    return shared(this.#loading, server, async () => {
      const stored = await this.#dependencies.store.load(server);
      // Meanwhile a fetch may have found newer ones.
      if (stored !== undefined && !this.#known.has(server)) this.#known.set(server, stored);
      return this.#known.get(server);
    });
  }

  #fetch(server: ServerName): Promise<void> {
    return shared(this.#fetching, server, () => this.#turns.run(() => this.#fetchNow(server)));
  }

  async #fetchNow(server: ServerName): Promise<void> {
    const { fetchKeys, now } = this.#dependencies;
    const answer = await fetchKeys(server);
    const nowTs = now();
    const fetched = answer.ok ? readServerKeys(answer.body, server, nowTs) : undefined;
    const known = this.#known.peek(server);
    if (fetched === undefined || 'fault' in fetched) {
      this.#failures.set(server, this.#failureOf(server, answer, known !== undefined));
      return;
    }
    this.#failures.delete(server);
    // An answer that has already run out says nothing of now: it may add old keys, but displaces none that is valid.
    const isNewer =
      known === undefined || fetched.validUntilTs >= nowTs || fetched.validUntilTs >= known.validUntilTs;
    const merged = isNewer ? merge(fetched, known, nowTs) : merge(known, fetched, nowTs);
    await this.#keep(server, { ...merged, fetchedAt: nowTs });
  }

  #failureOf(server: ServerName, answer: ServerKeyFetch, isKnown: boolean): Failure {
    const { now, random } = this.#dependencies;
    const { minBackoffMs, maxBackoffMs } = this.#options;
    const failures = (this.#failures.peek(server)?.failures ?? 0) + 1;
    const grown = minBackoffMs * 2 ** Math.min(failures - 1, 30);
    const asked = answer.ok ? 0 : (answer.retryAfterMs ?? 0);
    const waitMs = Math.min(Math.max(grown, asked), maxBackoffMs);
    const failedAt = now();
    return { failures, failedAt, retryAt: failedAt + waitMs * (0.5 + random() / 2), isKnown };
  }

  /** In memory at once, in the store in order: what is saved last is what is known last. */
  async #keep(server: ServerName, keys: KnownServerKeys): Promise<void> {
    this.#known.set(server, keys);
    const before = this.#saving.get(server) ?? Promise.resolve();
    const save = before
      // Whoever began the earlier save is told of its failure.
      .catch(() => {})
      .then(() => this.#dependencies.store.save(server, this.#known.peek(server) ?? keys));
    this.#saving.set(server, save);
    try {
      await save;
    } finally {
      if (this.#saving.get(server) === save) this.#saving.delete(server);
    }
  }
}

function eventVerifyKey(
  known: KnownServerKeys | undefined,
  keyId: string,
  nowTs: number,
): EventVerifyKey | undefined {
  if (known === undefined) return undefined;
  const { validUntilTs } = known;
  const current = known.verifyKeys.get(keyId);
  if (current !== undefined) {
    return {
      publicKey: current,
      validAt: (atTs, { enforcesKeyValidity }) =>
        isKeyUsableForEvent({ enforcesKeyValidity, atTs, validUntilTs, nowTs }),
    };
  }
  const old = known.oldVerifyKeys.get(keyId);
  if (old === undefined) return undefined;
  const { publicKey, expiredTs } = old;
  return {
    publicKey,
    validAt: (atTs, { enforcesKeyValidity }) =>
      isKeyUsableForEvent({ enforcesKeyValidity, atTs, expiredTs, nowTs }),
  };
}

/**
 * The newer word on a server's keys, with what the older knew besides: its old keys, and its current keys, which
 * ended when the older word ran out or, if that is still to come, now.
 */
function merge(newer: ServerKeys, older: ServerKeys | undefined, nowTs: number): ServerKeys {
  if (older === undefined) return newer;
  const oldVerifyKeys = new Map<string, OldVerifyKey>(newer.oldVerifyKeys);
  const isNews = (keyId: string) => !newer.verifyKeys.has(keyId) && !newer.oldVerifyKeys.has(keyId);
  for (const [keyId, old] of older.oldVerifyKeys) {
    if (isNews(keyId)) oldVerifyKeys.set(keyId, old);
  }
  const withdrawnTs = Math.min(older.validUntilTs, nowTs);
  for (const [keyId, publicKey] of older.verifyKeys) {
    if (isNews(keyId)) oldVerifyKeys.set(keyId, { publicKey, expiredTs: withdrawnTs });
  }
  const latest = [...oldVerifyKeys].sort(([, a], [, b]) => b.expiredTs - a.expiredTs).slice(0, maxOldKeys);
  return { ...newer, oldVerifyKeys: new Map(latest) };
}

/** The work under way for this server, or new work that others may share until it is done. */
function shared<T>(
  underWay: Map<ServerName, Promise<T>>,
  server: ServerName,
  begin: () => Promise<T>,
): Promise<T> {
  const known = underWay.get(server);
  if (known !== undefined) return known;
  const begun = begin().finally(() => underWay.delete(server));
  underWay.set(server, begun);
  return begun;
}

/** So many at a time, so many waiting; the rest is not done at all. */
class Turns {
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(
    readonly maxRunning: number,
    readonly maxWaiting: number,
  ) {}

  async run(task: () => Promise<void>): Promise<void> {
    if (this.#running < this.maxRunning) {
      this.#running += 1;
    } else {
      if (this.#waiting.length >= this.maxWaiting) return;
      // Whoever ends passes its turn on, so the count stays.
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    try {
      await task();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#running -= 1;
      else next();
    }
  }
}
