import { describe, expect, it } from 'vitest';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import { createFakeDns } from '../../../test/harness/fake-dns.js';
import { createManualClock } from '../../../test/harness/manual-clock.js';
import { ServerDiscovery, type DiscoveryLookup, type WellKnownFetch } from './server-discovery.js';
import type { CacheHeaders, WellKnownAnswer } from './well-known.js';

const minute = 60_000;
const hour = 60 * minute;
const example = name('example.com');

describe('a delegation that was found', () => {
  it('is asked for again when its time is over, not before', async () => {
    const { discovery, clock, asked } = start({
      answer: () => delegatingTo('a.test:1', { cacheControl: 'max-age=3600' }),
    });

    await discovery.resolve(example);
    await clock.advance(hour - 1);
    await discovery.resolve(example);
    expect(asked).toEqual(['example.com']);

    await clock.advance(1);
    await discovery.resolve(example);
    expect(asked).toEqual(['example.com', 'example.com']);
  });

  it('is taken back by one that says otherwise', async () => {
    const answers = [delegatingTo('a.test:1'), notFound];
    const { discovery, clock } = start({ answer: () => answers.shift() ?? notFound });

    expect(await hostsOf(discovery)).toEqual(['a.test:1']);
    await clock.advance(24 * hour);
    expect(await hostsOf(discovery)).toEqual(['example.com:8448']);
  });

  it('is forgotten on demand, and so are its SRV records', async () => {
    const { discovery, dns, asked } = start({ answer: () => delegatingTo('a.test') });
    dns.srv('_matrix-fed._tcp.a.test', [{ name: 'old.test', port: 1 }]);
    expect(await hostsOf(discovery)).toEqual(['old.test:1']);

    dns.srv('_matrix-fed._tcp.a.test', [{ name: 'new.test', port: 1 }]);
    expect(await hostsOf(discovery)).toEqual(['old.test:1']);
    discovery.forget(example);

    expect(await hostsOf(discovery)).toEqual(['new.test:1']);
    expect(asked).toHaveLength(2);
  });
});

describe('a .well-known that cannot be had', () => {
  it('is asked for less and less often, down to once an hour', async () => {
    const { discovery, clock, asked } = start({ answer: () => Promise.reject(new Error('no route')) });

    const waits: number[] = [];
    await discovery.resolve(example);
    for (let failures = 1; failures <= 8; failures += 1) {
      let waited = 0;
      while (asked.length === failures) {
        await clock.advance(minute);
        waited += 1;
        expect(await hostsOf(discovery)).toEqual(['example.com:8448']);
      }
      waits.push(waited);
    }

    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60, 60]);
  });

  it('begins anew once it was there', async () => {
    const answers = [notFound, notFound, delegatingTo('a.test:1', { cacheControl: 'max-age=60' }), notFound];
    const { discovery, clock, lookups } = start({ answer: () => answers.shift() ?? notFound });

    for (let round = 0; round < 5; round += 1) {
      await discovery.resolve(example);
      await clock.advance(2 * minute);
    }

    const lifetimes = lookups.flatMap((each) => (each.kind === 'well-known' ? [each.lifetimeMs] : []));
    expect(lifetimes).toEqual([minute, 2 * minute, minute, minute, 2 * minute]);
  });
});

describe('many who look for one server', () => {
  it('ask once', async () => {
    let answer: (answer: WellKnownAnswer) => void = () => {};
    const { discovery, dns, asked } = start({ answer: () => new Promise((resolve) => (answer = resolve)) });

    const resolutions = ['example.com', 'EXAMPLE.com', 'example.com.', 'example.com'].map((each) =>
      discovery.resolve(name(each)),
    );
    answer(notFound);
    const found = await Promise.all(resolutions);

    expect(asked).toHaveLength(1);
    expect(dns.questions).toHaveLength(2);
    expect(found.map((each) => each.kind === 'targets' && each.targets[0].hostHeader)).toEqual([
      'example.com',
      'EXAMPLE.com',
      'example.com.',
      'example.com',
    ]);
  });
});

