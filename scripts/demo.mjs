import { runBuilt } from './build.mjs';

await runBuilt('apps/demo/src/main.js');
