import { afterEach, describe, expect, it } from 'vitest';
import { FederationClient } from '@exeunt/federation-client';
import {
  checkPduSignatures,
  isPduFault,
  parsePdu,
  parseServerName,
  signPdu,
  type ServerName,
} from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { encodeUnpaddedBase64, selectEd25519, signJson, withKeys } from '@exeunt/signing';
import type { JsonObject, SigningKey } from '@exeunt/signing';
import { createManualClock, type ManualClock } from '../../../test/harness/manual-clock.js';
import { startRemoteServer, type RemoteServer } from '../../../test/harness/remote-server.js';
import { KeyRing, type KeyRingDependencies, type KeyRingOptions, type ServerKeyFetch } from './key-ring.js';
import { OwnKeys } from './own-keys.js';
import { InMemoryServerKeyStore, type ServerKeyStore } from './server-key-store.js';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const v4 = version('4');
const v10 = version('10');
const ourName = serverName('exeunt.test');
const own = OwnKeys.parse(ourName, 'ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n');
const peer = serverName('peer.test');

const toClose: { close(): unknown }[] = [];
afterEach(async () => {
  await Promise.all(toClose.splice(0).map((each) => each.close()));
});

describe('the key of a request', () => {
  it('is fetched once and then known', async () => {
    const { ring, fetches } = setUp({ [peer]: [published('a')] });

    expect(await ring.keyForRequest(peer, 'ed25519:a')).toEqual(publicKey('a'));
    expect(await ring.keyForRequest(peer, 'ed25519:a')).toEqual(publicKey('a'));

    expect(fetches).toEqual([peer]);
  });

  it('is fetched once for all who ask at the same time', async () => {
    const { ring, fetches } = setUp({ [peer]: [published('a')] });

    const found = await Promise.all(Array.from({ length: 100 }, () => ring.keyForRequest(peer, 'ed25519:a')));

    expect(new Set(found.map((key) => Buffer.from(key ?? []).toString('hex'))).size).toBe(1);
    expect(fetches).toEqual([peer]);
  });

  it('is never an old one', async () => {
    const { ring } = setUp({ [peer]: [published('a', { old: { b: 5 } })] });

    expect(await ring.keyForRequest(peer, 'ed25519:b')).toBeUndefined();
  });

  it('is good until it runs out, and then asked for again', async () => {
    const { ring, clock, fetches } = setUp({
      [peer]: [published('a', { validForMs: hourMs }), published('a', { validForMs: 3 * hourMs })],
    });
    await ring.keyForRequest(peer, 'ed25519:a');

    await clock.advance(hourMs);
    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeDefined();
    expect(fetches).toHaveLength(1);

    await clock.advance(1);
    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeDefined();
    expect(fetches).toHaveLength(2);
  });

  it('has run out and cannot be had again: there is none', async () => {
    const { ring, clock } = setUp({ [peer]: [published('a', { validForMs: hourMs }), down] });
    await ring.keyForRequest(peer, 'ed25519:a');
    await clock.advance(hourMs + 1);

    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeUndefined();
  });

  it('is believed for a week at most', async () => {
    const { ring, clock, fetches } = setUp({
      [peer]: [published('a', { validForMs: 400 * dayMs }), published('b')],
    });
    await ring.keyForRequest(peer, 'ed25519:a');
    await clock.advance(7 * dayMs + 1);

    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeUndefined();
    expect(fetches).toHaveLength(2);
  });

  it('is unknown: the server is asked now and then, not for each junk ID', async () => {
    const { ring, clock, fetches } = setUp({ [peer]: [published('a'), published('a'), published('new')] });
    const junk = (count: number) =>
      Promise.all(
        Array.from({ length: count }, (_, index) => ring.keyForRequest(peer, `ed25519:junk${index}`)),
      );
    await junk(50);
    await junk(50);
    expect(fetches).toHaveLength(1);

    await clock.advance(30_000);
    await junk(50);
    expect(fetches).toHaveLength(2);

    // A key that is new is found the same way.
    await clock.advance(30_000);
    expect(await ring.keyForRequest(peer, 'ed25519:new')).toEqual(publicKey('new'));
    expect(fetches).toHaveLength(3);
  });

  it('is our own: nobody is asked', async () => {
    const { ring, fetches } = setUp({});

    expect(await ring.keyForRequest(ourName, 'ed25519:1')).toEqual(own.currentKey('ed25519:1'));
    expect(await ring.keyForRequest(ourName, 'ed25519:2')).toBeUndefined();
    expect(fetches).toEqual([]);
  });
});

