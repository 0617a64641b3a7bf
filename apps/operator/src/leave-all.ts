import { createInterface } from 'node:readline/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { styleText } from 'node:util';
import { SingleBar } from 'cli-progress';
import Table from 'cli-table3';
import { ApiError, type OperatorApi } from './operator-api.js';

/** A room that is not over and done with. */
interface OpenRoom {
  readonly room_id: string;
  readonly membership: string;
  readonly status: 'waiting' | 'retrying' | 'refused';
  readonly leave_id?: string;
  readonly next_attempt_at?: number;
  readonly error?: string;
  readonly servers: readonly { readonly server: string; readonly detail: string }[];
}

/** A leave-all as the platform API shows it. */
interface Run {
  readonly leave_all_id: string;
  readonly user_id: string;
  readonly status: 'running' | 'completed';
  readonly total: number;
  readonly waiting: number;
  readonly left: number;
  readonly retrying: number;
  readonly refused: number;
}

interface Page extends Run {
  readonly rooms: readonly OpenRoom[];
  readonly next?: string;
}

export interface LeaveAllOptions {
  readonly userId: string;
  readonly reason?: string;
  readonly include?: readonly string[];
  /** Do not ask. */
  readonly yes: boolean;
  /** The report as one line of JSON. */
  readonly json: boolean;
  /** How long servers that were told late are waited for once the user is out of every room. */
  readonly waitMs: number;
  /** How often the server is asked how far it is. */
  readonly everyMs: number;
}

/** The streams of a terminal, or of what stands in for one. */
export interface Terminal {
  readonly in: NodeJS.ReadStream;
  /** For the report. */
  readonly out: NodeJS.WriteStream;
  /** For the question and the progress. */
  readonly err: NodeJS.WriteStream;
}

/** What a run comes to, as an exit code. */
export const leaveAllCodes = { known: 0, refused: 1, unconfirmed: 2, retrying: 3 } as const;

/** Lines of the table; JSON has all. */
const mostLines = 50;
/** Without a terminal, a line of progress at most this often. */
const lineEveryMs = 5_000;

/**
 * Takes a user out of every room and watches until it is done, or attaches to the run that is under way. Ends with a
 * report. Gives the exit code: 0 out of all rooms and every room knows; 1 some room refuses; 3 some server has still to
 * be told; 2 nobody said yes. Breaking it off ends the watching alone.
 */
export async function leaveAll(
  api: OperatorApi,
  options: LeaveAllOptions,
  terminal: Terminal,
): Promise<number> {
  const path = `/v1/users/${encodeURIComponent(options.userId)}/leave-all`;
  const before = await newest(api, path);
  if (before?.status === 'running') {
    terminal.err.write(`${options.userId} is leaving every room already: watching.\n`);
  } else {
    if (!options.yes && !(await confirmed(options.userId, terminal))) return leaveAllCodes.unconfirmed;
    const { reason, include } = options;
    await api.call<Run>('POST', path, {
      ...(reason === undefined ? {} : { reason }),
      ...(include === undefined ? {} : { include }),
    });
  }
  const run = await watch(api, path, options, terminal.err);
  await report(api, path, run, options, terminal.out);
  if (run.refused > 0) return leaveAllCodes.refused;
  return run.retrying > 0 ? leaveAllCodes.retrying : leaveAllCodes.known;
}

async function newest(api: OperatorApi, path: string): Promise<Run | undefined> {
  try {
    return await api.call<Run>('GET', `${path}?limit=1`);
  } catch (cause) {
    if (cause instanceof ApiError && cause.status === 404) return undefined;
    throw cause;
  }
}

async function confirmed(userId: string, terminal: Terminal): Promise<boolean> {
  if (!terminal.in.isTTY) throw new Error('nobody can be asked here: say --yes to do it without a question');
  const asking = createInterface({ input: terminal.in, output: terminal.err });
  try {
    const answer = await asking.question(`Take ${userId} out of every room? It can't be undone. [y/N] `);
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    asking.close();
  }
}

