import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase, type Database } from '@exeunt/database';
import type { FederationResult } from '@exeunt/federation-client';
import { leavingMigrations, type LeavingKey } from '@exeunt/leaving';
import type { ServerName } from '@exeunt/pdu';
import { isJsonObject, signaturesOf, withoutKeys, type JsonObject } from '@exeunt/signing';
import {
  goOnAt,
  http,
  onStage,
  ourName,
  taken,
  template,
  unreachable,
  type LeavingStage,
} from '../leaving-scripted.js';
import suite from './vectors/leave-client.json' with { type: 'json' };
import { settle } from '../harness/settle.js';

interface Vector {
  readonly id: string;
  readonly source: { readonly test: string };
  readonly input: {
    readonly makeLeave?: string;
    readonly sendLeaveV2?: string;
    readonly template?: string | JsonObject;
    readonly candidates?: readonly string[];
    readonly makeLeaveAnsweredBy?: string;
    readonly invite?: string;
  };
  readonly expected: JsonObject;
}

const vectors = suite.vectors as unknown as readonly Vector[];
const having = (part: keyof Vector['input']) =>
  vectors.filter(({ input }) => input[part] !== undefined).map((vector) => [vector.id, vector] as const);

const a = 'a.example' as ServerName;
const b = 'b.example' as ServerName;
let database: Database;
let stage: LeavingStage;

beforeAll(async () => {
  database = await openDatabase({ dataDir: 'memory://', migrations: leavingMigrations });
}, 120_000);
afterEach(() => stage?.runner.stop());
afterAll(() => database?.close());

/** The user rejects the invite of `a`, whose servers are `candidates`; resolves when the round is over. */
async function reject(
  candidates: readonly string[] = [a],
  version = '11',
  isVersionStated = true,
): Promise<string> {
  await stage.invite(candidates, version, isVersionStated);
  await stage.leave();
  // Out at once, whatever the residents say.
  expect((await stage.store.load(stage.key)).state.invite).toBeUndefined();
  return settle('the end of the round', async () => {
    const type = (await stage.events()).at(-1)?.type;
    return type === 'RoundFailed' || type === 'LeaveCompleted' || type === 'LeaveRefused' ? type : undefined;
  });
}

/** Everything that ever bore our signature: leaves of our user in that room alone. */
function expectOnlyOurLeaves({ userId, roomId }: LeavingKey): void {
  for (const leave of stage.residents.sent) {
    expect(signaturesOf(leave, ourName)).toHaveLength(1);
    expect(withoutKeys(leave, 'hashes', 'signatures', 'origin_server_ts', 'event_id', 'origin')).toEqual({
      type: 'm.room.member',
      room_id: roomId,
      sender: userId,
      state_key: userId,
      content: { membership: 'leave' },
      depth: 7,
      prev_events: expect.any(Array),
      auth_events: expect.any(Array),
    });
  }
}