describe('a server that fails', () => {
  it('is left alone for a time that doubles up to an hour', async () => {
    const { ring, clock, fetches } = setUp({ [peer]: [down] });
    const ask = () => ring.keysForEvents([{ server: peer, keyId: 'ed25519:a', atTs: 5 }], v10);
    await ask();

    for (const waitMs of [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600].map((s) => s * 1000)) {
      const before = fetches.length;
      await clock.advance(waitMs - 1);
      await ask();
      expect(fetches).toHaveLength(before);
      await clock.advance(1);
      await ask();
      expect(fetches).toHaveLength(before + 1);
    }
  });

  it('is asked within a minute when it seems to be calling itself', async () => {
    const { ring, clock, fetches } = setUp(
      { [peer]: [down, published('a')] },
      { options: { minBackoffMs: hourMs } },
    );
    await ring.keyForRequest(peer, 'ed25519:a');

    await clock.advance(59_999);
    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeUndefined();
    await clock.advance(1);
    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeDefined();
    expect(fetches).toHaveLength(2);
  });

  it('may say how long, within the hour', async () => {
    const { ring, clock, fetches } = setUp({ [peer]: [{ ok: false, retryAfterMs: 30_000 }, published('a')] });
    const ask = () => ring.keysForEvents([{ server: peer, keyId: 'ed25519:a', atTs: 5 }], v10);
    await ask();
    await clock.advance(29_999);
    await ask();
    expect(fetches).toHaveLength(1);
    await clock.advance(1);
    await ask();
    expect(fetches).toHaveLength(2);
  });

  it('still has the keys that are known of it', async () => {
    const { ring, clock } = setUp({
      [peer]: [published('a'), down, { ok: true, body: { server_name: peer } }],
    });
    await ring.keyForRequest(peer, 'ed25519:a');
    for (let times = 0; times < 3; times += 1) {
      await clock.advance(60_000);
      await ring.keyForRequest(peer, 'ed25519:junk');
    }

    expect(await ring.keyForRequest(peer, 'ed25519:a')).toEqual(publicKey('a'));
  });

  it.each<[string, ServerKeyFetch]>([
    [
      'for another server',
      { ok: true, body: signJson({ server_name: 'other.test' }, 'other.test', signingKey('a')) },
    ],
    ['with no sense', { ok: true, body: [1, 2, 3] }],
  ])('by an answer %s is not asked again at once', async (_, answer) => {
    const { ring, fetches } = setUp({ [peer]: [answer] });

    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeUndefined();
    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeUndefined();
    expect(fetches).toHaveLength(1);
  });

  it('is forgotten when too many have failed since', async () => {
    const { ring, fetches } = setUp({}, { options: { maxFailures: 10 } });
    for (let index = 0; index < 20; index += 1) {
      await ring.keyForRequest(serverName(`s${index}.test`), 'ed25519:a');
    }
    await ring.keyForRequest(serverName('s19.test'), 'ed25519:a');
    expect(fetches).toHaveLength(20);
    await ring.keyForRequest(serverName('s0.test'), 'ed25519:a');
    expect(fetches).toHaveLength(21);
  });
});

