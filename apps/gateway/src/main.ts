import 'reflect-metadata';
import { pino, type Logger } from 'pino';
import pretty from 'pino-pretty';
import { ConfigurationError, readConfiguration, type Configuration } from '@exeunt/configuration';
import { product } from './product.js';
import { startStandalone } from './standalone.js';

function logger({ logLevel }: Configuration): Logger {
  const options = { level: logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  return process.stdout.isTTY
    ? pino(options, pretty({ colorize: true, translateTime: 'HH:MM:ss', sync: true }))
    : pino(options);
}

async function main(): Promise<void> {
  const configuration = readConfiguration(process.env);
  const log = logger(configuration);
  if (!configuration.outgoing.verifyTls) {
    log.warn('EXEUNT_FEDERATION_VERIFY_TLS is false: anybody on the way can pretend to be any other server');
  }
  const running = await startStandalone(configuration, log);
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
  process.stdout.write(greeting(configuration, running));
}

function greeting(
  { serverName, dataDirectory, platformToken }: Configuration,
  { federationUrl, platformUrl }: { readonly federationUrl: string; readonly platformUrl: string },
): string {
  const token =
    platformToken === undefined ? `$(cat ${dataDirectory}/platform.token)` : '$EXEUNT_PLATFORM_TOKEN';
  return `
  ${product.name} ${product.version} is ${serverName}

    federation   ${federationUrl}/_matrix/federation/v1/version
    platform     ${platformUrl}/docs
    readiness    ${platformUrl}/readyz

  Next: watch a leave being made, in another terminal

    npm run demo

  or make a room yourself

    curl -s ${platformUrl}/v1/rooms -H "Authorization: Bearer ${token}" \\
      -d '{"creator": "@alice:${serverName}"}'

`;
}

main().catch((cause: unknown) => {
  const message = cause instanceof Error ? cause.message : String(cause);
  process.stderr.write(`${product.name} does not start: ${message}\n`);
  if (!(cause instanceof ConfigurationError) && cause instanceof Error && cause.stack !== undefined) {
    process.stderr.write(`${cause.stack}\n`);
  }
  process.exit(1);
});
