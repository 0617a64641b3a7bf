import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase, type Database } from '@exeunt/database';
import { InMemoryMessageBus } from '@exeunt/message-bus';
import type { ServerName } from '@exeunt/pdu';
import { currentTraceparent } from '@exeunt/tracing';
import {
  goOnAt,
  http,
  lastEvent,
  never,
  onStage,
  taken,
  template,
  timedOut,
  unreachable,
  type LeavingStage,
} from '../../../test/leaving-scripted.js';
import { settle } from '../../../test/harness/settle.js';
import type { LeaveClient } from './handshake-runner.js';
import { leavingMigrations } from './leaving.migration.js';
import { isFactForTheBus, messageOf } from './facts.js';
import { LeavingFactsRelay } from './facts-relay.js';
import type { LeavingStore } from './leaving-store.js';
import { cancelLeave, retryLeave } from './decide.js';

const x = 'x.example' as ServerName;
const y = 'y.example' as ServerName;
const z = 'z.example' as ServerName;

let database: Database;
let stage: LeavingStage;

beforeAll(async () => {
  database = await openDatabase({ dataDir: 'memory://', migrations: leavingMigrations });
}, 120_000);
afterEach(() => stage?.runner.stop());
afterAll(() => database?.close());

const types = async (): Promise<readonly string[]> => (await stage.events()).map(({ type }) => type);

describe('a leave whose inviter answers', () => {
  it('is signed, durable before it is sent, and completed', async () => {
    stage = onStage(database);
    stage.residents.onMakeLeave = (_, key) => template(key);
    stage.residents.onSendLeave = async () => {
      expect(await types()).toContain('LeaveSigned');
      return taken;
    };
    await stage.invite([x, y]);
    await stage.leave();
    const completed = await lastEvent(stage, 'LeaveCompleted');
    expect(completed).toMatchObject({ how: 'accepted', server: x });
    expect(stage.residents.log).toEqual([`make_leave ${x}`, `send_leave v2 ${x}`]);
  });
});

describe('three candidates, the first two dead', () => {
  it('refused connections: the third is asked at once', async () => {
    stage = onStage(database);
    stage.residents.onMakeLeave = (server, key) => (server === z ? template(key) : unreachable);
    await stage.invite([x, y, z]);
    await stage.leave();
    expect(await lastEvent(stage, 'LeaveCompleted')).toMatchObject({ server: z });
  });

  it('silence: each is hedged after a while, and none is waited out', async () => {
    stage = onStage(database, { hedgeAfterMs: 2_000 });
    stage.residents.onMakeLeave = (server, key) => (server === z ? template(key) : never());
    await stage.invite([x, y, z]);
    const startedAt = stage.clock.now();
    await stage.leave();
    expect((await stage.store.load(stage.key)).state.invite).toBeUndefined();
    for (const server of [x, y]) {
      await settle(server, () => (stage.residents.log.includes(`make_leave ${server}`) ? true : undefined));
      stage.clock.advance(2_000);
    }
    expect(await lastEvent(stage, 'LeaveCompleted')).toMatchObject({ server: z });
    expect(stage.clock.now() - startedAt).toBe(4_000);
  });
});

describe('a room whose servers are all away', () => {
  it('is tried for days, ever more rarely, and told as soon as one is back', async () => {
    stage = onStage(database);
    stage.residents.onMakeLeave = () => unreachable;
    await stage.invite([x, y]);
    await stage.leave();
    const until3Days = stage.clock.now() + 3 * 86_400_000;
    let rounds = 0;
    while (stage.clock.now() < until3Days) {
      const failed = await lastEvent(stage, 'RoundFailed');
      if (failed.type !== 'RoundFailed') throw new Error('unreachable');
      rounds++;
      await goOnAt(stage, failed.nextAttemptAt);
    }
    expect(rounds).toBeLessThan(40);
    await lastEvent(stage, 'RoundFailed');
    stage.residents.onMakeLeave = (_, key) => template(key);
    await goOnAt(stage, stage.clock.now() + 22_000_000);
    expect(await lastEvent(stage, 'LeaveCompleted')).toMatchObject({ how: 'accepted' });
  }, 60_000);

  it('an operator’s retry ends the wait, a cancellation the leave', async () => {
    stage = onStage(database);
    stage.residents.onMakeLeave = () => unreachable;
    await stage.invite([x]);
    await stage.leave('a-leave');
    await lastEvent(stage, 'RoundFailed');
    await stage.store.execute(stage.key, (state) => retryLeave(state, 'a-leave', stage.clock.now()));
    await settle('the second round', () => (stage.residents.log.length === 2 ? true : undefined));
    await lastEvent(stage, 'RoundFailed');
    await stage.store.execute(stage.key, (state) => cancelLeave(state, 'a-leave', stage.clock.now()));
    stage.clock.advance(86_400_000);
    expect(await stage.store.nextDue()).toBeUndefined();
    expect(await stage.status()).toBe('cancelled');
  });
});