describe('the keys for events', () => {
  it('are valid by the rules of the room version', async () => {
    const { ring, clock } = setUp({ [peer]: [published('a', { old: { b: 1000 }, validForMs: hourMs })] });
    const validUntilTs = clock.now() + hourMs;
    const keyOf = await ring.keysForEvents([{ server: peer, keyId: 'ed25519:a', atTs: 5 }], v10);

    const current = keyOf(peer, 'ed25519:a');
    expect(current?.publicKey).toEqual(publicKey('a'));
    expect(current?.validAt(validUntilTs, v10)).toBe(true);
    expect(current?.validAt(validUntilTs + 1, v10)).toBe(false);
    expect(current?.validAt(validUntilTs + 1, v4)).toBe(true);
    const old = keyOf(peer, 'ed25519:b');
    expect(old?.validAt(999, v10)).toBe(true);
    expect(old?.validAt(1000, v10)).toBe(false);
    expect(old?.validAt(1000, v4)).toBe(false);
    expect(keyOf(peer, 'ed25519:c')).toBeUndefined();
    expect(keyOf(serverName('not.asked'), 'ed25519:a')).toBeUndefined();
    expect(keyOf(ourName, 'ed25519:1')?.validAt(1, v10)).toBe(true);
  });

  it.each([
    ['stale, where that is enforced: the server is asked', v10, 2],
    ['stale, where that does not count: nobody is asked', v4, 1],
  ])('are %s', async (_, roomVersion, expected) => {
    const { ring, clock, fetches } = setUp({
      [peer]: [published('a', { validForMs: hourMs }), published('a', { validForMs: 3 * hourMs })],
    });
    await ring.keyForRequest(peer, 'ed25519:a');
    await clock.advance(2 * hourMs);

    const keyOf = await ring.keysForEvents(
      [{ server: peer, keyId: 'ed25519:a', atTs: clock.now() }],
      roomVersion,
    );

    expect(keyOf(peer, 'ed25519:a')?.validAt(clock.now(), roomVersion)).toBe(true);
    expect(fetches).toHaveLength(expected);
  });

  it('of many servers cost one request a server, so many at a time', async () => {
    const servers = Array.from({ length: 200 }, (_, index) => serverName(`s${index}.test`));
    const answers = Object.fromEntries(servers.map((server) => [server, [published('a', { server })]]));
    let open = 0;
    let most = 0;
    const { ring, fetches } = setUp(answers, {
      options: { maxFetches: 8 },
      onFetch: async () => {
        open += 1;
        most = Math.max(most, open);
        await new Promise((resolve) => setImmediate(resolve));
        open -= 1;
      },
    });
    const needs = servers.flatMap((server) =>
      [1, 2, 3].map((atTs) => ({ server, keyId: 'ed25519:a', atTs })),
    );

    const [keyOf] = await Promise.all([ring.keysForEvents(needs, v10), ring.keysForEvents(needs, v10)]);

    expect(servers.every((server) => keyOf(server, 'ed25519:a') !== undefined)).toBe(true);
    expect(fetches).toHaveLength(200);
    expect(most).toBeLessThanOrEqual(8);
  });

  it('are not waited for without a bound', async () => {
    let release = () => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const { ring, fetches } = setUp(
      {},
      { options: { maxFetches: 1, maxWaitingFetches: 2 }, onFetch: () => held },
    );
    const asked = [1, 2, 3, 4, 5].map((index) =>
      ring.keyForRequest(serverName(`s${index}.test`), 'ed25519:a'),
    );

    // The last two are answered while the others wait.
    expect(await Promise.all(asked.slice(3))).toEqual([undefined, undefined]);
    release();
    await Promise.all(asked);
    expect(fetches).toHaveLength(3);
  });

  it('check a signed PDU', async () => {
    const { ring, clock } = setUp({ [peer]: [published('a')] });
    const leave = {
      type: 'm.room.member',
      room_id: '!room:peer.test',
      sender: '@kim:peer.test',
      state_key: '@kim:peer.test',
      content: { membership: 'leave' },
      depth: 3,
      origin_server_ts: clock.now(),
      auth_events: [],
      prev_events: [],
    };
    const pdu = parsePdu(signPdu(leave, v10, peer, signingKey('a')), v10);
    if (isPduFault(pdu)) throw new Error(pdu.detail);

    const keyOf = await ring.keysForEvent(pdu);

    expect(await checkPduSignatures(pdu, keyOf, selectEd25519())).toEqual({ ok: true });
  });
});

describe('whoever waits for keys', () => {
  const need = { server: peer, keyId: 'ed25519:a', atTs: 5 };

  it('can tell a key that its server did not tell from one that it has not', async () => {
    const { ring, clock } = setUp({ [peer]: [down, published('b')] });
    expect(await ring.lastAnswered(ourName)).toBe(Infinity);
    const since = clock.now();
    await ring.keysForEvents([need], v10);
    expect(await ring.lastAnswered(peer)).toBe(0);
    await clock.advance(hourMs);
    await ring.keysForEvents([need], v10);
    expect(await ring.lastAnswered(peer)).toBe(since + hourMs);
  });

  it('is answered from what is known where nobody may be asked', async () => {
    const { ring, fetches } = setUp({ [peer]: [published('a')] });
    expect((await ring.keysForEvents([need], v10, false))(peer, 'ed25519:a')).toBeUndefined();
    expect(fetches).toEqual([]);
    await ring.keysForEvents([need], v10);
    expect((await ring.keysForEvents([need], v10, false))(peer, 'ed25519:a')).toBeDefined();
  });
});

