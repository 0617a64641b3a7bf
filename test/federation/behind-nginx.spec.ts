import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { JsonObject } from '@exeunt/signing';
import { importRoom } from '../harness/imported-room.js';
import { federationUri, signTemplate } from '../harness/leaving-user.js';
import { startLeaveServer, type LeaveServer } from '../harness/leave-server.js';
import { findNginx, startNginx, type NginxProxy } from '../harness/nginx-proxy.js';
import { sendRaw } from '../harness/raw-request.js';
import { startRemoteServer, type RemoteServer } from '../harness/remote-server.js';
import { freePorts } from '../../scripts/services/service-process.mjs';

if (findNginx() === undefined) {
  console.warn('the proxy of docker-compose.yml NOT tested; install nginx');
}

describe.runIf(findNginx() !== undefined)('a gateway behind the nginx of docker-compose.yml', () => {
  let ours: LeaveServer;
  let leaver: RemoteServer;
  let proxy: NginxProxy;
  let recorders: readonly Server[] = [];
  /** Request targets as they reach what is behind the proxy's other listener, and at which of them. */
  const targets: { readonly target: string; readonly at: number }[] = [];

  beforeAll(async () => {
    ours = await startLeaveServer({ environment: { EXEUNT_FEDERATION_TLS: 'off' } });
    leaver = await startRemoteServer({ host: '127.0.0.2' });
    recorders = [0, 1].map((at) =>
      createServer((request, response) => {
        targets.push({ target: request.url ?? '', at });
        response.end('{}');
      }),
    );
    await Promise.all(
      recorders.map((one) => new Promise<void>((resolve) => one.listen(0, '127.0.0.1', resolve))),
    );
    const [nobody] = await freePorts(1);
    proxy = await startNginx({
      // Another gateway is away.
      federation: [`127.0.0.1:${nobody}`, new URL(ours.federationUrl).host],
      platform: [
        `127.0.0.1:${nobody}`,
        ...recorders.map((one) => `127.0.0.1:${(one.address() as AddressInfo).port}`),
      ],
    });
  });
  afterAll(async () => {
    await proxy?.stop();
    for (const one of recorders) one.close();
    await Promise.all([ours?.stop(), leaver?.close()]);
  });

  const ask = (method: 'GET' | 'PUT', uri: string, body?: JsonObject) =>
    leaver.request({
      method,
      uri,
      destination: ours.name,
      baseUrl: proxy.federationUrl,
      ...(body === undefined ? {} : { body }),
    });

  it('takes a leave whose signed targets are percent-encoded, in whichever way the peer does', async () => {
    const users = ['bob', 'bo/b', 'bo b', 'bøb', 'b%2Fb'].map((name) => `@${name}:${leaver.name}`);
    // Its event IDs have slashes.
    const room = await importRoom(ours, {
      version: '3',
      peers: [leaver],
      grow: (builder, alice) => {
        for (const user of users) builder.member(user, 'invite', alice);
      },
    });
    for (const user of users) {
      const encoded = federationUri('v1/make_leave', room.roomId, user);
      const lowerCase = encoded.replaceAll(/%[\dA-F]{2}/g, (escape) => escape.toLowerCase());
      const asFewAsMayBe = encoded.replaceAll(/%(?:21|3A|40)/g, (escape) => decodeURIComponent(escape));
      for (const uri of [encoded, lowerCase, asFewAsMayBe]) {
        const made = await ask('GET', uri);
        expect([made.status, uri, made.json]).toMatchObject([200, uri, { room_version: '3' }]);
      }
      const made = (await ask('GET', encoded)).json as JsonObject;
      const { roomId, eventId, event } = signTemplate(leaver, '3', made['event'] as JsonObject);
      const sent = await ask('PUT', federationUri('v2/send_leave', roomId, eventId), event);
      expect([sent.status, sent.json]).toEqual([200, {}]);
      expect(await ours.member(room.roomId, user)).toMatchObject({ content: { membership: 'leave' } });
    }
  });

  it.each([
    '/v1/rooms/%21room%3Aserver/events?from=1&limit=%31',
    '/a//b///c',
    '/a/./b/../c',
    '/a/b/%2e%2e/%2E/c',
    '/%F0%9F%A6%80/%f0%9f%a6%80',
    '/a%20b%2Fc?x=%2f+%20&&=',
    "/!$&'()*+,;=:@-._~",
    '/a?b?c/d/../e',
  ])('passes %s on as it is', async (target) => {
    expect(await get(target)).toMatchObject([{ target }]);
  });

  it('keeps a room with one gateway of those that are there', async () => {
    const gatewayOf = new Map<number, number>();
    for (let round = 0; round < 3; round += 1) {
      for (let room = 0; room < 30; room += 1) {
        const [received] = await get(`/v1/rooms/!room${room}:server/events?from=${round}`);
        expect(received!.at).toBe(gatewayOf.get(room) ?? received!.at);
        gatewayOf.set(room, received!.at);
      }
    }
    expect(new Set(gatewayOf.values()).size).toBe(2);
  });

  /** Asks the platform listener, and gives what came of it behind. */
  async function get(target: string): Promise<typeof targets> {
    targets.length = 0;
    const host = new URL(proxy.platformUrl).host;
    const answer = await sendRaw(proxy.platformUrl, [
      `GET ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`,
    ]);
    expect(answer.status).toBe(200);
    return [...targets];
  }

  it('says how it is itself, whatever is behind it', async () => {
    expect((await fetch(proxy.healthUrl)).status).toBe(200);
  });
});