describe('a leave whose fate is unknown', () => {
  it('LV-15: is repeated as it is until there is an answer; nothing else is signed', async () => {
    stage = onStage(database);
    stage.residents.onMakeLeave = (_, key) => template(key);
    let sends = 0;
    stage.residents.onSendLeave = () => (++sends < 4 ? timedOut : taken);
    await stage.invite([x]);
    await stage.leave();
    while ((await stage.status()) === 'retrying') {
      const failed = await settle('an end of the round', async () => {
        const event = (await stage.events()).at(-1);
        return event?.type === 'RoundFailed' || event?.type === 'LeaveCompleted' ? event : undefined;
      });
      if (failed.type === 'LeaveCompleted') break;
      await goOnAt(stage, failed.nextAttemptAt);
    }
    expect(stage.residents.sent).toHaveLength(1);
    expect(stage.residents.log).toEqual([
      `make_leave ${x}`,
      ...Array.from({ length: 4 }, () => `send_leave v2 ${x}`),
    ]);
  });

  it('LV-14: is made anew of a new template where it was refused', async () => {
    stage = onStage(database);
    stage.residents.onMakeLeave = (server, key) =>
      server === x ? template(key, '11', { depth: 7 }) : template(key, '11', { depth: 8 });
    stage.residents.onSendLeave = (server) => (server === x ? http(403, 'M_FORBIDDEN') : taken);
    await stage.invite([x, y]);
    await stage.leave();
    expect(await lastEvent(stage, 'LeaveCompleted')).toMatchObject({ server: y });
    expect(stage.residents.sent.map(({ depth }) => depth)).toEqual([7, 8]);
  });
});

describe('a process that is killed', () => {
  /** Parts that work until the nth call, before or after which the process is gone for good. */
  function mortal(at: number, moment: 'before' | 'after', parts: readonly object[]) {
    let calls = 0;
    let isDead = false;
    const gone = () => new Promise<never>(() => {});
    const wrap = <T extends object>(part: T): T =>
      new Proxy(part, {
        get(target, name) {
          const value: unknown = Reflect.get(target, name, target);
          if (typeof value !== 'function' || name === 'onAppend') {
            return typeof value === 'function' ? value.bind(target) : value;
          }
          return async (...args: unknown[]) => {
            if (isDead) return gone();
            const isLast = ++calls === at;
            if (isLast) isDead = true;
            if (isLast && moment === 'before') return gone();
            const result: unknown = await value.apply(target, args);
            return isDead ? gone() : result;
          };
        },
      });
    return { parts: parts.map(wrap), isDead: () => isDead, calls: () => calls };
  }

  it('before or after every one of its steps: the next one finishes, and one leave was signed', async () => {
    let killed = 0;
    for (let at = 1; ; at++) {
      let wasKilled = false;
      for (const moment of ['before', 'after'] as const) {
        stage = onStage(database);
        await stage.runner.stop();
        stage.residents.onMakeLeave = (server, key) => (server === x ? http(500) : template(key));
        let sends = 0;
        stage.residents.onSendLeave = (_, api) => (++sends === 1 && api === 'v2' ? http(404) : taken);
        await stage.invite([x, y]);
        await stage.leave();
        const { parts, isDead } = mortal(at, moment, [stage.store, stage.residents]);
        const doomed = stage.another({ store: parts[0] as LeavingStore, client: parts[1] as LeaveClient });
        doomed.start();
        await settle('the kill or the end', async () =>
          isDead() || (await stage.status()) === 'completed' ? true : undefined,
        );
        wasKilled ||= isDead();
        // What the dead process had let out before it died arrives.
        await new Promise((resolve) => setImmediate(resolve));
        const next = stage.another({});
        next.start();
        await lastEvent(stage, 'LeaveCompleted');
        await next.stop();
        if (!isDead()) await doomed.stop();
        expect(
          (await types()).filter((type) => type === 'LeaveSigned'),
          `${moment} ${at}`,
        ).toHaveLength(1);
        expect(stage.residents.sent, `${moment} ${at}`).toHaveLength(1);
        expect(await stage.store.nextDue()).toBeUndefined();
      }
      if (!wasKilled) break;
      killed++;
    }
    // Claim, loads, two templates, the signature, both endpoints, the end, the release: not just the first few.
    expect(killed).toBeGreaterThan(12);
  }, 60_000);

  it('another runner beside it leaves a claimed stream alone', async () => {
    stage = onStage(database);
    stage.residents.onMakeLeave = never;
    await stage.invite([x]);
    await stage.leave();
    await settle('asked', () => (stage.residents.asked.length === 1 ? true : undefined));
    const beside = stage.another({ isAlone: false });
    beside.start();
    stage.clock.advance(60_000);
    await new Promise((resolve) => setImmediate(resolve));
    await beside.stop();
    expect(stage.residents.asked).toHaveLength(1);
  });
});