describe('keys that a server has replaced', () => {
  it('stay good for what they signed until then', async () => {
    const { ring, clock } = setUp({ [peer]: [published('a', { validForMs: dayMs }), published('b')] });
    await ring.keyForRequest(peer, 'ed25519:a');
    await clock.advance(hourMs);
    await ring.keyForRequest(peer, 'ed25519:b');
    const replacedTs = clock.now();

    const keyOf = await ring.keysForEvents([{ server: peer, keyId: 'ed25519:a', atTs: replacedTs - 1 }], v10);

    expect(await ring.keyForRequest(peer, 'ed25519:a')).toBeUndefined();
    expect(keyOf(peer, 'ed25519:a')?.validAt(replacedTs - 1, v10)).toBe(true);
    expect(keyOf(peer, 'ed25519:a')?.validAt(replacedTs, v10)).toBe(false);
  });

  it('are kept when it lists them no longer', async () => {
    const { ring, clock } = setUp({ [peer]: [published('a', { old: { b: 1000 } }), published('a')] });
    await ring.keyForRequest(peer, 'ed25519:a');
    await clock.advance(hourMs);
    await ring.keyForRequest(peer, 'ed25519:junk');

    const keyOf = await ring.keysForEvents([{ server: peer, keyId: 'ed25519:b', atTs: 5 }], v10);
    expect(keyOf(peer, 'ed25519:b')?.validAt(999, v10)).toBe(true);
  });

  it('are not kept without end', async () => {
    const answers = Array.from({ length: 100 }, (_, index) => published(`k${index}`));
    const { ring, clock, store } = setUp({ [peer]: answers });
    for (let index = 0; index < 100; index += 1) {
      await ring.keyForRequest(peer, `ed25519:k${index}`);
      await clock.advance(30_000);
    }

    const kept = await store.load(peer);
    expect(kept?.oldVerifyKeys.size).toBe(64);
    expect(kept?.oldVerifyKeys.has('ed25519:k98')).toBe(true);
    expect(kept?.oldVerifyKeys.has('ed25519:k0')).toBe(false);
  });

  it('are not replaced by an answer that has run out', async () => {
    const { ring, clock } = setUp({ [peer]: [published('a'), published('b', { validForMs: -hourMs })] });
    await ring.keyForRequest(peer, 'ed25519:a');
    await clock.advance(30_000);

    expect(await ring.keyForRequest(peer, 'ed25519:b')).toBeUndefined();
    expect(await ring.keyForRequest(peer, 'ed25519:a')).toEqual(publicKey('a'));
  });
});

describe('keys that are handed in', () => {
  it('check events without any request', async () => {
    const { ring, clock, fetches } = setUp({ [peer]: [down] });
    expect(await ring.learn(response(peer, 'a', clock.now() + dayMs))).toEqual({ server: peer });

    const keyOf = await ring.keysForEvents([{ server: peer, keyId: 'ed25519:a', atTs: 5 }], v10);

    expect(keyOf(peer, 'ed25519:a')?.validAt(5, v10)).toBe(true);
    expect(fetches).toEqual([]);
  });

  it('authenticate a request only where the server itself cannot be asked', async () => {
    const { ring, clock, fetches } = setUp({ [peer]: [published('true')] });
    await ring.learn(response(peer, 'forged', clock.now() + dayMs));

    expect(await ring.keyForRequest(peer, 'ed25519:forged')).toBeUndefined();
    expect(fetches).toEqual([peer]);
  });

  it('do not displace what the server has said', async () => {
    const { ring, clock } = setUp({ [peer]: [published('a')] });
    await ring.keyForRequest(peer, 'ed25519:a');

    await ring.learn(
      signJson(unsigned(peer, 'a', clock.now() + 6 * dayMs, signingKey('forged')), peer, {
        ...signingKey('forged'),
        keyId: 'ed25519:a',
      }),
    );
    await ring.learn(response(peer, 'forged', clock.now() + 6 * dayMs));

    expect(await ring.keyForRequest(peer, 'ed25519:a')).toEqual(publicKey('a'));
    expect(await ring.keyForRequest(peer, 'ed25519:forged')).toBeUndefined();
  });

  it('may come in any order', async () => {
    const { ring, clock } = setUp({ [peer]: [down] });
    const ts = clock.now();
    await Promise.all([
      ring.learn(response(peer, 'third', ts)),
      ring.learn(response(peer, 'first', ts - 20 * dayMs)),
      ring.learn(response(peer, 'second', ts - 10 * dayMs)),
    ]);

    const keyOf = await ring.keysForEvents(
      ['first', 'second', 'third'].map((key) => ({ server: peer, keyId: `ed25519:${key}`, atTs: 5 })),
      v10,
    );
    expect(keyOf(peer, 'ed25519:first')?.validAt(ts - 20 * dayMs - 1, v10)).toBe(true);
    expect(keyOf(peer, 'ed25519:first')?.validAt(ts - 20 * dayMs, v10)).toBe(false);
    expect(keyOf(peer, 'ed25519:second')?.validAt(ts - 10 * dayMs - 1, v10)).toBe(true);
    expect(keyOf(peer, 'ed25519:third')?.validAt(ts, v10)).toBe(true);
  });

  it.each<[string, JsonObject]>([
    ['no server name', { server_name: 'a b' }],
    ['no signature', unsigned(peer, 'a', 5)],
  ])('are refused with %s', async (_, body) => {
    const { ring, store } = setUp({});
    expect(await ring.learn(body)).toHaveProperty('fault');
    expect(await store.load(peer)).toBeUndefined();
  });
});

