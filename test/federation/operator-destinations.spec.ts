import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PassThrough } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import type { DynamicModule } from '@nestjs/common';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { noTracing } from '@exeunt/tracing';
import { SenderModule } from '../../apps/federation-sender/src/sender.module.js';
import { createListener } from '../../apps/gateway/src/listeners.js';
import { PlatformModule } from '../../apps/gateway/src/platform.module.js';
import { listen } from '../../apps/gateway/src/standalone.js';
import {
  listDestinations,
  parkDestination,
  retryAllFailing,
  retryDestination,
  showDestination,
  unparkDestination,
  type Printing,
} from '../../apps/operator/src/destinations.js';
import { OperatorApi } from '../../apps/operator/src/operator-api.js';
import { importRoom, type ImportedRoom } from '../harness/imported-room.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { respond, startRemoteServer, type RemoteServer } from '../harness/remote-server.js';

/** What the commands of an operator say and do, on a whole server with a peer that is up and one that is not. */

let ours: LeaveServer;
let up: RemoteServer;
let down: RemoteServer;
let room: ImportedRoom;
let api: OperatorApi;
/** What `down` answers. */
let status = 500;

beforeAll(async () => {
  // A backoff that outlasts the tests: what is sent meanwhile is sent because somebody wants it.
  ours = await startLeaveServer({ environment: { EXEUNT_SENDER_BACKOFF_MIN_MS: '3600000' } });
  up = await startRemoteServer({ host: '127.0.0.2' });
  down = await startRemoteServer({ host: '127.0.0.3' });
  down.on('PUT', '/_matrix/federation/v1/send/', (_, response) => {
    const refusal = { errcode: 'M_UNKNOWN', error: 'no \u001b[31mred\u0007 light' };
    respond(response, status, status === 200 ? { pdus: {} } : refusal);
  });
  api = new OperatorApi(ours.platformUrl, ours.token);
  room = await importRoom(ours, {
    version: '11',
    peers: [up, down],
    grow(builder) {
      builder.member(`@ursula:${up.name}`, 'join');
      builder.member(`@dora:${down.name}`, 'join');
    },
  });
});
afterAll(async () => {
  await Promise.all([ours?.stop(), up?.close(), down?.close()]);
});

/** Something more waits for `down`, which fails; `up` has everything. */
async function failing(): Promise<void> {
  const standing = async (peer: RemoteServer) =>
    (await ours.platform('GET', `/v1/destinations/${encodeURIComponent(peer.name)}`)).body;
  status = 500;
  const before = Number((await standing(down))['pending'] ?? 0);
  const topic = randomUUID();
  await room.say('m.room.topic', '', { topic });
  await up.received(({ body }) => body.includes(topic));
  await settle('one fails and the other does not', async () => {
    const [one, other] = await Promise.all([standing(down), standing(up)]);
    const fails = one['state'] === 'backing-off' && Number(one['pending']) > before;
    return fails && other['state'] === 'idle' && other['pending'] === 0 ? true : undefined;
  });
}

const justOnce = { watch: false, everyMs: 1 };
const watch = { watch: true, everyMs: 1 };

/** Runs a command, on a terminal of so many columns or without one. */
async function act(
  command: (printing: Printing) => Promise<number>,
  { columns, json = false }: { readonly columns?: number; readonly json?: boolean } = {},
): Promise<{ readonly code: number; readonly text: string; readonly json: unknown }> {
  const stream = new PassThrough();
  const terminal = columns === undefined ? {} : { isTTY: true, columns, cursorTo: () => true };
  const code = await command({ out: Object.assign(stream, terminal) as never, json });
  const text = String(stream.read() ?? '');
  return { code, text, json: json ? JSON.parse(text) : undefined };
}

const lines = (text: string) => text.trimEnd().split('\n');

