import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { styleText } from 'node:util';
import { Command } from 'commander';
import { OperatorApi } from './operator-api.js';
import { checkLogs } from './check-log.js';

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

program.parseAsync().catch((cause: unknown) => {
  const message = cause instanceof Error ? cause.message : String(cause);
  process.stderr.write(`${styleText('red', message, { stream: process.stderr })}\n`);
  process.exitCode = 2;
});
