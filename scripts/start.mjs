import { runBuilt } from './build.mjs';

// A role that is misspelt is refused by the gateway, which reads the whole environment.
await runBuilt(
  process.env['EXEUNT_ROLE'] === 'federation-sender'
    ? 'apps/federation-sender/src/main.js'
    : 'apps/gateway/src/main.js',
);
