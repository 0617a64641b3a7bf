import { readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from './build.mjs';
import { isFresh } from './freshness.mjs';
import { node, root, run } from './node.mjs';
import { findKafka } from './services/kafka.mjs';
import { findNginx } from './services/nginx.mjs';
import { findPostgres } from './services/postgres.mjs';
import { findSynapse } from './services/synapse.mjs';

/*
 * Every test that this machine can run. Says first which kinds run and which do not, and why; ends with the count.
 * With EXEUNT_REQUIRE_SERVICES=true a service that is missing is a failure: nothing may be left out in CI.
 */

const isStrict = process.env['EXEUNT_REQUIRE_SERVICES'] === 'true';
const synapse = findSynapse();
const postgres = findPostgres();
const kafka = findKafka();
const noPostgres = 'no PostgreSQL here, and no Docker engine (scripts/services/apt.sh installs PostgreSQL)';
const noKafka =
  'no Kafka here, and no Docker engine (scripts/services/apt.sh and install-kafka.sh install Kafka)';
const isNotOurs = 'it kills its servers, and one is configured that is not its own';
const clusterLacks = !postgres
  ? noPostgres
  : !kafka
    ? noKafka
    : [postgres, kafka].some(({ kind }) => kind === 'configured')
      ? isNotOurs
      : undefined;

const kinds = [
  { name: 'unit', what: 'rules, tables, properties and conformance vectors' },
  {
    name: 'contract',
    what: 'ports on every adapter',
    without:
      postgres && kafka
        ? undefined
        : [
            ...(postgres ? [] : [`its PostgreSQL part: ${noPostgres}`]),
            ...(kafka ? [] : [`its Kafka part: ${noKafka}`]),
          ].join('; '),
  },
  {
    name: 'federation',
    what: 'whole servers on loopback, one of them behind nginx',
    without: findNginx() ? undefined : 'its proxy part: no nginx here (scripts/services/apt.sh installs it)',
  },
  {
    name: 'cluster',
    what: 'two gateways and two senders on PostgreSQL and Kafka; killed, frozen and replaced in a storm',
    without: clusterLacks === undefined ? undefined : `all of it: ${clusterLacks}`,
  },
  {
    name: 'synapse',
    what: 'a real Synapse as the other server',
    without: synapse
      ? undefined
      : 'all of it: no Synapse here (scripts/services/install-synapse.sh installs it)',
  },
];

for (const { name, what, without } of kinds) {
  process.stdout.write(
    `${without === undefined ? '  runs     ' : '  leaves out'} ${name.padEnd(11)} ${without ?? what}\n`,
  );
}
const missing = kinds.filter(({ without }) => without !== undefined);
if (isStrict && missing.length > 0) {
  process.stderr.write('EXEUNT_REQUIRE_SERVICES is true, and a service is missing.\n');
  process.exit(1);
}

// Some tests run the built server as a process of its own.
if (!isFresh()) {
  const code = await build();
  if (code !== 0) process.exit(code);
}

const report = join(tmpdir(), `exeunt-tests-${process.pid}.json`);
const names = kinds
  .filter(({ name }) => name !== 'synapse' || synapse)
  .filter(({ name }) => name !== 'cluster' || clusterLacks === undefined)
  .flatMap(({ name }) => ['--project', name]);
const code = await run(node, [
  `${root}node_modules/vitest/vitest.mjs`,
  'run',
  ...names,
  '--reporter=default',
  '--reporter=json',
  `--outputFile.json=${report}`,
  ...process.argv.slice(2),
]);
let counted = false;
try {
  const { numPassedTests, numFailedTests, numPendingTests, numTodoTests } = JSON.parse(
    readFileSync(report, 'utf8'),
  );
  const skipped = numPendingTests + numTodoTests;
  process.stdout.write(
    `\n${numPassedTests} passed, ${numFailedTests} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`,
  );
  counted = numPassedTests > 0;
} finally {
  rmSync(report, { force: true });
}
process.exit(code !== 0 ? code : counted ? 0 : 1);