describe('keys in the store', () => {
  it('are known after a restart', async () => {
    const first = setUp({ [peer]: [published('a')] });
    await first.ring.keyForRequest(peer, 'ed25519:a');

    const second = setUp({}, { store: first.store });
    const found = await Promise.all([1, 2, 3].map(() => second.ring.keyForRequest(peer, 'ed25519:a')));

    expect(found).toEqual([publicKey('a'), publicKey('a'), publicKey('a')]);
    expect(second.fetches).toEqual([]);
  });

  it('are read again when memory has had no room for them', async () => {
    const others = [1, 2, 3].map((index) => serverName(`s${index}.test`));
    const { ring, fetches } = setUp(
      Object.fromEntries([peer, ...others].map((server) => [server, [published('a', { server })]])),
      { options: { maxServers: 2 } },
    );
    for (const server of [peer, ...others, peer]) await ring.keyForRequest(server, 'ed25519:a');

    expect(fetches).toHaveLength(4);
  });

  it('that is broken is an exception', async () => {
    const store: ServerKeyStore = {
      load: () => Promise.reject(new Error('disk gone')),
      save: () => Promise.reject(new Error('disk gone')),
    };
    const { ring } = setUp({ [peer]: [published('a')] }, { store });

    await expect(ring.keyForRequest(peer, 'ed25519:a')).rejects.toThrow('disk gone');
  });
});

describe('over the network', () => {
  it('a hundred requests at once ask the peer once', async () => {
    const { ring, remote } = await setUpRemote();

    const found = await Promise.all(
      Array.from({ length: 100 }, () => ring.keyForRequest(remote.name, remote.key.keyId)),
    );

    expect(found.every((key) => key !== undefined)).toBe(true);
    expect(remote.keyRequests).toBe(1);
  });

  it.each<[string, (remote: RemoteServer) => void]>([
    ['fails', (remote) => (remote.keys = 'fail')],
    ['hangs', (remote) => (remote.keys = 'hang')],
    [
      'answers with 10 MB',
      (remote) => answerWith(remote, JSON.stringify(remote.keyResponse()) + ' '.repeat(10_000_000)),
    ],
    [
      'answers for another',
      (remote) => answerWith(remote, JSON.stringify(remote.keyResponse({ server_name: 'other.test' }))),
    ],
    [
      'signs badly',
      (remote) =>
        answerWith(
          remote,
          JSON.stringify(withKeys(remote.keyResponse(), { valid_until_ts: 9_999_999_999_999 })),
        ),
    ],
    [
      'has a thousand keys',
      (remote) =>
        answerWith(remote, JSON.stringify(remote.keyResponse({ verify_keys: thousandKeys(remote.key) }))),
    ],
    ['nests without end', (remote) => answerWith(remote, '{"a":'.repeat(100_000))],
  ])('a peer that %s has no keys, and is left alone', async (why, misbehave) => {
    const { ring, remote } = await setUpRemote(why === 'hangs' ? 200 : undefined);
    misbehave(remote);

    for (let times = 0; times < 3; times += 1) {
      expect(await ring.keyForRequest(remote.name, remote.key.keyId)).toBeUndefined();
    }
    expect(remote.keyRequests).toBe(1);
  });
});

interface SetUp {
  options?: KeyRingOptions;
  store?: ServerKeyStore;
  onFetch?: () => Promise<void>;
}

