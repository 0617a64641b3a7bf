import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { readConfiguration } from '@exeunt/configuration';
import { OwnKeys } from '@exeunt/key-ring';
import { readComposeFile, readEnvFile, type ComposeService } from '../harness/compose-file.js';

/*
 * What a team deploys, held against the code without an engine: what compose would refuse, and what it would start only
 * to see it fail.
 */

const root = fileURLToPath(new URL('../../', import.meta.url));
const text = (name: string): string => readFileSync(`${root}${name}`, 'utf8');

const secrets = mkdtempSync(join(tmpdir(), 'exeunt-deploy-'));
const makeSecrets = () =>
  execFileSync('sh', [`${root}deploy/make-secrets.sh`, secrets], { encoding: 'utf8' });
makeSecrets();
afterAll(() => rmSync(secrets, { recursive: true, force: true }));

const example = readEnvFile('.env.example');
const names = ['docker-compose.yml', 'docker-compose.standalone.yml'] as const;
const files = names.map((name) => ({ name, file: readComposeFile(name, example) }));
const services = files.flatMap(({ name, file }) =>
  Object.entries(file.services).map(([service, of]) => ({ name, service, file, of })),
);
const cluster = files[0]!.file.services;

const dockerfile = text('Dockerfile').replaceAll(/\\\n\s*/g, '');
/** The arguments of an instruction, wherever it stands. */
const instructions = (name: string): string[] =>
  [...dockerfile.matchAll(new RegExp(`^\\s*${name} (.+)$`, 'gm'))].map((match) => match[1]!);

/** The environment as a container has it, with its secrets where they are here. */
function environmentOf(of: ComposeService | undefined): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(of?.environment ?? {}).map(([variable, value]) => [
      variable,
      value.replace(/^\/run\/secrets/, secrets),
    ]),
  );
}

/** The source of what a container runs: its own command, or else the image's. */
function programOf({ command }: ComposeService): string {
  const image = JSON.parse(instructions('CMD').at(-1)!) as readonly string[];
  return (command ?? image).at(-1)!.replace(/^dist\/(.*)\.js$/, '$1.ts');
}

function hasHealthCheck(of: ComposeService | undefined): boolean {
  return of?.healthcheck !== undefined || (of?.build !== undefined && instructions('HEALTHCHECK').length > 0);
}

describe.each(files)('$name', ({ name, file }) => {
  it('asks for the server name before anything else', () => {
    expect(() => readComposeFile(name, {})).toThrow('set EXEUNT_SERVER_NAME in .env');
  });

  it('takes no variable that .env.example does not explain', () => {
    expect([...file.variables].filter((variable) => example[variable] === undefined)).toEqual([]);
  });

  it('declares each secret and volume that a service has, and no other', () => {
    const all = Object.values(file.services);
    const usedSecrets = new Set(all.flatMap((of) => of.secrets ?? []));
    expect(Object.keys(file.secrets).sort()).toEqual([...usedSecrets].sort());
    const sources = all.flatMap((of) => (of.volumes ?? []).map((volume) => volume.split(':')[0]!));
    const named = new Set(sources.filter((source) => !source.startsWith('.')));
    expect(Object.keys(file.volumes).sort()).toEqual([...named].sort());
  });
});

