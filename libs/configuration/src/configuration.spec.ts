import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ConfigurationError, readConfiguration } from './configuration.js';

const database = { EXEUNT_DATABASE_URL: 'postgres://exeunt:secret@db:5432/exeunt' };
const brokers = { EXEUNT_KAFKA_BROKERS: 'one:9092, [::1]:9093' };

describe('the environment', () => {
  it('may be empty: one process with everything embedded', () => {
    const configuration = readConfiguration({});
    expect(configuration.role).toEqual({
      kind: 'standalone',
      database: { kind: 'embedded', directory: './data/database' },
      kafka: undefined,
    });
    expect(configuration.sender).toEqual({ host: '127.0.0.1', port: 8091 });
  });

  it.each(['gateway', 'federation-sender', 'standalone'] as const)(
    'gives %s a database and brokers',
    (kind) => {
      expect(readConfiguration({ EXEUNT_ROLE: kind, ...database, ...brokers }).role).toEqual({
        kind,
        database: { kind: 'postgres', url: database.EXEUNT_DATABASE_URL },
        kafka: { brokers: ['one:9092', '[::1]:9093'], ssl: false, sasl: undefined },
      });
    },
  );

  it('secures the brokers', () => {
    const { role } = readConfiguration({
      ...brokers,
      EXEUNT_KAFKA_SSL: 'true',
      EXEUNT_KAFKA_SASL_MECHANISM: 'scram-sha-512',
      EXEUNT_KAFKA_SASL_USERNAME: 'exeunt',
      EXEUNT_KAFKA_SASL_PASSWORD: 'secret',
    });
    expect(role.kafka).toMatchObject({
      ssl: true,
      sasl: { mechanism: 'scram-sha-512', username: 'exeunt', password: 'secret' },
    });
  });

  const collector = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' };
  const ratio = { OTEL_TRACES_SAMPLER: 'parentbased_traceidratio' };
  it.each<[string, Readonly<Record<string, string>>, object | undefined]>([
    ['nobody, unless told', {}, undefined],
    [
      'the collector of everything',
      collector,
      { url: 'http://collector:4318/v1/traces', serviceName: 'exeunt', sampledRatio: 1 },
    ],
    [
      'that below a path',
      { OTEL_EXPORTER_OTLP_ENDPOINT: 'https://collector/otlp/' },
      { url: 'https://collector/otlp/v1/traces' },
    ],
    [
      'that of traces, as it is written',
      { ...collector, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'https://traces/in' },
      { url: 'https://traces/in' },
    ],
    [
      'nobody, where other services are told how',
      { OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc', OTEL_TRACES_SAMPLER: 'always_on' },
      undefined,
    ],
    ['nobody, where it is switched off', { ...collector, OTEL_SDK_DISABLED: 'true' }, undefined],
    ['nobody, where it is for other things', { ...collector, OTEL_TRACES_EXPORTER: 'none' }, undefined],
    [
      'a collector as a gateway',
      { ...collector, ...database, ...brokers, EXEUNT_ROLE: 'gateway' },
      { serviceName: 'exeunt-gateway' },
    ],
    [
      'a collector as a sender',
      { ...collector, ...database, ...brokers, EXEUNT_ROLE: 'federation-sender' },
      { serviceName: 'exeunt-federation-sender' },
    ],
    [
      'a collector under another name',
      { ...collector, OTEL_SERVICE_NAME: 'leaving' },
      { serviceName: 'leaving' },
    ],
    [
      'a collector, a quarter of the traces',
      { ...collector, ...ratio, OTEL_TRACES_SAMPLER_ARG: '0.25' },
      { sampledRatio: 0.25 },
    ],
    [
      'a collector, what others have begun alone',
      { ...collector, OTEL_TRACES_SAMPLER: 'parentbased_always_off' },
      { sampledRatio: 0 },
    ],
  ])('sends spans to %s', (_, environment, expected) => {
    const { spanCollector } = readConfiguration(environment);
    if (expected === undefined) expect(spanCollector).toBeUndefined();
    else expect(spanCollector).toMatchObject(expected);
  });

  const sasl = { EXEUNT_KAFKA_SASL_MECHANISM: 'plain' };
  const wrong: readonly [string, Readonly<Record<string, string>>][] = [
    ['EXEUNT_ROLE', { EXEUNT_ROLE: 'sender' }],
    ['EXEUNT_DATABASE_URL', { EXEUNT_ROLE: 'gateway', ...brokers }],
    ['EXEUNT_KAFKA_BROKERS', { EXEUNT_ROLE: 'gateway', ...database }],
    ['EXEUNT_DATABASE_URL and EXEUNT_KAFKA_BROKERS', { EXEUNT_ROLE: 'federation-sender' }],
    ['EXEUNT_DATABASE_URL', { EXEUNT_DATABASE_URL: 'mysql://db' }],
    ['EXEUNT_KAFKA_BROKERS', { EXEUNT_KAFKA_BROKERS: 'one' }],
    ['EXEUNT_KAFKA_BROKERS', { EXEUNT_KAFKA_BROKERS: 'one:9092,two:99999' }],
    ['EXEUNT_KAFKA_BROKERS', { EXEUNT_KAFKA_BROKERS: 'kafka://one:9092' }],
    ['EXEUNT_KAFKA_SSL', { ...brokers, EXEUNT_KAFKA_SSL: 'yes' }],
    ['EXEUNT_KAFKA_SASL_MECHANISM', { ...brokers, EXEUNT_KAFKA_SASL_MECHANISM: 'oauthbearer' }],
    ['EXEUNT_KAFKA_SASL_MECHANISM', { ...brokers, EXEUNT_KAFKA_SASL_USERNAME: 'exeunt' }],
    ['EXEUNT_KAFKA_SASL_USERNAME', { ...brokers, ...sasl, EXEUNT_KAFKA_SASL_PASSWORD: 'secret' }],
    ['EXEUNT_KAFKA_SASL_PASSWORD', { ...brokers, ...sasl, EXEUNT_KAFKA_SASL_USERNAME: 'exeunt' }],
    ['EXEUNT_SERVER_NAME', { EXEUNT_SERVER_NAME: 'not a name' }],
    ['EXEUNT_PLATFORM_TOKEN', { EXEUNT_PLATFORM_TOKEN: 'short' }],
    ['EXEUNT_FEDERATION_PORT', { EXEUNT_FEDERATION_PORT: '65536' }],
    ['EXEUNT_SENDER_PORT', { EXEUNT_SENDER_PORT: '-1' }],
    ['EXEUNT_FEDERATION_TLS', { EXEUNT_FEDERATION_TLS: 'on' }],
    ['EXEUNT_TLS_CERT_FILE', { EXEUNT_FEDERATION_TLS: 'files' }],
    ['EXEUNT_FEDERATION_CA_FILE', { EXEUNT_FEDERATION_CA_FILE: '/nowhere/roots.pem' }],
    ['EXEUNT_FEDERATION_ALLOW_NETWORKS', { EXEUNT_FEDERATION_ALLOW_NETWORKS: '10.0.0.0' }],
    ['EXEUNT_FEDERATION_TIMEOUT_MS', { EXEUNT_FEDERATION_TIMEOUT_MS: '0' }],
    ['EXEUNT_SENDER_BACKOFF_MAX_MS', { EXEUNT_SENDER_BACKOFF_MAX_MS: '10' }],
    ['EXEUNT_LOG_LEVEL', { EXEUNT_LOG_LEVEL: 'loud' }],
    ['OTEL_EXPORTER_OTLP_ENDPOINT', { OTEL_EXPORTER_OTLP_ENDPOINT: 'collector:4318' }],
    ['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'ftp://collector' }],
    ['OTEL_EXPORTER_OTLP_PROTOCOL', { ...collector, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' }],
    ['OTEL_EXPORTER_OTLP_TRACES_PROTOCOL', { ...collector, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'grpc' }],
    ['OTEL_TRACES_EXPORTER', { ...collector, OTEL_TRACES_EXPORTER: 'zipkin' }],
    ['OTEL_SDK_DISABLED', { ...collector, OTEL_SDK_DISABLED: 'maybe' }],
    ['OTEL_TRACES_SAMPLER', { ...collector, OTEL_TRACES_SAMPLER: 'jaeger_remote' }],
    ['OTEL_TRACES_SAMPLER_ARG', { ...collector, ...ratio, OTEL_TRACES_SAMPLER_ARG: '1.1' }],
    ['OTEL_TRACES_SAMPLER_ARG', { ...collector, ...ratio, OTEL_TRACES_SAMPLER_ARG: 'half' }],
  ];
  it.each(wrong)('stops the start with one sentence that names %s', (name, environment) => {
    expectRefusal(environment, name);
  });
});

describe('a secret', () => {
  const folder = mkdtempSync(join(tmpdir(), 'exeunt-files-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  let files = 0;
  const file = (content: string): string => {
    const path = join(folder, `${(files += 1)}`);
    writeFileSync(path, content);
    return path;
  };
  const kafka = {
    ...brokers,
    EXEUNT_KAFKA_SASL_MECHANISM: 'plain',
    EXEUNT_KAFKA_SASL_USERNAME: 'exeunt',
  };

  it('may stand in a file, and ends before the line does', () => {
    const configuration = readConfiguration({
      ...kafka,
      EXEUNT_PLATFORM_TOKEN_FILE: file('a-token-of-the-platform\n'),
      EXEUNT_KAFKA_SASL_PASSWORD_FILE: file(' with a blank\n\n'),
      EXEUNT_DATABASE_URL: 'postgres://exeunt@db:5432/exeunt?sslmode=require',
      EXEUNT_DATABASE_PASSWORD_FILE: file('p@ss/w%rd?'),
    });
    expect(configuration.platformToken).toBe('a-token-of-the-platform');
    expect(configuration.role.kafka?.sasl).toMatchObject({ password: ' with a blank' });
    expect(configuration.role.database).toEqual({
      kind: 'postgres',
      url: 'postgres://exeunt:p%40ss%2Fw%25rd%3F@db:5432/exeunt?sslmode=require',
    });
  });

  it('is found where the start says it is', () => {
    const path = file('a-token-of-the-platform');
    expect(readConfiguration({ EXEUNT_DATA_DIR: '/data' }).platformTokenFile).toBe('/data/platform.token');
    expect(readConfiguration({ EXEUNT_PLATFORM_TOKEN_FILE: path }).platformTokenFile).toBe(path);
    const given = readConfiguration({ EXEUNT_PLATFORM_TOKEN: 'a-token-of-the-platform' });
    expect(given.platformTokenFile).toBeUndefined();
  });

  const names = {
    EXEUNT_PLATFORM_TOKEN_FILE: {},
    EXEUNT_KAFKA_SASL_PASSWORD_FILE: kafka,
    EXEUNT_DATABASE_PASSWORD_FILE: { EXEUNT_DATABASE_URL: 'postgres://exeunt@db/exeunt' },
  };
  const broken = Object.entries(names).flatMap(([name, environment]) => [
    { name, environment, what: 'is not there', path: () => join(folder, 'nowhere') },
    { name, environment, what: 'is empty', path: () => file('\n') },
    { name, environment, what: 'holds more than one line', path: () => file('secret\nand more\n') },
  ]);
  it.each(broken)('in a file of $name that $what stops the start', ({ name, environment, path }) => {
    expectRefusal({ ...environment, [name]: path() }, name);
  });

  it.each<[string, Readonly<Record<string, string>>]>([
    [
      'EXEUNT_PLATFORM_TOKEN and EXEUNT_PLATFORM_TOKEN_FILE',
      {
        EXEUNT_PLATFORM_TOKEN: 'a-secret-of-the-platform',
        EXEUNT_PLATFORM_TOKEN_FILE: file('another-secret-of-it'),
      },
    ],
    [
      'EXEUNT_KAFKA_SASL_PASSWORD and EXEUNT_KAFKA_SASL_PASSWORD_FILE',
      {
        ...kafka,
        EXEUNT_KAFKA_SASL_PASSWORD: 'secret',
        EXEUNT_KAFKA_SASL_PASSWORD_FILE: file('secret'),
      },
    ],
    ['EXEUNT_DATABASE_PASSWORD_FILE', { ...database, EXEUNT_DATABASE_PASSWORD_FILE: file('secret') }],
    [
      'EXEUNT_DATABASE_PASSWORD_FILE',
      {
        EXEUNT_DATABASE_URL: 'postgres://exeunt@db/exeunt?password=secret',
        EXEUNT_DATABASE_PASSWORD_FILE: file('secret'),
      },
    ],
    ['EXEUNT_DATABASE_URL', { EXEUNT_DATABASE_PASSWORD_FILE: file('secret') }],
    [
      'EXEUNT_DATABASE_URL',
      {
        EXEUNT_DATABASE_URL: 'postgres:///exeunt?host=/run/postgresql',
        EXEUNT_DATABASE_PASSWORD_FILE: file('secret'),
      },
    ],
    ['EXEUNT_PLATFORM_TOKEN_FILE', { EXEUNT_PLATFORM_TOKEN_FILE: file('secret') }],
    ['EXEUNT_KAFKA_SASL_MECHANISM', { ...brokers, EXEUNT_KAFKA_SASL_PASSWORD_FILE: file('secret') }],
  ])('given twice, or to nobody, stops the start by the name of %s', (name, environment) => {
    expectRefusal(environment, name);
  });
});

/** The start ends with one sentence that names the variable and tells no secret. */
function expectRefusal(environment: Readonly<Record<string, string>>, name: string): void {
  let thrown: unknown;
  try {
    readConfiguration(environment);
  } catch (cause) {
    thrown = cause;
  }
  expect(thrown).toBeInstanceOf(ConfigurationError);
  expect((thrown as Error).message).toContain(name);
  expect((thrown as Error).message).not.toContain('\n');
  expect((thrown as Error).message).not.toContain('secret');
}
