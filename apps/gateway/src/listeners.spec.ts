import { Controller, Get, Param, Put, Req, type DynamicModule } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { noTracing } from '@exeunt/tracing';
import { createListener, maxFederationBodyBytes, type AnsweredRequest } from './listeners.js';

@Controller('_matrix/test')
class MeasuringController {
  @Put('size')
  size(@Req() request: FastifyRequest): { readonly bytes: number } {
    return { bytes: Buffer.isBuffer(request.body) ? request.body.length : -1 };
  }

  @Get('list')
  list(): readonly [number, object] {
    return [200, {}];
  }

  @Get('of/:name')
  named(@Param('name') name: string): { readonly name: string } {
    return { name };
  }

  @Get('broken')
  broken(): never {
    throw new Error('a secret of ours');
  }
}

class MeasuringModule {}

let app: NestFastifyApplication;
let fastify: FastifyInstance;
let answered: AnsweredRequest[] = [];

beforeAll(async () => {
  const module: DynamicModule = { module: MeasuringModule, controllers: [MeasuringController] };
  const log = pino({ level: 'silent' });
  app = await createListener({
    module,
    maxBodyBytes: maxFederationBodyBytes,
    log,
    tracing: noTracing,
    onAnswered: (one) => answered.push(one),
  });
  fastify = app.getHttpAdapter().getInstance() as unknown as FastifyInstance;
});
afterAll(() => app?.close());

describe('the federation listener', () => {
  it('takes a transaction of 50 PDUs and 100 EDUs of the greatest size (HT-05)', async () => {
    const pdus = Array.from({ length: 50 }, () => ({
      content: 'x'.repeat(65_536 - '{"content":""}'.length),
    }));
    const edus = Array.from({ length: 100 }, () => ({ content: 'x'.repeat(10_000) }));
    const payload = JSON.stringify({ pdus, edus });
    expect(payload.length).toBeGreaterThan(50 * 65_536);
    const answer = await fastify.inject({ method: 'PUT', url: '/_matrix/test/size', payload });
    expect([answer.statusCode, answer.json()]).toEqual([200, { bytes: payload.length }]);
  });

  it('does not take more than it says it does (HT-05)', async () => {
    const payload = Buffer.alloc(maxFederationBodyBytes + 1, ' ');
    const answer = await fastify.inject({ method: 'PUT', url: '/_matrix/test/size', payload });
    expect([answer.statusCode, answer.json()]).toMatchObject([413, { errcode: 'M_TOO_LARGE' }]);
  });

  it.each<['GET' | 'PUT' | 'DELETE', string, number, string | undefined]>([
    ['PUT', '/_matrix/test/size', 200, undefined],
    ['GET', '/_matrix/test/list', 200, undefined],
    ['GET', '/_matrix/test/nothing', 404, 'M_UNRECOGNIZED'],
    ['GET', '/', 404, 'M_UNRECOGNIZED'],
    ['GET', '/_matrix/test/size', 405, 'M_UNRECOGNIZED'],
    ['DELETE', '/_matrix/test/list', 405, 'M_UNRECOGNIZED'],
    ['GET', '/_matrix/test/broken', 500, 'M_UNKNOWN'],
  ])(
    'answers %s %s by %i in JSON, and errors as objects (HT-02, HT-03, HT-04)',
    async (method, url, status, errcode) => {
      const answer = await fastify.inject({ method, url });
      expect(answer.statusCode).toBe(status);
      expect(answer.headers['content-type']).toMatch(/^application\/json/);
      expect(answer.body).not.toContain('a secret of ours');
      if (errcode !== undefined) expect(answer.json()).toMatchObject({ errcode, error: expect.any(String) });
    },
  );

  it('tells of every answer by route, and of all that is no route by one name', async () => {
    answered = [];
    for (const [method, url] of [
      ['GET', '/_matrix/test/of/alice?x=1'],
      ['GET', '/_matrix/test/of/bob%2F'],
      ['GET', '/_matrix/test/broken'],
      ['GET', '/_matrix/test/nothing'],
      ['DELETE', '/_matrix/test/list'],
    ] as const) {
      await fastify.inject({ method, url });
    }
    expect(answered.map(({ endpoint, status }) => [endpoint, status])).toEqual([
      ['GET /_matrix/test/of/:name', 200],
      ['GET /_matrix/test/of/:name', 200],
      ['GET /_matrix/test/broken', 500],
      ['other', 404],
      ['other', 405],
    ]);
    for (const { durationMs } of answered) expect(durationMs).toBeGreaterThanOrEqual(0);
  });
});
