import { pino, type DestinationStream, type Logger } from 'pino';
import pretty from 'pino-pretty';
import { ConfigurationError, readConfiguration, type Configuration } from '@exeunt/configuration';
import { traceOfLogLine } from '@exeunt/tracing';
import { product } from './product.js';

/** An app that listens. */
export interface RunningApp {
  /** What a person reads who starts it in a terminal. */
  readonly greeting: string;
  /** Takes no new request, answers those under way, and closes everything. */
  stop(): Promise<void>;
}

/** Runs an app until a signal ends it. A start that fails ends the process with one sentence. */
export async function runApp(
  environment: Readonly<Record<string, string | undefined>>,
  start: (configuration: Configuration, log: Logger) => Promise<RunningApp>,
): Promise<void> {
  try {
    const configuration = readConfiguration(environment);
    const log = openLog(configuration);
    if (!configuration.outgoing.verifyTls) {
      log.warn(
        'EXEUNT_FEDERATION_VERIFY_TLS is false: anybody on the way can pretend to be any other server',
      );
    }
    const running = await start(configuration, log);
    stopOnSignal(running, log);
    process.stdout.write(running.greeting);
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    process.stderr.write(`${product.name} does not start: ${message}\n`);
    if (!(cause instanceof ConfigurationError) && cause instanceof Error && cause.stack !== undefined) {
      process.stderr.write(`${cause.stack}\n`);
    }
    process.exit(1);
  }
}

/** The log of an app: lines of JSON, for a person where a terminal shows them. Each names the trace it belongs to. */
export function openLog({ logLevel }: Pick<Configuration, 'logLevel'>, to?: DestinationStream): Logger {
  const options = {
    level: logLevel,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    mixin: traceOfLogLine,
  };
  if (to !== undefined) return pino(options, to);
  return process.stdout.isTTY
    ? pino(options, pretty({ colorize: true, translateTime: 'HH:MM:ss', sync: true }))
    : pino(options);
}

function stopOnSignal(running: RunningApp, log: Logger): void {
  let isStopping = false;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (isStopping) return;
      isStopping = true;
      log.info({ signal }, 'stopping');
      running.stop().then(
        () => process.exit(0),
        (cause: unknown) => {
          log.error({ err: cause }, 'could not stop cleanly');
          process.exit(1);
        },
      );
    });
  }
}
