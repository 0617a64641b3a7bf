import 'reflect-metadata';
import { product, runApp } from '../../gateway/src/for-federation-sender.js';
import { startSender } from './start.js';

// This program has one role, whatever it is started by.
await runApp({ ...process.env, EXEUNT_ROLE: 'federation-sender' }, async (configuration, log) => {
  const { url, stop } = await startSender(configuration, log);
  return {
    greeting: `
  ${product.name} ${product.version} sends for ${configuration.serverName}

    destinations   ${url}/v1/destinations
    readiness      ${url}/readyz

`,
    stop,
  };
});
