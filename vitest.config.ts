import { fileURLToPath } from 'node:url';
import { readdirSync } from 'node:fs';
import { defineConfig } from 'vitest/config';

const root = fileURLToPath(new URL('.', import.meta.url));
const alias = Object.fromEntries(
  readdirSync(`${root}libs`).map((lib) => [`@exeunt/${lib}`, `${root}libs/${lib}/src/index.ts`]),
);

/** One project a kind of test, so that `npm test` can say which kinds ran and which did not. */
export default defineConfig({
  resolve: { alias },
  test: {
    // They mostly wait for servers and disks, so that two share even a machine of two cores well.
    maxWorkers: 2,
    // Loading the same modules for each file would take as long as the tests of the core.
    isolate: false,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['{apps,libs}/**/*.spec.ts', 'test/{conformance,deploy}/**/*.spec.ts'],
        },
      },
      {
        extends: true,
        test: {
          name: 'contract',
          include: ['test/contract/**/*.spec.ts'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'federation',
          include: ['test/federation/**/*.spec.ts'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'cluster',
          // Twenty processes and their load have the machine to themselves.
          sequence: { groupOrder: 1 },
          include: ['test/cluster/**/*.spec.ts'],
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'synapse',
          include: ['test/synapse/**/*.spec.ts'],
          testTimeout: 180_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
