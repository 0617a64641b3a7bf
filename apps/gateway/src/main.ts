import 'reflect-metadata';
import { ConfigurationError, type Configuration } from '@exeunt/configuration';
import { runApp } from './process.js';
import { product } from './product.js';
import { startStandalone, type Standalone } from './standalone.js';

await runApp(process.env, async (configuration, log) => {
  if (configuration.role.kind === 'federation-sender') {
    throw new ConfigurationError('EXEUNT_ROLE=federation-sender is run by apps/federation-sender, not here.');
  }
  const running = await startStandalone(configuration, log);
  return { greeting: greeting(configuration, running), stop: () => running.stop() };
});

function greeting(
  { serverName, role, platformTokenFile }: Configuration,
  { federationUrl, platformUrl }: Pick<Standalone, 'federationUrl' | 'platformUrl'>,
): string {
  const token = platformTokenFile === undefined ? '$EXEUNT_PLATFORM_TOKEN' : `$(cat ${platformTokenFile})`;
  const what = role.kind === 'gateway' ? ', a gateway' : '';
  return `
  ${product.name} ${product.version} is ${serverName}${what}

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
