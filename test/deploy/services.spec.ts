import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ServiceContainer } from '../../scripts/services/service-process.mjs';
import { readComposeFile, readEnvFile } from '../harness/compose-file.js';
import { findKafka, startKafka } from '../harness/kafka-server.js';
import { findPostgres, startPostgres } from '../harness/postgres-server.js';

/* Servers of tests in containers, by what is asked of `docker`: an executable that writes it down and answers. */

const FAKE_DOCKER = `#!/bin/sh
for argument; do printf '%s\\037' "$argument"; done >> "$FAKE_DOCKER/calls"
echo >> "$FAKE_DOCKER/calls"
case "$1" in
  version) [ ! -e "$FAKE_DOCKER/no-engine" ] || exit 1; echo 28.2.2 ;;
  run) env > "$FAKE_DOCKER/environment"; echo 0123456789ab ;;
  inspect) echo false ;;
  logs) echo 'this is its log' >&2 ;;
esac
`;
const id = '0123456789ab';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'exeunt-docker-'));
  writeFileSync(join(folder, 'docker'), FAKE_DOCKER, { mode: 0o755 });
  vi.stubEnv('PATH', `${folder}:${process.env['PATH']}`);
  vi.stubEnv('FAKE_DOCKER', folder);
  vi.stubEnv('EXEUNT_TEST_SERVICES', 'docker');
  vi.stubEnv('EXEUNT_TEST_DATABASE_URL', '');
  vi.stubEnv('EXEUNT_TEST_KAFKA_BROKERS', '');
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

/** What `docker` was asked so far, but whether there is an engine. */
function calls(): readonly (readonly string[])[] {
  if (!existsSync(join(folder, 'calls'))) return [];
  return readFileSync(join(folder, 'calls'), 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('version'))
    .map((line) => line.split('\x1f').slice(0, -1));
}

/** The environment of `docker run`, of what it was told to hand on. */
function handedOn(): Readonly<Record<string, string>> {
  const names = new Set(
    calls()
      .filter(([command]) => command === 'run')
      .flatMap((call) => call.filter((_, at) => call[at - 1] === '--env')),
  );
  const lines = readFileSync(join(folder, 'environment'), 'utf8').split('\n');
  const all = lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]);
  return Object.fromEntries(all.filter(([name]) => names.has(name!)));
}

/** The port of loopback that was published, and the container's. */
function published(): readonly string[] {
  const run = calls().find(([command]) => command === 'run') ?? [];
  const [, ours, its] = /^127\.0\.0\.1:(\d+):(\d+)$/.exec(run[run.indexOf('--publish') + 1] ?? '') ?? [];
  return [ours!, its!];
}

const { services } = readComposeFile('docker-compose.yml', readEnvFile('.env.example'));

describe('a machine with a Docker engine', () => {
  it('has the images of the compose file', () => {
    expect(findPostgres()).toEqual({ kind: 'docker', image: services['postgres']?.image });
    expect(findKafka()).toEqual({ kind: 'docker', image: services['kafka']?.image });
  });

  it('is told from one with a client alone', () => {
    writeFileSync(join(folder, 'no-engine'), '');
    expect([findPostgres(), findKafka()]).toEqual([undefined, undefined]);
  });

  it('starts PostgreSQL on loopback, with its password on no command line', async () => {
    // The container ends at once here: what it said is told, and it is removed.
    await expect(startPostgres()).rejects.toThrow(/PostgreSQL did not come up:\nthis is its log/);
    const [run, ...others] = calls();
    const [port, its] = published();
    expect(its).toBe('5432');
    expect(run).toEqual(
      [
        ['run', '--detach', '--label', 'org.exeunt.test=true', '--publish', `127.0.0.1:${port}:5432`],
        ['--env', 'POSTGRES_USER', '--env', 'POSTGRES_PASSWORD', '--env', 'POSTGRES_DB'],
        ['--env', 'POSTGRES_INITDB_ARGS', 'postgres:15-bookworm'],
      ].flat(),
    );
    expect(handedOn()).toEqual({
      POSTGRES_USER: 'exeunt',
      POSTGRES_PASSWORD: expect.stringMatching(/^[\da-f]{32}$/),
      POSTGRES_DB: 'exeunt',
      POSTGRES_INITDB_ARGS: '--encoding=UTF8 --locale=C',
    });
    // However often it was looked at meanwhile.
    const commands = others.map(([command]) => command);
    expect([...new Set(commands)]).toEqual(['inspect', 'logs', 'kill', 'rm']);
    expect(others.at(-1)).toEqual(['rm', '--force', '--volumes', id]);
  });

  it('starts Kafka on a port that is the same inside, for the broker tells it to its clients', async () => {
    await expect(startKafka({ properties: { 'log.retention.ms': '1' } })).rejects.toThrow('this is its log');
    const [port, its] = published();
    expect(its).toBe(port);
    expect(calls()[0]?.at(-1)).toBe(services['kafka']?.image);
    expect(handedOn()).toMatchObject({
      KAFKA_PROCESS_ROLES: 'broker,controller',
      KAFKA_LISTENERS: `PLAINTEXT://0.0.0.0:${port},CONTROLLER://127.0.0.1:9093`,
      KAFKA_ADVERTISED_LISTENERS: `PLAINTEXT://127.0.0.1:${port}`,
      KAFKA_AUTO_CREATE_TOPICS_ENABLE: 'false',
      KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS: '500',
      KAFKA_LOG_DIRS: services['kafka']?.environment?.['KAFKA_LOG_DIRS'],
      KAFKA_LOG_RETENTION_MS: '1',
    });
    expect(calls().at(-1)).toEqual(['rm', '--force', '--volumes', id]);
  });
});

describe('a container', () => {
  const settings = { image: 'server:1', ports: { 4000: 5000 }, environment: {}, outlivesCaller: false };

  it('is made once, and killed, ended and started by its ID', async () => {
    const container = new ServiceContainer(settings);
    const isUp = () => Promise.resolve(true);
    expect(await container.start(isUp)).toBe('ready');
    expect(await container.start(isUp)).toBe('ready');
    await container.kill9();
    await container.kill9();
    await container.start(isUp);
    await container.end();
    await container.remove();
    await container.remove();
    expect(calls().slice(1)).toEqual([
      ['kill', id],
      ['start', id],
      ['stop', '-t', '30', id],
      ['rm', '--force', '--volumes', id],
    ]);
  });

  it('is removed when the process that started it is killed', async () => {
    const script = fileURLToPath(new URL('../../scripts/services/service-process.mjs', import.meta.url));
    const child = spawn(
      process.execPath,
      [
        '--input-type=module',
        '--eval',
        `const { ServiceContainer } = await import(${JSON.stringify(script)});
         const container = new ServiceContainer(${JSON.stringify(settings)});
         await container.start(async () => true);
         console.log('up');
         setInterval(() => {}, 1000);`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await new Promise((resolve) => child.stdout.once('data', resolve));
    expect(calls().map(([command]) => command)).toEqual(['run']);
    child.kill('SIGKILL');
    const removed = () => expect(calls().at(-1)).toEqual(['rm', '--force', '--volumes', id]);
    await vi.waitFor(removed, { timeout: 10_000 });
  });
});
