import { runBuilt } from './build.mjs';

await runBuilt('apps/gateway/src/main.js');