describe('the trace of the request that wished the leave', () => {
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

  it('is the one of all requests for it, also of the process that takes over, and is told to the bus', async () => {
    stage = onStage(database);
    const traces: (string | undefined)[] = [];
    stage.residents.onMakeLeave = (server, key) => {
      // What another test has left unfinished is taken up as well.
      if (key.roomId !== stage.key.roomId) return unreachable;
      traces.push(currentTraceparent());
      return server === x ? http(500) : template(key);
    };
    stage.residents.onSendLeave = () => {
      traces.push(currentTraceparent());
      return traces.length === 3 ? timedOut : taken;
    };
    await stage.invite([x, y]);
    await stage.leave(undefined, traceparent);
    const failed = await lastEvent(stage, 'RoundFailed');
    await stage.runner.stop();
    const next = stage.another({});
    next.start();
    if (failed.type === 'RoundFailed') await goOnAt(stage, failed.nextAttemptAt);
    await lastEvent(stage, 'LeaveCompleted');
    await next.stop();
    expect(traces).toEqual(Array(4).fill(traceparent));
    const started = (await stage.events()).find(({ type }) => type === 'LeaveHandshakeStarted')!;
    if (!isFactForTheBus(started)) throw new Error('the bus is not told of it');
    expect(messageOf(stage.key, 2, started).headers).toMatchObject({ ce_traceparent: traceparent });
  });

  it('is none where there was none', async () => {
    stage = onStage(database);
    const traces: (string | undefined)[] = [];
    stage.residents.onMakeLeave = (_, key) => {
      if (key.roomId === stage.key.roomId) traces.push(currentTraceparent());
      return template(key);
    };
    await stage.invite([x]);
    await stage.leave();
    await lastEvent(stage, 'LeaveCompleted');
    expect(traces).toEqual([undefined]);
  });
});

describe('the bus', () => {
  it('is told of the beginning and the end, each once durable, in order', async () => {
    stage = onStage(database);
    stage.residents.onMakeLeave = (_, key) => template(key);
    const bus = new InMemoryMessageBus();
    const told: string[] = [];
    const consumption = await bus.consume({
      topic: 'exeunt.room-events.v1',
      group: 'test',
      maxBatch: 10,
      handle: async (batch) => {
        for (const { headers, key } of batch) {
          if (key === stage.key.roomId) told.push(String(headers['ce_type']));
        }
      },
    });
    const relay = new LeavingFactsRelay({ store: stage.store, bus });
    relay.start();
    await stage.invite([x]);
    await stage.leave();
    await settle('three facts', () => (told.length === 3 ? true : undefined));
    expect(told).toEqual([
      'exeunt.invite-received.v1',
      'exeunt.leave-started.v1',
      'exeunt.leave-completed.v1',
    ]);
    await relay.stop();
    await consumption.stop();
    expect(await stage.store.toTell(10)).toEqual([]);
  });
});