describe('exeunt destinations list', () => {
  it('has what fails on top, what it says in words, and a sum below', async () => {
    await failing();
    const { code, text } = await act((printing) => listDestinations(api, { limit: 50 }, printing));
    expect(code).toBe(0);
    const [head, first, second, sum, ...more] = lines(text);
    expect(head).toMatch(/^DESTINATION +STATE +PENDING +NEXT TRY +FAILING FOR +LAST ERROR$/);
    expect(first).toMatch(
      /^127\.0\.0\.3:\d+ +backing off +\d+ +in (59 min|1 h) +\d+ s +500 M_UNKNOWN: no .*light$/,
    );
    expect(second).toMatch(/^127\.0\.0\.2:\d+ +idle +0$/);
    expect(sum).toMatch(/^2 destinations, 1 backing off, 1 idle; \d+ PDUs? pending$/);
    expect(more).toEqual([]);
  });

  it('lets no escape sequence of a peer through to the terminal', async () => {
    await failing();
    const { text } = await act((printing) => showDestination(api, down.name, justOnce, printing));
    expect(text).toContain('no \ufffd[31mred\ufffd light');
    expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f]/);
  });

  it.each([60, 80, 140])('fits a terminal of %i columns', async (columns) => {
    await failing();
    for (const command of [
      (printing: Printing) => listDestinations(api, { limit: 50 }, printing),
      (printing: Printing) => showDestination(api, down.name, justOnce, printing),
    ]) {
      const widths = lines((await act(command, { columns })).text).map(
        (line) => stripVTControlCharacters(line).length,
      );
      expect(Math.max(...widths)).toBeLessThanOrEqual(columns);
    }
  });

  it('takes filters and a limit, and says what it left out', async () => {
    await failing();
    const list = async (filter: object) =>
      lines((await act((printing) => listDestinations(api, { limit: 50, ...filter }, printing))).text);
    expect(await list({ state: 'idle' })).toHaveLength(3);
    expect((await list({ state: 'parked' })).join()).toBe('0 destinations; 0 PDUs pending');
    expect((await list({ pending: true }))[1]).toContain(down.name);
    expect((await list({ limit: 1 })).at(-1)).toBe('and 1 more: --limit 2 shows all');
  });

  it('gives a program the same as the API does', async () => {
    await failing();
    const list = await act((printing) => listDestinations(api, { limit: 1 }, printing), { json: true });
    const { destinations } = await ours.ok('GET', '/v1/destinations');
    expect(list.json).toEqual({ destinations: (destinations as unknown[]).toReversed() });
    const shown = await act((printing) => showDestination(api, down.name, justOnce, printing), {
      json: true,
    });
    expect(shown.json).toEqual(await ours.ok('GET', `/v1/destinations/${encodeURIComponent(down.name)}`));
  });
});

describe('exeunt destinations retry', () => {
  it('and watch ends with 0 when nothing waits any more', async () => {
    await failing();
    status = 200;
    const { code, text } = await act((printing) => retryDestination(api, down.name, watch, printing));
    expect(code).toBe(0);
    expect(lines(text).at(-1)).toBe('nothing waits');
  });

  it('and watch ends with 1 when it fails again, and says why and when the next try is', async () => {
    await failing();
    const { code, text } = await act((printing) => retryDestination(api, down.name, watch, printing));
    expect(code).toBe(1);
    expect(text).toMatch(
      /nothing moves\n127\.0\.0\.3:\d+: backing off: tried again in .*; 500 M_UNKNOWN: no/,
    );
  });

  it('draws a bar on a terminal', async () => {
    await failing();
    status = 200;
    const { code, text } = await act((printing) => retryDestination(api, down.name, watch, printing), {
      columns: 80,
    });
    expect(code).toBe(0);
    expect(stripVTControlCharacters(text)).toMatch(/█{40} \d+ of \d+ PDUs? delivered/);
  });

  it('tells a program in a line a change', async () => {
    await failing();
    status = 200;
    const out = new PassThrough();
    expect(await retryDestination(api, down.name, watch, { out: out as never, json: true })).toBe(0);
    const told = lines(String(out.read())).map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(told.at(-2)).toMatchObject({ pending: 0 });
    expect(told.at(-1)).toEqual({ result: 'empty', stuck: [] });
  });

  it('of all that fail leaves alone what an operator has parked', async () => {
    await failing();
    await act((printing) => parkDestination(api, down.name, printing));
    status = 200;
    const none = await act((printing) => retryAllFailing(api, watch, printing));
    expect(none.text).toBe('0 failing, all of them are tried now\n0 of 0 PDUs delivered\nnothing waits\n');
    await act((printing) => unparkDestination(api, down.name, printing));
    await settle('what waits is delivered', async () => {
      const { pending } = await ours.ok('GET', `/v1/destinations/${encodeURIComponent(down.name)}`);
      return pending === 0 ? true : undefined;
    });
    await failing();
    status = 200;
    const all = await act((printing) => retryAllFailing(api, watch, printing));
    expect(all.code).toBe(0);
    expect(all.text).toContain('1 failing, all of them are tried now');
  });
});