/** Until the user is out of every room, and then a while for the servers that are still being told. */
async function watch(
  api: OperatorApi,
  path: string,
  { waitMs, everyMs }: LeaveAllOptions,
  err: NodeJS.WriteStream,
): Promise<Run> {
  const progress = err.isTTY ? barOn(err) : linesOn(err);
  let waitUntil = Infinity;
  try {
    for (;;) {
      const run = await api.call<Run>('GET', `${path}?limit=1`);
      progress.show(run);
      if (run.status === 'completed') {
        waitUntil = Math.min(waitUntil, performance.now() + waitMs);
        if (run.retrying === 0 || performance.now() >= waitUntil) return run;
      }
      await delay(everyMs);
    }
  } finally {
    progress.end();
  }
}

interface Progress {
  show(run: Run): void;
  end(): void;
}

/** Out here, and of those not told yet. */
const inWords = ({ left, total, retrying, refused }: Run): string =>
  `${left} of ${total} rooms left, ${retrying} still to be told, ${refused} refused`;

function barOn(stream: NodeJS.WriteStream): Progress {
  const bar = new SingleBar({
    stream,
    format: '{bar} {words}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 30,
    hideCursor: true,
  });
  bar.start(1, 0, { words: '' });
  return {
    show(run) {
      bar.setTotal(Math.max(1, run.total));
      bar.update(run.total === 0 ? 1 : run.left, { words: inWords(run) });
    },
    end: () => bar.stop(),
  };
}

function linesOn(stream: NodeJS.WriteStream): Progress {
  let last = '';
  let lastAt = -Infinity;
  return {
    show(run) {
      const words = inWords(run);
      const isDue = run.status === 'completed' || performance.now() - lastAt >= lineEveryMs;
      if (words === last || !isDue) return;
      stream.write(`${words}\n`);
      last = words;
      lastAt = performance.now();
    },
    end: () => {},
  };
}

async function report(
  api: OperatorApi,
  path: string,
  run: Run,
  { json, userId }: LeaveAllOptions,
  out: NodeJS.WriteStream,
): Promise<void> {
  const rooms: OpenRoom[] = [];
  for await (const room of openRooms(api, path)) {
    if (!json && rooms.length === mostLines) break;
    rooms.push(room);
  }
  if (json) {
    const { leave_all_id, user_id, status, total, waiting, left, retrying, refused } = run;
    const shown = { leave_all_id, user_id, status, total, waiting, left, retrying, refused, rooms };
    out.write(`${JSON.stringify(shown)}\n`);
    return;
  }
  if (rooms.length > 0) out.write(`${tableOf(rooms)}\n`);
  const open = run.waiting + run.retrying + run.refused;
  if (open > rooms.length) out.write(`and ${open - rooms.length} more: --json has all\n`);
  const known = run.left - run.retrying;
  const colour = run.refused > 0 ? 'red' : run.retrying > 0 ? 'yellow' : 'green';
  out.write(`${styleText(colour, `${userId}: ${inWords(run)}`, { stream: out })}\n`);
  if (run.retrying > 0) {
    out.write(
      `${known} rooms know; the others are told as soon as their servers answer, without this command\n`,
    );
  }
}

async function* openRooms(api: OperatorApi, path: string): AsyncGenerator<OpenRoom> {
  let from = '';
  for (;;) {
    const page = await api.call<Page>('GET', `${path}?limit=500${from}`);
    yield* page.rooms;
    if (page.next === undefined) return;
    from = `&from=${encodeURIComponent(page.next)}`;
  }
}

function tableOf(rooms: readonly OpenRoom[]): string {
  const table = new Table({
    head: ['room', 'was', 'stands', 'next attempt', 'what was said'],
    style: { head: [], border: [] },
    wordWrap: true,
    colWidths: [38, 8, 10, 22, 60],
  });
  for (const { room_id, membership, status, next_attempt_at: nextAt, error, servers } of rooms) {
    const said = error ?? servers.map(({ server, detail }) => `${server}: ${detail}`).join('\n');
    const at = nextAt === undefined ? '' : new Date(nextAt).toISOString().slice(0, 19).replace('T', ' ');
    table.push([printable(room_id), membership, status, at, printable(said)]);
  }
  return table.toString();
}

/** What other servers say must not steer the terminal. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, (unit) => (unit === '\n' ? unit : '\ufffd'));
}