describe('SRV records', () => {
  it('are asked for under both names at once, and remembered for five minutes', async () => {
    const { discovery, dns, clock } = start();

    await discovery.resolve(example);
    await clock.advance(5 * minute - 1);
    await discovery.resolve(example);
    expect(dns.questions).toEqual(['SRV _matrix-fed._tcp.example.com', 'SRV _matrix._tcp.example.com']);

    await clock.advance(1);
    await discovery.resolve(example);
    expect(dns.questions).toHaveLength(4);
  });

  it('are drawn anew for each request', async () => {
    let draws = 0;
    const { discovery, dns } = start({ random: () => (draws++ % 5) / 5 });
    dns.srv('_matrix-fed._tcp.example.com', [
      { name: 'a.test', port: 1, weight: 10 },
      { name: 'b.test', port: 1, weight: 10 },
    ]);

    const first = new Set<string | undefined>();
    for (let round = 0; round < 10; round += 1) first.add((await hostsOf(discovery))[0]);

    expect(first.size).toBe(2);
  });

  it('that cannot be looked up are no reason to fail, and asked for less and less often', async () => {
    const { discovery, dns, clock, lookups } = start();
    dns.srv('_matrix-fed._tcp.example.com', 'fail');

    for (let round = 0; round < 4; round += 1) {
      expect(await hostsOf(discovery)).toEqual(['example.com:8448']);
      await clock.advance(minute);
    }

    expect(lookups.filter((each) => each.kind === 'srv' && each.outcome === 'failed')).toMatchObject([
      { name: '_matrix-fed._tcp.example.com', lifetimeMs: minute },
      { lifetimeMs: 2 * minute },
      { lifetimeMs: 4 * minute },
    ]);
  });
});

describe('what is remembered', () => {
  it('is bounded: the one not used for longest is asked again', async () => {
    const { discovery, asked } = start({ maxEntries: 2 });

    for (const each of ['a.test', 'b.test', 'a.test', 'c.test', 'a.test', 'b.test']) {
      await discovery.resolve(name(each));
    }

    expect(asked).toEqual(['a.test', 'b.test', 'c.test', 'b.test']);
  });
});

const notFound: WellKnownAnswer = { kind: 'answer', status: 404, headers: {}, body: new Uint8Array() };

function delegatingTo(server: string, headers: CacheHeaders = {}): WellKnownAnswer {
  return { kind: 'answer', status: 200, headers, body: Buffer.from(JSON.stringify({ 'm.server': server })) };
}

interface Setting {
  readonly answer?: () => WellKnownAnswer | Promise<WellKnownAnswer>;
  readonly random?: () => number;
  readonly maxEntries?: number;
}

function start({ answer = () => notFound, random = () => 0, maxEntries }: Setting = {}) {
  const dns = createFakeDns();
  const clock = createManualClock();
  const asked: string[] = [];
  const lookups: DiscoveryLookup[] = [];
  const fetchWellKnown: WellKnownFetch = async (host) => {
    asked.push(host);
    return answer();
  };
  const discovery = new ServerDiscovery({
    fetchWellKnown,
    lookUpSrv: dns.lookUpSrv,
    now: clock.now,
    random,
    onLookup: (lookup) => void lookups.push(lookup),
    ...(maxEntries === undefined ? {} : { maxEntries }),
  });
  return { discovery, dns, clock, asked, lookups };
}

async function hostsOf(discovery: ServerDiscovery): Promise<readonly string[]> {
  const resolution = await discovery.resolve(example);
  return resolution.kind === 'targets' ? resolution.targets.map(({ host, port }) => `${host}:${port}`) : [];
}

function name(text: string): ServerName {
  const parsed = parseServerName(text);
  if (parsed === undefined) throw new Error(`${text} is no server name`);
  return parsed;
}