/** An answer, or what makes one for a server at a time. */
type Script = ServerKeyFetch | ((server: ServerName, nowTs: number) => ServerKeyFetch);

const down: ServerKeyFetch = { ok: false };

/** Each server gives its answers in turn, the last for ever; servers without answers are down. */
function setUp(answers: Record<string, readonly Script[]>, { options = {}, store, onFetch }: SetUp = {}) {
  const clock: ManualClock = createManualClock();
  const fetches: ServerName[] = [];
  const keyStore = store ?? new InMemoryServerKeyStore();
  const dependencies: KeyRingDependencies = {
    fetchKeys: async (server) => {
      const given = answers[server] ?? [down];
      const before = fetches.filter((fetched) => fetched === server).length;
      fetches.push(server);
      await onFetch?.();
      const script = given[Math.min(before, given.length - 1)] ?? down;
      return typeof script === 'function' ? script(server, clock.now()) : script;
    },
    store: keyStore,
    own,
    now: clock.now,
    // The longest that the jitter gives.
    random: () => 1,
    options,
  };
  return { ring: new KeyRing(dependencies), clock, fetches, store: keyStore };
}

async function setUpRemote(timeoutMs = 20_000) {
  const remote = await startRemoteServer();
  const client = new FederationClient({
    serverName: ourName,
    signingKey: own.signingKey,
    now: Date.now,
    options: {
      timeoutMs,
      verifyTls: true,
      ca: remote.certificate,
      allowNetworks: ['127.0.0.0/8'],
    },
  });
  toClose.push(remote, client);
  const ring = new KeyRing({
    fetchKeys: (server) => client.serverKeys(server),
    store: new InMemoryServerKeyStore(),
    own,
    now: Date.now,
    random: () => 0.5,
  });
  return { ring, remote };
}

function answerWith(remote: RemoteServer, body: string): void {
  remote.keys = (_, response) => void response.end(body);
}

/** A good answer with one current key, and old ones with when they expired. */
function published(
  keyVersion: string,
  {
    validForMs = dayMs,
    old = {},
    server,
  }: { validForMs?: number; old?: Record<string, number>; server?: ServerName } = {},
): Script {
  return (asked, nowTs) => ({
    ok: true,
    body: response(server ?? asked, keyVersion, nowTs + validForMs, old),
  });
}

function response(
  server: ServerName,
  keyVersion: string,
  validUntilTs: number,
  old: Record<string, number> = {},
): JsonObject {
  const oldVerifyKeys = Object.fromEntries(
    Object.entries(old).map(([oldVersion, expiredTs]) => [
      `ed25519:${oldVersion}`,
      { key: encodeUnpaddedBase64(publicKey(oldVersion)), expired_ts: expiredTs },
    ]),
  );
  const body = withKeys(unsigned(server, keyVersion, validUntilTs), { old_verify_keys: oldVerifyKeys });
  return signJson(body, server, signingKey(keyVersion));
}

function unsigned(
  server: ServerName,
  keyVersion: string,
  validUntilTs: number,
  key = signingKey(keyVersion),
): JsonObject {
  return {
    server_name: server,
    valid_until_ts: validUntilTs,
    verify_keys: {
      [`ed25519:${keyVersion}`]: { key: encodeUnpaddedBase64(selectEd25519().publicKeyOf(key.seed)) },
    },
  };
}

function thousandKeys(key: SigningKey): JsonObject {
  const entry = { key: encodeUnpaddedBase64(selectEd25519().publicKeyOf(key.seed)) };
  const more = Array.from({ length: 999 }, (_, index) => [`ed25519:k${index}`, entry]);
  return Object.fromEntries([[key.keyId, entry], ...more]);
}

/** A key made from its version, the same for every server. */
function signingKey(keyVersion: string): SigningKey {
  return { keyId: `ed25519:${keyVersion}`, seed: new Uint8Array(Buffer.alloc(32, `seed-${keyVersion}`)) };
}

function publicKey(keyVersion: string): Uint8Array {
  return selectEd25519().publicKeyOf(signingKey(keyVersion).seed);
}

function serverName(text: string): ServerName {
  const name = parseServerName(text);
  if (name === undefined) throw new Error(`${text} is no server name`);
  return name;
}

function version(id: string): RoomVersion {
  const found = roomVersion(id);
  if (found === undefined) throw new Error(`no room version ${id}`);
  return found;
}