describe.each(services)('$service of $name', ({ file, of }) => {
  it('waits only for services that are there and say when they are ready', () => {
    for (const [other, { condition }] of Object.entries(of.depends_on ?? {})) {
      expect(condition).toBe('service_healthy');
      expect(hasHealthCheck(file.services[other])).toBe(true);
    }
  });

  it('has a health check, and an image of a version that is told', () => {
    expect(hasHealthCheck(of)).toBe(true);
    expect(of.image).toMatch(/^[a-z./-]+:v?\d/);
  });

  it('mounts what is in the repository, and does not write to it', () => {
    for (const volume of of.volumes ?? []) {
      const source = volume.split(':')[0]!;
      if (!source.startsWith('.')) continue;
      expect(volume).toMatch(/:ro$/);
      // The certificate is the operator's own.
      expect(existsSync(join(root, source)) || source === example['EXEUNT_TLS_DIRECTORY'], source).toBe(true);
    }
  });

  it('names the secrets that it is given, no others, and has none in its environment', () => {
    const environment = Object.entries(of.environment ?? {});
    const named = environment.flatMap(([, value]) => /^\/run\/secrets\/(.+)$/.exec(value)?.[1] ?? []);
    expect(named.sort()).toEqual([...(of.secrets ?? [])].sort());
    for (const [variable, value] of environment) {
      if (/PASSWORD|TOKEN|KEY/.test(variable)) expect(value).toMatch(/^\/run\/secrets\//);
      expect(value).not.toMatch(/:\/\/[^/]*:[^/]*@/);
    }
  });

  it('is published beyond this host for federation alone', () => {
    for (const port of of.ports ?? []) expect(port).toMatch(/^8448:8448$|^127\.0\.0\.1:(\d+):\1$/);
  });
});

const ours = services.filter(({ of }) => of.build !== undefined);

describe.each(ours)('$service of $name, which is ours,', ({ of }) => {
  it('runs a program that is there, with an environment that it takes', () => {
    const program = programOf(of);
    expect(existsSync(root + program), program).toBe(true);
    const asked = new Set<string>();
    const given = environmentOf(of);
    const configuration = readConfiguration(
      new Proxy(given, {
        get(target, variable: string) {
          asked.add(variable);
          return target[variable];
        },
      }),
    );
    expect(Object.keys(given).filter((variable) => !asked.has(variable))).toEqual([]);
    expect(configuration.serverName).toBe(example['EXEUNT_SERVER_NAME']);
    const key = readFileSync(configuration.signingKeyFile, 'utf8');
    expect(OwnKeys.parse(configuration.serverName, key).signingKey.keyId).toMatch(/^ed25519:a_[\da-f]{8}$/);
    const { database } = configuration.role;
    const password = readFileSync(join(secrets, 'database_password'), 'utf8').trim();
    expect(database.kind === 'postgres' && decodeURIComponent(new URL(database.url).password)).toBe(password);
    // Loopback would be the container's own.
    const listener = program.includes('federation-sender') ? configuration.sender : configuration.platform;
    expect(listener.host).toBe('0.0.0.0');
  });
});

describe('the cluster of docker-compose.yml', () => {
  it('is two gateways and two senders, which write nothing to their disk', () => {
    for (const service of ['gateway', 'federation-sender']) {
      expect(cluster[service]).toMatchObject({ deploy: { replicas: 2 }, read_only: true });
    }
    expect(readConfiguration(environmentOf(cluster['gateway'])).role.kind).toBe('gateway');
    expect(programOf(cluster['federation-sender']!)).toBe('apps/federation-sender/src/main.ts');
  });

  it("has the broker that tests run against, and the product's own version", () => {
    const broker = /<kafka\.version>([^<]+)</.exec(text('scripts/services/kafka-pom.xml'))?.[1];
    expect(cluster['kafka']?.image).toBe(`apache/kafka:${broker}`);
    const { version } = JSON.parse(text('package.json')) as { readonly version: string };
    for (const { of } of ours) expect(of.image).toBe(`exeunt:${version}`);
  });

  it('has a proxy that reaches both listeners of every gateway', () => {
    const { federation, platform } = readConfiguration(environmentOf(cluster['gateway']));
    const servers = [...text('deploy/nginx/upstreams.conf').matchAll(/server (\S+) resolve;/g)];
    expect(servers.map(([, server]) => server)).toEqual([
      `gateway:${federation.port}`,
      `gateway:${platform.port}`,
    ]);
  });

  it('has a Prometheus that reads every replica, and alerts by rules that are there', () => {
    const prometheus = parse(text('deploy/prometheus/prometheus.yml')) as {
      readonly rule_files: readonly string[];
      readonly scrape_configs: readonly {
        readonly job_name: string;
        readonly dns_sd_configs?: readonly object[];
      }[];
    };
    const { platform } = readConfiguration(environmentOf(cluster['gateway']));
    const { sender } = readConfiguration(environmentOf(cluster['federation-sender']));
    expect(prometheus.scrape_configs).toMatchObject([
      { job_name: 'gateway', dns_sd_configs: [{ names: ['gateway'], type: 'A', port: platform.port }] },
      {
        job_name: 'federation-sender',
        dns_sd_configs: [{ names: ['federation-sender'], type: 'A', port: sender.port }],
      },
      { job_name: 'prometheus' },
    ]);
    for (const rules of prometheus.rule_files)
      expect(existsSync(`${root}deploy/prometheus/${rules}`)).toBe(true);
  });
});

describe('Dockerfile', () => {
  it('builds in one stage, and runs in another what is copied from it', () => {
    const stages = instructions('FROM');
    expect(stages).toHaveLength(2);
    for (const stage of stages) expect(stage).toMatch(/^node:24-[a-z]+-slim( AS build)?$/);
    const copied = instructions('COPY --from=build --chown=root:root').map((of) => of.split(' ')[0]!);
    for (const { of } of ours) {
      expect(copied.some((path) => `/app/dist/${programOf(of)}`.startsWith(`${path}/`))).toBe(true);
    }
    for (const needed of ['node_modules', 'dist/node_modules', 'dist/libs', 'dist/package.json']) {
      expect(copied).toContain(`/app/${needed}`);
    }
  });

  it('runs as a user without rights, with the data directory that is a volume, and a health check', () => {
    expect(instructions('USER')).toEqual(['node']);
    expect(dockerfile.indexOf('\nUSER node')).toBeLessThan(dockerfile.lastIndexOf('\nCMD'));
    expect(instructions('VOLUME')).toEqual(['/data']);
    expect(instructions('ENV').join(' ')).toContain('EXEUNT_DATA_DIR=/data');
    const { platform } = readConfiguration({});
    expect(instructions('HEALTHCHECK')[0]).toContain(`http://127.0.0.1:${platform.port}/readyz`);
  });

  it('is not given keys, secrets or what was installed here', () => {
    const ignored = text('.dockerignore').split('\n');
    expect(ignored).toEqual(expect.arrayContaining(['.env', 'deploy', 'data', 'node_modules', '.git']));
  });
});

describe('deploy/make-secrets.sh', () => {
  it('makes every secret of the compose files, each another, for containers to read in a closed folder', () => {
    const declared = new Set(files.flatMap(({ file }) => Object.keys(file.secrets)));
    expect(readdirSync(secrets).sort()).toEqual([...declared].sort());
    expect(statSync(secrets).mode & 0o777).toBe(0o700);
    for (const name of declared) expect(statSync(join(secrets, name)).mode & 0o777).toBe(0o444);
    const contents = [...declared].map((name) => readFileSync(join(secrets, name), 'utf8'));
    expect(new Set(contents).size).toBe(declared.size);
  });

  it('replaces none', () => {
    const contents = () => readdirSync(secrets).map((name) => readFileSync(join(secrets, name), 'utf8'));
    const before = contents();
    rmSync(join(secrets, 'grafana_password'));
    expect(makeSecrets().trim().split('\n')).toEqual([`made ${secrets}/grafana_password`]);
    expect(contents().filter((content) => !before.includes(content))).toHaveLength(1);
  });
});