describe('exeunt destinations park', () => {
  it('has nothing sent until it is unparked', async () => {
    await failing();
    status = 200;
    const parked = await act((printing) => parkDestination(api, down.name, printing));
    expect(parked.text).toMatch(/^127\.0\.0\.3:\d+ is parked; \d+ PDUs? wait\n$/);
    await room.say('m.room.topic', '', { topic: 'while parked' });
    const shown = await act((printing) => showDestination(api, down.name, watch, printing));
    expect(shown.code).toBe(1);
    expect(shown.text).toMatch(/state +parked by hand (now|\d+ s ago); nothing is sent until/);
    await act((printing) => unparkDestination(api, down.name, printing));
    expect((await act((printing) => showDestination(api, down.name, watch, printing))).code).toBe(0);
  });

  it('says so of a server that nothing was ever sent to', async () => {
    for (const command of [parkDestination, unparkDestination]) {
      await expect(act((printing) => command(api, 'stranger.test', printing))).rejects.toThrow(
        '404 nothing was ever sent to stranger.test',
      );
    }
  });
});

describe('the other listeners', () => {
  const listening: { close(): Promise<unknown> | unknown }[] = [];
  afterAll(async () => {
    for (const each of listening) await each.close();
  });
  const listOf = (url: string) =>
    act((printing) => listDestinations(new OperatorApi(url, ours.token), { limit: 9 }, printing));
  const listenerOf = async (module: DynamicModule): Promise<string> => {
    const log = pino({ level: 'silent' });
    const app = await createListener({ module, maxBodyBytes: 65_536, log, tracing: noTracing });
    listening.push(app);
    return listen(app, { host: '127.0.0.1', port: 0 }, 'http');
  };

  it("a federation-sender's answers as the platform's does", async () => {
    await failing();
    const { sender, discovery, side, readiness } = ours.running.platform;
    const { token } = ours;
    const url = await listenerOf(
      SenderModule.on({ sender: sender!, discovery, metrics: side.metrics, token, readiness }),
    );
    const { text } = await listOf(url);
    expect(text).toMatch(/127\.0\.0\.3:\d+ +backing off/);
    expect(lines(text)).toHaveLength(4);
  });

  it("a gateway's has no destinations, and who to ask instead is said", async () => {
    const { discovery, side, readiness } = ours.running.platform;
    const { token } = ours;
    const url = await listenerOf(PlatformModule.on({ side, sender: undefined, discovery, token, readiness }));
    await expect(listOf(url)).rejects.toThrow(/is a gateway that does not send.* --url http:\/\/HOST:8091/);
  });

  it.each([
    ['what is no platform API at all is said to be none', '<html>Welcome</html>', 'is no platform API'],
    [
      'one that says no is quoted',
      '{"errcode":"M_UNKNOWN_TOKEN","error":"not the platform token"}',
      '401 not the platform token',
    ],
  ])('%s', async (_, body, words) => {
    const other = createServer((_, response) => void response.writeHead(401).end(body));
    listening.push(other);
    other.listen(0, '127.0.0.1');
    await once(other, 'listening');
    await expect(listOf(`http://127.0.0.1:${(other.address() as AddressInfo).port}`)).rejects.toThrow(words);
  });
});