describe('vectors/leave-client.json', () => {
  it('holds nothing that this suite passes over', () => {
    const seen = (['makeLeave', 'sendLeaveV2', 'template', 'makeLeaveAnsweredBy', 'invite'] as const).flatMap(
      having,
    );
    expect(seen.map(([id]) => id).sort()).toEqual(vectors.map(({ id }) => id).sort());
    expect(vectors).toHaveLength(suite.count);
  });

  describe('make_leave fails: out all the same, nothing is sent', () => {
    const answers: Readonly<Record<string, FederationResult>> = {
      '403': http(403, 'M_FORBIDDEN'),
      '500': http(500, 'M_UNKNOWN'),
      unreachable,
    };
    it.each(having('makeLeave'))('%s', async (_, { input }) => {
      stage = onStage(database);
      const answer = answers[input.makeLeave!]!;
      expect(answer).toBeDefined();
      stage.residents.onMakeLeave = () => answer;
      expect(await reject()).toBe('RoundFailed');
      expect(stage.residents.sent).toEqual([]);
    });
  });

  describe('v2 send_leave answers', () => {
    const answers: Readonly<Record<string, FederationResult>> = {
      '404 M_UNRECOGNIZED': http(404, 'M_UNRECOGNIZED'),
      '404 M_NOT_FOUND': http(404, 'M_NOT_FOUND'),
      '404 with an empty or non-JSON body': http(404),
      '405 M_UNRECOGNIZED': http(405, 'M_UNRECOGNIZED'),
    };
    it.each(having('sendLeaveV2'))('%s', async (_, { input, expected }) => {
      stage = onStage(database);
      stage.residents.onMakeLeave = (_, key) => template(key);
      const answer = answers[input.sendLeaveV2!]!;
      expect(answer).toBeDefined();
      stage.residents.onSendLeave = (_, api) => (api === 'v2' ? answer : taken);
      const fallsBack = !String(expected['next']).startsWith('no fallback');
      expect(await reject()).toBe(fallsBack ? 'LeaveCompleted' : 'RoundFailed');
      expect(stage.residents.log).toEqual([
        `make_leave ${a}`,
        `send_leave v2 ${a}`,
        ...(fallsBack ? [`send_leave v1 ${a}`] : []),
      ]);
      expect(stage.residents.sent).toHaveLength(1);
    });
  });

  describe('the template', () => {
    /** The answer of a hostile or old resident. */
    function answerFor(input: string | JsonObject, key: LeavingKey): FederationResult {
      switch (input) {
        case 'room_version missing': {
          const answer = template(key, '1');
          return answer.ok ? { ...answer, body: withoutKeys(answer.body, 'room_version') } : answer;
        }
        case 'event missing or not an object':
          return { ok: true, status: 200, body: { room_version: '11' } };
        default: {
          if (!isJsonObject(input)) throw new Error(`nobody knows ${input}`);
          const changes: Record<string, JsonObject[string]> = { ...input };
          if (input['sender'] === 'another user') changes['sender'] = '@eve:a.example';
          if (input['sender'] === 'another user of OUR server') changes['sender'] = `@ann:${ourName}`;
          if (input['state_key'] === 'another user') changes['state_key'] = '@eve:a.example';
          if (input['prev_events'] === '2000 entries') {
            changes['prev_events'] = Array.from(
              { length: 2000 },
              (_, at) => `$${String(at).padStart(43, 'A')}`,
            );
          }
          return template(key, '11', changes);
        }
      }
    }

    it.each(having('template'))('%s', async (_, { input, expected }) => {
      stage = onStage(database);
      const isOld = input.template === 'room_version missing';
      // The first candidate is hostile, the second good: it may be asked instead.
      stage.residents.onMakeLeave = (server, key) =>
        server === a ? answerFor(input.template!, key) : template(key, isOld ? '1' : '11');
      const outcome = await reject([a, b], isOld ? '1' : '11', !isOld);
      expect(outcome).toBe('LeaveCompleted');
      expectOnlyOurLeaves(stage.key);
      const first = stage.residents.asked.find(({ leave }) => leave !== undefined)!;
      if (isOld) {
        expect(first.server).toBe(a);
        expect(first.leave?.['event_id']).toMatch(new RegExp(`^\\$.+:${ourName}$`));
        expect(expected['roomVersion']).toBe('1');
      } else if (String(expected['outcome']).includes('or signed without the foreign keys')) {
        expect(first.server).toBe(a);
      } else {
        expect(String(expected['outcome'])).toMatch(/discard|malformed/);
        expect(first.server).toBe(b);
      }
    });
  });

  describe('the order of the servers', () => {
    it.each(having('makeLeaveAnsweredBy'))(
      '%s: the one that gave the template is sent the leave first',
      async () => {
        stage = onStage(database);
        stage.residents.onMakeLeave = (server, key) => (server === b ? template(key) : http(500));
        stage.residents.onSendLeave = (server) => (server === b ? http(502) : taken);
        // The first was tried in this round; in the next one it comes after the server of the template.
        expect(await reject([a, b])).toBe('RoundFailed');
        await goOnAt(stage, stage.clock.now() + 10_000);
        await settle('the end', async () => ((await stage.status()) === 'completed' ? true : undefined));
        expect(stage.residents.log.slice(-2)).toEqual([`send_leave v2 ${b}`, `send_leave v2 ${a}`]);
        expect(stage.residents.sent).toHaveLength(1);
      },
    );

    it.each(having('invite'))('%s: the inviter’s server first, never the domain of the room ID', async () => {
      stage = onStage(database);
      expect(stage.key.roomId).toMatch(/:y\.example$/);
      await reject(['x.example']);
      expect(stage.residents.log).toEqual(['make_leave x.example']);
    });
  });
});
