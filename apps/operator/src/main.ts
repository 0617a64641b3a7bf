import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { styleText } from 'node:util';
import { Command } from 'commander';
import { OperatorApi } from './operator-api.js';
import { checkLogs } from './check-log.js';
import { leaveAll } from './leave-all.js';

/*
 * Terminal commands of an operator, over the platform API; they open no database themselves.
 */

function token(dataDirectory: string): string {
  const configured = process.env['EXEUNT_PLATFORM_TOKEN'];
  if (configured !== undefined && configured !== '') return configured;
  return readFileSync(join(dataDirectory, 'platform.token'), 'utf8').trim();
}

const program = new Command('exeunt')
  .description('Operate a running Exeunt')
  .option(
    '--url <url>',
    'the platform listener',
    process.env['EXEUNT_PLATFORM_URL'] ?? 'http://127.0.0.1:8090',
  )
  .option(
    '--data-dir <directory>',
    'where the platform token is',
    process.env['EXEUNT_DATA_DIR'] ?? './data',
  );

program
  .command('check-log')
  .description("replay rooms' logs and compare them with the stored state; all rooms unless some are named")
  .argument('[room...]', 'room IDs')
  .action(async (rooms: string[]) => {
    const { url, dataDir } = program.opts<{ url: string; dataDir: string }>();
    process.exitCode = await checkLogs(new OperatorApi(url, token(dataDir)), rooms, process.stdout);
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
      const { url, dataDir } = program.opts<{ url: string; dataDir: string }>();
      const { reason, include, wait, yes = false, json = false } = options;
      const wish = { userId, yes, json, waitMs: Number(wait) * 1000, everyMs: 500 };
      if (!(wish.waitMs >= 0)) throw new Error('--wait is not a number of seconds');
      process.exitCode = await leaveAll(
        new OperatorApi(url, token(dataDir)),
        {
          ...wish,
          ...(reason === undefined ? {} : { reason }),
          ...(include === undefined ? {} : { include }),
        },
        { in: process.stdin, out: process.stdout, err: process.stderr },
      );
    },
  );

program.parseAsync().catch((cause: unknown) => {
  const message = cause instanceof Error ? cause.message : String(cause);
  process.stderr.write(`${styleText('red', message, { stream: process.stderr })}\n`);
  process.exitCode = 2;
});
