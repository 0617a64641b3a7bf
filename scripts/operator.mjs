#!/usr/bin/env node
import { runBuilt } from './build.mjs';

await runBuilt('apps/operator/src/main.js', process.argv.slice(2));
