import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { styleText } from 'node:util';
import { Command, InvalidArgumentError, Option } from 'commander';
import { OperatorApi } from './operator-api.js';
import { checkLogs } from './check-log.js';
import {
  listDestinations,
  parkDestination,
  retryAllFailing,
  retryDestination,
  showDestination,
  unparkDestination,
  type Printing,
} from './destinations.js';
import { leaveAll } from './leave-all.js';

/*
 * Terminal commands of an operator, over the platform API; they open no database themselves.
 */

function token(dataDirectory: string): string {
  const configured = process.env['EXEUNT_PLATFORM_TOKEN'];
  if (configured !== undefined && configured !== '') return configured;
  const named = process.env['EXEUNT_PLATFORM_TOKEN_FILE'];
  const file = named !== undefined && named !== '' ? named : join(dataDirectory, 'platform.token');
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (cause) {
    const where = 'give it in EXEUNT_PLATFORM_TOKEN, its file in EXEUNT_PLATFORM_TOKEN_FILE, or --data-dir';
    throw new Error(`no platform token in ${file}: ${where}`, { cause });
  }
}

const program = new Command('exeunt')
  .description('Operate a running Exeunt')
  // Of a command's own answers 1 is the no; 2 is that there is none.
  .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : 2))
  .option(
    '--url <url>',
    'the platform listener, or that of a federation-sender',
    process.env['EXEUNT_PLATFORM_URL'] ?? 'http://127.0.0.1:8090',
  )
  .option(
    '--data-dir <directory>',
    'where the platform token is',
    process.env['EXEUNT_DATA_DIR'] ?? './data',
  );

function api(): OperatorApi {
  const { url, dataDir } = program.opts<{ url: string; dataDir: string }>();
  return new OperatorApi(url, token(dataDir));
}

program
  .command('check-log')
  .description("replay rooms' logs and compare them with the stored state; all rooms unless some are named")
  .argument('[room...]', 'room IDs')
  .action(async (rooms: string[]) => {
    process.exitCode = await checkLogs(api(), rooms, process.stdout);
  });

program
  .command('leave-all')
  .description('take a user out of every room, or watch how that goes on')
  .argument('<user>', 'the user ID')
  .option('--reason <text>', 'why, for the rooms')
  .option('--include <membership...>', 'join, invite or knock alone, or some of them')
  .option('--wait <seconds>', 'how long to wait for servers that have still to be told', '30')
  .option('--yes', 'do not ask')
  .option('--json', 'the report for programs')
  .addHelpText(
    'after',
    '\nExit code: 0 every room knows, 1 some room refuses, 3 some server has still to be told.',
  )
  .action(
    async (
      userId: string,
      options: { reason?: string; include?: string[]; wait: string; yes?: boolean; json?: boolean },
    ) => {
      const { reason, include, wait, yes = false, json = false } = options;
      const wish = { userId, yes, json, waitMs: Number(wait) * 1000, everyMs: 500 };
      if (!(wish.waitMs >= 0)) throw new Error('--wait is not a number of seconds');
      process.exitCode = await leaveAll(
        api(),
        {
          ...wish,
          ...(reason === undefined ? {} : { reason }),
          ...(include === undefined ? {} : { include }),
        },
        { in: process.stdin, out: process.stdout, err: process.stderr },
      );
    },
  );

const onDestinations = program
  .command('destinations')
  .description('see how delivery to other servers stands, and take it in hand');

/** How often a watch looks, ms. */
const WATCH_EVERY_MS = 500;

const asJson = ['--json', 'for programs'] as const;
const watching = [
  '--watch',
  'follow the backlog: exit code 0 when nothing waits any more, 1 when nothing moves',
] as const;

interface Options {
  readonly json?: boolean;
  readonly watch?: boolean;
}

function printing({ json = false }: Options): Printing {
  return { out: process.stdout, json };
}

function watchOf({ watch = false }: Options) {
  return { watch, everyMs: WATCH_EVERY_MS };
}

onDestinations
  .command('list')
  .description('what is failing first, the longest queues before')
  .addOption(
    new Option('--state <state>', 'only those').choices(['parked', 'backing-off', 'sending', 'idle']),
  )
  .option('--pending', 'only those that something waits for')
  .option('--limit <count>', 'lines of the table; JSON has all', count, 50)
  .option(...asJson)
  .action(async (options: Options & { state?: string; pending?: boolean; limit: number }) => {
    const { state, pending, limit } = options;
    process.exitCode = await listDestinations(api(), { state, pending, limit }, printing(options));
  });

onDestinations
  .command('show')
  .description('everything about one: state, next try, errors, the transaction that is repeated')
  .argument('<server>', 'its server name')
  .option(...watching)
  .option(...asJson)
  .action(async (server: string, options: Options) => {
    process.exitCode = await showDestination(api(), server, watchOf(options), printing(options));
  });

onDestinations
  .command('retry')
  .description('try one now, whatever its backoff and also if it is parked; or all that fail')
  .argument('[server]', 'its server name')
  .option('--all-failing', 'all that back off, or were parked by their failures')
  .option(...watching)
  .option(...asJson)
  .action(
    async (server: string | undefined, options: Options & { allFailing?: boolean }, command: Command) => {
      if ((server === undefined) === (options.allFailing !== true)) {
        command.error('error: name a server, or give --all-failing');
      }
      process.exitCode =
        server === undefined
          ? await retryAllFailing(api(), watchOf(options), printing(options))
          : await retryDestination(api(), server, watchOf(options), printing(options));
    },
  );

onDestinations
  .command('park')
  .description('send nothing to one until it is unparked or retried, or makes contact; nothing is dropped')
  .argument('<server>', 'its server name')
  .option(...asJson)
  .action(async (server: string, options: Options) => {
    process.exitCode = await parkDestination(api(), server, printing(options));
  });

onDestinations
  .command('unpark')
  .description('try one that is parked now; any other stays as it is')
  .argument('<server>', 'its server name')
  .option(...asJson)
  .action(async (server: string, options: Options) => {
    process.exitCode = await unparkDestination(api(), server, printing(options));
  });

function count(text: string): number {
  if (!/^[1-9]\d{0,6}$/.test(text)) throw new InvalidArgumentError('It is a number from 1 on.');
  return Number(text);
}

program.parseAsync().catch((cause: unknown) => {
  const message = cause instanceof Error ? cause.message : String(cause);
  process.stderr.write(`${styleText('red', message, { stream: process.stderr })}\n`);
  process.exitCode = 2;
});
