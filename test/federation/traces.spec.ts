import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ServerName, UserId } from '@exeunt/pdu';
import { draftEvent } from '@exeunt/room';
import { isJsonObject, stringifyJson, withKeys, type JsonObject } from '@exeunt/signing';
import { importRoom, pdusOf } from '../harness/imported-room.js';
import { makeLeave, sendLeave, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { settle } from '../harness/settle.js';
import { sendRaw } from '../harness/raw-request.js';
import {
  respond,
  startRemoteServer,
  type PeerResponse,
  type RemoteServer,
} from '../harness/remote-server.js';
import { startSpanCollector, type SpanCollector } from '../harness/span-collector.js';
import { inviteOurUser, roomOf } from '../leaving-harness.js';

/** The log of a server, line by line. */
class Log {
  readonly lines: string[] = [];

  write(line: string): void {
    this.lines.push(line);
  }

  /** What `grep TEXT` over the log gives. */
  grep(text: string): readonly JsonObject[] {
    return this.lines.filter((line) => line.includes(text)).map((line) => JSON.parse(line) as JsonObject);
  }

  messages(text: string): readonly unknown[] {
    return this.grep(text).map(({ msg }) => msg);
  }
}

const theirs = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
const theirTraceId = '0af7651916cd43dd8448eb211c80319c';

let leaver: RemoteServer;
let observers: readonly RemoteServer[];

beforeAll(async () => {
  leaver = await startRemoteServer({ host: '127.0.0.2' });
  observers = [
    await startRemoteServer({ host: '127.0.0.3' }),
    await startRemoteServer({ host: '127.0.0.4' }),
  ];
});
afterAll(() => Promise.all([leaver, ...observers].map((peer) => peer?.close())));

/** A room of ours in which the leaver has a user, bob, and each observer one. */
async function roomWithBob(ours: LeaveServer): Promise<{ readonly roomId: string; readonly bob: string }> {
  const bob = `@bob:${leaver.name}`;
  const { roomId } = await importRoom(ours, {
    version: '11',
    peers: [leaver, ...observers],
    grow: (builder) => {
      builder.member(bob, 'join');
      for (const { name } of observers) builder.member(`@olga:${name}`, 'join');
    },
  });
  return { roomId, bob };
}

interface Left {
  readonly roomId: string;
  readonly eventId: string;
  /** The answer to send_leave. */
  readonly answer: PeerResponse;
}

/** Bob leaves, and every observer has heard of it when this resolves. */
async function bobLeaves(ours: LeaveServer): Promise<Left> {
  const { roomId, bob } = await roomWithBob(ours);
  const made = (await makeLeave(leaver, ours, roomId, bob)).json as JsonObject;
  const leave = signTemplate(leaver, '11', made['event'] as JsonObject);
  const answer = await sendLeave(leaver, ours, leave);
  expect(answer.status).toBe(200);
  const signatures = stringifyJson(leave.event['signatures']!);
  for (const observer of observers) {
    await observer.received((request) =>
      pdusOf(request).some((pdu) => stringifyJson(pdu['signatures']!) === signatures),
    );
  }
  return { roomId, eventId: leave.eventId, answer };
}

/** Of an answer. */
const traceIdOf = ({ headers }: PeerResponse): string => String(headers['x-exeunt-trace-id']);

describe('the log of a server', () => {
  let ours: LeaveServer;
  let log: Log;

  beforeAll(async () => {
    log = new Log();
    ours = await startLeaveServer({ logTo: log, environment: { EXEUNT_LOG_LEVEL: 'debug' } });
  });
  afterAll(() => ours?.stop());

  it('tells of a leave, under the trace that its answer names, to the 200 of each destination', async () => {
    const { roomId, eventId, answer } = await bobLeaves(ours);
    const traceId = traceIdOf(answer);
    expect(traceId).toMatch(/^[\da-f]{32}$/);
    const delivered = await settle('both deliveries are logged', () => {
      const found = log.grep(traceId).filter(({ msg }) => msg === 'transaction delivered');
      return found.length === observers.length ? found : undefined;
    });
    expect(delivered.map(({ destination }) => destination).sort()).toEqual(
      observers.map(({ name }) => name).sort(),
    );
    for (const line of delivered) expect(line['trace_ids']).toContain(traceId);
    const [accepted, ...others] = log.grep(traceId);
    expect(accepted).toMatchObject({
      level: 30,
      msg: 'leave accepted',
      event_id: eventId,
      room_id: roomId,
      origin: leaver.name,
      trace_id: traceId,
    });
    expect(others).toContainEqual(
      expect.objectContaining({
        level: 20,
        msg: 'relayed',
        event_id: eventId,
        room_id: roomId,
        destinations: 2,
      }),
    );
  });

  it('tells why a leave was refused, under the trace that the refusal names', async () => {
    const { roomId, bob } = await roomWithBob(ours);
    const made = (await makeLeave(leaver, ours, roomId, bob)).json as JsonObject;
    const leave = signTemplate(leaver, '11', withKeys(made['event'] as JsonObject, { auth_events: [] }));
    const answer = await sendLeave(leaver, ours, leave);
    expect(answer.status).toBe(403);
    const { rule, errcode } = answer.json as JsonObject;
    expect(log.grep(traceIdOf(answer))).toMatchObject([
      { msg: 'leave refused', event_id: leave.eventId, room_id: roomId, origin: leaver.name, rule },
      { msg: 'request refused', status: 403, errcode, rule, method: 'PUT' },
    ]);
  });

  it('tells of a delivery that failed and of the one that did not, under one trace', async () => {
    const [flaky] = observers;
    let refusals = 0;
    flaky!.on('PUT', '/_matrix/federation/v1/send/', (_, response) =>
      respond(response, ++refusals === 1 ? 502 : 200, {}),
    );
    const { answer } = await bobLeaves(ours);
    const lines = await settle('it is delivered', () => {
      const found = log.grep(traceIdOf(answer)).filter(({ destination }) => destination === flaky!.name);
      return found.some(({ msg }) => msg === 'transaction delivered') ? found : undefined;
    });
    expect(lines.map(({ msg }) => msg)).toEqual(['transaction not delivered', 'transaction delivered']);
    expect(new Set(lines.map(({ txnId }) => txnId)).size).toBe(1);
  });

  it.each([
    ['nobody has signed', { authorization: null }, 401, 'M_UNAUTHORIZED'],
    ['is for no endpoint', { uri: '/_matrix/federation/v1/nothing' }, 404, 'M_UNRECOGNIZED'],
    ['cannot be read', { uri: '/_matrix/%zz' }, 400, 'M_INVALID_PARAM'],
  ])('has a line for a request that %s', async (_, overrides, status, errcode) => {
    const uri = '/_matrix/federation/v1/make_leave/!x:y/@z:y';
    const answer = await leaver.request({
      method: 'GET',
      uri,
      destination: ours.name,
      baseUrl: ours.federationUrl,
      overrides,
    });
    expect(answer.status).toBe(status);
    expect(log.grep(traceIdOf(answer))).toMatchObject([{ msg: 'request refused', status, errcode }]);
  });

  it('has a line for a body that is too large', async () => {
    const answer = await leaver.request({
      method: 'PUT',
      uri: '/_matrix/federation/v1/send/1',
      destination: ours.name,
      baseUrl: ours.federationUrl,
      overrides: { rawBody: Buffer.alloc(8 * 1024 * 1024 + 1, ' ') },
    });
    expect(answer.status).toBe(413);
    expect(log.grep(traceIdOf(answer))).toMatchObject([{ msg: 'request refused', status: 413 }]);
  });

  it('has a line for what is no HTTP request', async () => {
    const { status, head } = await sendRaw(ours.federationUrl, ['NONSENSE\r\n\r\n']);
    expect(status).toBe(400);
    const traceId = /x-exeunt-trace-id: ([\da-f]{32})/i.exec(head)?.[1];
    expect(log.grep(traceId ?? 'no trace')).toMatchObject([{ msg: 'request refused', errcode: 'M_UNKNOWN' }]);
  });

  it('is not what a peer writes into its traceparent', async () => {
    const answer = await leaver.request({
      method: 'GET',
      uri: '/_matrix/federation/v1/version',
      destination: ours.name,
      baseUrl: ours.federationUrl,
      overrides: { headers: { traceparent: theirs } },
    });
    expect(traceIdOf(answer)).toMatch(/^[\da-f]{32}$/);
    expect(traceIdOf(answer)).not.toBe(theirTraceId);
    expect(log.grep(theirTraceId)).toEqual([]);
  });

  it.each([
    ['bears the token', true, 400],
    ['bears none', false, 401],
  ])('goes on with the trace of a request of the platform only where it %s', async (_, isKnown, status) => {
    const traceId = (isKnown ? 'a' : 'b').repeat(32);
    const response = await fetch(`${ours.platformUrl}/v1/leaves`, {
      method: 'POST',
      headers: {
        traceparent: `00-${traceId}-b7ad6b7169203331-00`,
        ...(isKnown ? { authorization: `Bearer ${ours.token}` } : {}),
      },
      body: '{}',
    });
    expect(response.status).toBe(status);
    const named = response.headers.get('x-exeunt-trace-id');
    expect(named === traceId).toBe(isKnown);
    expect(log.messages(named!)).toEqual(['request refused']);
  });

  it('has the requests of a handshake under the trace of the leave that they are for, and no peer hears of it', async () => {
    const room = roomOf(leaver, '11');
    const carol = `@carol:${ours.name}`;
    await inviteOurUser(leaver, ours, room, carol);
    leaver.on('GET', '/_matrix/federation/v1/make_leave/', (_, response) =>
      respond(response, 200, {
        room_version: '11',
        event: draftEvent(
          room.builder.room,
          {
            type: 'm.room.member',
            sender: carol as UserId,
            stateKey: carol as UserId,
            content: { membership: 'leave' },
            originServerTs: 1,
            origin: leaver.name as ServerName,
          },
          { alwaysOrigin: true },
        ),
      }),
    );
    leaver.on('PUT', '/_matrix/federation/v2/send_leave/', (_, response) => respond(response, 200, {}));
    const response = await fetch(`${ours.platformUrl}/v1/leaves`, {
      method: 'POST',
      headers: { authorization: `Bearer ${ours.token}`, traceparent: theirs },
      body: JSON.stringify({ user_id: carol, room_id: room.roomId }),
    });
    const view: unknown = await response.json();
    expect(view).toMatchObject({ status: 'completed' });
    expect(log.grep(theirTraceId)).toMatchObject([
      { msg: 'leave begun', leave_id: (view as JsonObject)['leave_id'], room_id: room.roomId },
      { msg: 'outgoing request', endpoint: 'makeLeave', server: leaver.name },
      { msg: 'outgoing request', endpoint: 'sendLeaveV2', server: leaver.name },
    ]);
    for (const peer of [leaver, ...observers]) {
      for (const { headers } of peer.requests) expect(headers).not.toHaveProperty('traceparent');
    }
  });
});

describe('a server with a collector', () => {
  let collector: SpanCollector | undefined;
  afterEach(() => collector?.close());

  it('sends it the spans of a leave, in one trace, through to the 200 of each peer', async () => {
    collector = await startSpanCollector();
    const ours = await startLeaveServer({ environment: { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url } });
    const { roomId, eventId, answer } = await bobLeaves(ours);
    await ours.stop();

    const traceId = traceIdOf(answer);
    const ofTrace = collector.spans.filter((span) => span.traceId === traceId);
    const named = (name: string) => ofTrace.filter((span) => span.name === name);
    const [request] = named('PUT /_matrix/federation/v2/send_leave/:roomId/:eventId');
    expect(request).toMatchObject({
      service: 'exeunt',
      kind: 2,
      attributes: { 'matrix.origin': leaver.name, 'http.response.status_code': 200 },
    });
    expect(request!.parentSpanId ?? '').toBe('');
    const [command, ...more] = named('room command');
    expect(more).toEqual([]);
    expect(command).toMatchObject({
      parentSpanId: request!.spanId,
      attributes: { 'matrix.room_id': roomId, 'matrix.event_id': eventId },
    });
    const attempts = named('send transaction');
    expect(attempts.map(({ attributes }) => attributes['matrix.destination']).sort()).toEqual(
      observers.map(({ name }) => name).sort(),
    );
    for (const attempt of attempts) {
      expect(attempt.parentSpanId).toBe(command!.spanId);
      const sent = named('PUT sendTransaction').filter(({ parentSpanId }) => parentSpanId === attempt.spanId);
      expect(sent).toMatchObject([
        {
          kind: 3,
          attributes: {
            'server.address': attempt.attributes['matrix.destination'],
            'http.response.status_code': 200,
          },
        },
      ]);
    }
    // The relay carries many leaves at once, so it is a trace of its own.
    const relayed = collector.spans.filter(({ name }) => name === 'relay outbox');
    expect(relayed.filter(({ links }) => links.includes(traceId))).toHaveLength(1);
    // Spans go where logs don't.
    expect(collector.bodies.join()).not.toContain(`@bob:`);
    expect(collector.bodies.join()).not.toContain(encodeURIComponent('@bob:'));
    expect(collector.bodies.join()).not.toContain(`@alice:`);
  });

  it.each<[string, Parameters<typeof startSpanCollector>[0], readonly string[]]>([
    ['fails', (response) => response.writeHead(500).end(), ['send spans to the collector']],
    ['never answers', () => {}, []],
  ])('that %s works as ever, and ends in time', async (_, answers, complaints) => {
    collector = await startSpanCollector(answers);
    const log = new Log();
    const ours = await startLeaveServer({
      logTo: log,
      environment: { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, EXEUNT_LOG_LEVEL: 'info' },
    });
    const { answer } = await bobLeaves(ours);
    expect(isJsonObject(answer.json)).toBe(true);
    await ours.stop();
    expect(collector.spans.length).toBeGreaterThan(0);
    expect(log.messages('collector')).toEqual(complaints);
  });
});
