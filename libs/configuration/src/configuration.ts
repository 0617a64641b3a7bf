import { readFileSync } from 'node:fs';
import ipaddr from 'ipaddr.js';
import { parseServerName, type ServerName } from '@exeunt/pdu';

/** Where an app listens. */
export interface Listener {
  readonly host: string;
  readonly port: number;
}

/** How the federation listener is secured. */
export type FederationTls =
  | { readonly kind: 'self-signed' }
  /** Behind a proxy that ends TLS. */
  | { readonly kind: 'off' }
  | { readonly kind: 'files'; readonly certificate: string; readonly privateKey: string };

/** Where the log is kept. */
export type DatabaseLocation =
  | { readonly kind: 'embedded'; readonly directory: string }
  | { readonly kind: 'postgres'; readonly url: string };

/** The Kafka that is the message bus. */
export interface KafkaLocation {
  /** `host:port`, at least one. */
  readonly brokers: readonly string[];
  /** TLS against the system's roots. */
  readonly ssl: boolean;
  readonly sasl:
    | {
        readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512';
        readonly username: string;
        readonly password: string;
      }
    | undefined;
}

/** The OpenTelemetry collector that spans go to. */
export interface SpanCollector {
  /** OTLP over HTTP is posted here, in JSON. */
  readonly url: string;
  readonly serviceName: string;
  /** How many of the traces that begin here are recorded, from 0 to 1; others are as their parent says. */
  readonly sampledRatio: number;
}

/** Where log and bus are that several processes share. */
export interface SharedServices {
  readonly database: Extract<DatabaseLocation, { readonly kind: 'postgres' }>;
  readonly kafka: KafkaLocation;
}

/** What this process does. The roles that stand beside others have what they need to share with them. */
export type Role =
  | {
      readonly kind: 'standalone';
      readonly database: DatabaseLocation;
      /** Absent: the bus is in the database. */
      readonly kafka: KafkaLocation | undefined;
    }
  | ({ readonly kind: 'gateway' } & SharedServices)
  | ({ readonly kind: 'federation-sender' } & SharedServices);

export type LogLevel = 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';

/** Everything the environment says, read once. See the table in README.md for names and defaults. */
export interface Configuration {
  readonly role: Role;
  readonly serverName: ServerName;
  readonly federation: Listener & { readonly tls: FederationTls };
  readonly platform: Listener;
  readonly sender: Listener;
  /** Absent: generated into the data directory. */
  readonly platformToken: string | undefined;
  /** Where a person finds the token; absent where it stands in the environment itself. */
  readonly platformTokenFile: string | undefined;
  readonly signingKeyFile: string;
  readonly dataDirectory: string;
  readonly outgoing: {
    /** PEM. */
    readonly extraRoots: string | undefined;
    readonly verifyTls: boolean;
    /** CIDR ranges that would be refused otherwise. */
    readonly allowNetworks: readonly string[];
    readonly timeoutMs: number;
  };
  /** How long a user's wish to leave waits for the room's servers before it is answered. */
  readonly handshakeDeadlineMs: number;
  readonly backoff: { readonly minMs: number; readonly maxMs: number };
  readonly logLevel: LogLevel;
  /** Absent: no spans are recorded. */
  readonly spanCollector: SpanCollector | undefined;
}

/** A variable has a value that can't be meant; the message is one sentence that names it. */
export class ConfigurationError extends Error {}

type Environment = Readonly<Record<string, string | undefined>>;

/** Reads the environment. Throws {@link ConfigurationError} for the first value that is wrong. */
export function readConfiguration(environment: Environment): Configuration {
  const dataDirectory = text(environment, 'EXEUNT_DATA_DIR', './data');
  const minMs = wholeNumber(environment, 'EXEUNT_SENDER_BACKOFF_MIN_MS', 5000, { from: 1, to: 86_400_000 });
  const maxMs = wholeNumber(environment, 'EXEUNT_SENDER_BACKOFF_MAX_MS', 21_600_000, {
    from: 1,
    to: 604_800_000,
  });
  if (maxMs < minMs) {
    throw new ConfigurationError(
      'EXEUNT_SENDER_BACKOFF_MAX_MS must not be below EXEUNT_SENDER_BACKOFF_MIN_MS.',
    );
  }
  return Object.freeze({
    role: role(environment, dataDirectory),
    serverName: serverName(environment),
    federation: {
      host: text(environment, 'EXEUNT_FEDERATION_HOST', '127.0.0.1'),
      port: port(environment, 'EXEUNT_FEDERATION_PORT', 8448),
      tls: federationTls(environment),
    },
    platform: {
      host: text(environment, 'EXEUNT_PLATFORM_HOST', '127.0.0.1'),
      port: port(environment, 'EXEUNT_PLATFORM_PORT', 8090),
    },
    sender: {
      host: text(environment, 'EXEUNT_SENDER_HOST', '127.0.0.1'),
      port: port(environment, 'EXEUNT_SENDER_PORT', 8091),
    },
    platformToken: token(environment),
    platformTokenFile: tokenFile(environment, dataDirectory),
    signingKeyFile: text(environment, 'EXEUNT_SIGNING_KEY_FILE', `${dataDirectory}/signing.key`),
    dataDirectory,
    outgoing: {
      extraRoots: optionalFile(environment, 'EXEUNT_FEDERATION_CA_FILE'),
      verifyTls: flag(environment, 'EXEUNT_FEDERATION_VERIFY_TLS', true),
      allowNetworks: networks(environment),
      timeoutMs: wholeNumber(environment, 'EXEUNT_FEDERATION_TIMEOUT_MS', 30_000, { from: 1, to: 600_000 }),
    },
    handshakeDeadlineMs: wholeNumber(environment, 'EXEUNT_HANDSHAKE_DEADLINE_MS', 10_000, {
      from: 1,
      to: 600_000,
    }),
    backoff: { minMs, maxMs },
    logLevel: oneOf(
      environment,
      'EXEUNT_LOG_LEVEL',
      ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
      'info',
    ),
    spanCollector: spanCollector(environment),
  });
}

function text(environment: Environment, name: string, otherwise: string): string {
  const value = environment[name];
  return value === undefined || value === '' ? otherwise : value;
}

function serverName(environment: Environment): ServerName {
  const value = text(environment, 'EXEUNT_SERVER_NAME', 'localhost:8448');
  const parsed = parseServerName(value);
  if (parsed === undefined)
    throw new ConfigurationError(`EXEUNT_SERVER_NAME is no Matrix server name: ${value}`);
  return parsed;
}

function token(environment: Environment): string | undefined {
  const { name, value } = secret(environment, 'EXEUNT_PLATFORM_TOKEN');
  if (value === undefined) return undefined;
  if (!/^[\x21-\x7e]{16,512}$/.test(value)) {
    throw new ConfigurationError(`${name} must be 16 to 512 printable characters without spaces.`);
  }
  return value;
}

function tokenFile(environment: Environment, dataDirectory: string): string | undefined {
  const isGiven = text(environment, 'EXEUNT_PLATFORM_TOKEN', '') !== '';
  return isGiven
    ? undefined
    : text(environment, 'EXEUNT_PLATFORM_TOKEN_FILE', `${dataDirectory}/platform.token`);
}

function federationTls(environment: Environment): FederationTls {
  const kind = oneOf(environment, 'EXEUNT_FEDERATION_TLS', ['self-signed', 'off', 'files'], 'self-signed');
  if (kind !== 'files') return { kind };
  return {
    kind,
    certificate: requiredFile(environment, 'EXEUNT_TLS_CERT_FILE'),
    privateKey: requiredFile(environment, 'EXEUNT_TLS_KEY_FILE'),
  };
}

function database(environment: Environment, dataDirectory: string): DatabaseLocation {
  const url = environment['EXEUNT_DATABASE_URL'];
  if (url === undefined || url === '') {
    if (text(environment, 'EXEUNT_DATABASE_PASSWORD_FILE', '') !== '') {
      throw new ConfigurationError('EXEUNT_DATABASE_PASSWORD_FILE needs EXEUNT_DATABASE_URL.');
    }
    return { kind: 'embedded', directory: `${dataDirectory}/database` };
  }
  if (!URL.canParse(url) || !['postgres:', 'postgresql:'].includes(new URL(url).protocol)) {
    throw new ConfigurationError('EXEUNT_DATABASE_URL must be a postgres:// URL.');
  }
  return { kind: 'postgres', url: withPassword(url, environment) };
}

/** The URL with the password of EXEUNT_DATABASE_PASSWORD_FILE in it, where there is one. */
function withPassword(url: string, environment: Environment): string {
  const password = secretFile(environment, 'EXEUNT_DATABASE_PASSWORD_FILE');
  if (password === undefined) return url;
  const parsed = new URL(url);
  if (parsed.password !== '' || parsed.searchParams.has('password')) {
    throw new ConfigurationError(
      'EXEUNT_DATABASE_URL has a password and EXEUNT_DATABASE_PASSWORD_FILE is set: one of the two.',
    );
  }
  if (parsed.hostname === '' || parsed.username === '') {
    throw new ConfigurationError(
      'EXEUNT_DATABASE_PASSWORD_FILE needs a user and a host in EXEUNT_DATABASE_URL.',
    );
  }
  parsed.password = encodeURIComponent(password);
  return parsed.href;
}

const roleKinds = ['standalone', 'gateway', 'federation-sender'] as const satisfies readonly Role['kind'][];

function role(environment: Environment, dataDirectory: string): Role {
  const kind = oneOf(environment, 'EXEUNT_ROLE', roleKinds, 'standalone');
  const location = database(environment, dataDirectory);
  const bus = kafka(environment);
  if (kind === 'standalone') return { kind, database: location, kafka: bus };
  if (location.kind === 'embedded' || bus === undefined) {
    const missing = [
      ...(location.kind === 'embedded' ? ['EXEUNT_DATABASE_URL'] : []),
      ...(bus === undefined ? ['EXEUNT_KAFKA_BROKERS'] : []),
    ];
    throw new ConfigurationError(
      `EXEUNT_ROLE=${kind} shares its database and bus with other processes and needs ${missing.join(' and ')}.`,
    );
  }
  return { kind, database: location, kafka: bus };
}

function kafka(environment: Environment): KafkaLocation | undefined {
  const brokers = text(environment, 'EXEUNT_KAFKA_BROKERS', '')
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== '');
  for (const broker of brokers) {
    const port = /^(?:\[[\da-fA-F:.]+\]|[^\s:/@[\]]+):(\d{1,5})$/.exec(broker)?.[1];
    if (port === undefined || Number(port) < 1 || Number(port) > 65_535) {
      throw new ConfigurationError(`EXEUNT_KAFKA_BROKERS has an entry that is no host:port: ${broker}`);
    }
  }
  const ssl = flag(environment, 'EXEUNT_KAFKA_SSL', false);
  const sasl = kafkaSasl(environment);
  return brokers.length === 0 ? undefined : { brokers, ssl, sasl };
}

function kafkaSasl(environment: Environment): KafkaLocation['sasl'] {
  const mechanism = oneOf(
    environment,
    'EXEUNT_KAFKA_SASL_MECHANISM',
    ['', 'plain', 'scram-sha-256', 'scram-sha-512'],
    '',
  );
  const username = text(environment, 'EXEUNT_KAFKA_SASL_USERNAME', '');
  const { value: password } = secret(environment, 'EXEUNT_KAFKA_SASL_PASSWORD');
  if (mechanism === '') {
    if (username === '' && password === undefined) return undefined;
    throw new ConfigurationError(
      'EXEUNT_KAFKA_SASL_USERNAME and EXEUNT_KAFKA_SASL_PASSWORD need EXEUNT_KAFKA_SASL_MECHANISM.',
    );
  }
  const needs = (name: string): ConfigurationError =>
    new ConfigurationError(`EXEUNT_KAFKA_SASL_MECHANISM=${mechanism} needs ${name}.`);
  if (username === '') throw needs('EXEUNT_KAFKA_SASL_USERNAME');
  if (password === undefined) throw needs('EXEUNT_KAFKA_SASL_PASSWORD');
  return { mechanism, username, password };
}

const serviceNames: Readonly<Record<Role['kind'], string>> = {
  standalone: 'exeunt',
  gateway: 'exeunt-gateway',
  'federation-sender': 'exeunt-federation-sender',
};

/**
 * The variables that OpenTelemetry names, so that what a cluster sets for all its services holds for this one. Those of
 * how to reach the collector (headers, time-out, compression, certificates) are read by its own exporter.
 */
function spanCollector(environment: Environment): SpanCollector | undefined {
  const base = endpoint(environment, 'OTEL_EXPORTER_OTLP_ENDPOINT');
  const traces = endpoint(environment, 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT');
  const url = traces ?? (base === undefined ? undefined : `${base.replace(/\/+$/, '')}/v1/traces`);
  const isDisabled = flag(environment, 'OTEL_SDK_DISABLED', false);
  // The rest may be meant for other services, where this one sends none.
  if (url === undefined || isDisabled) return undefined;
  if (oneOf(environment, 'OTEL_TRACES_EXPORTER', ['otlp', 'none'], 'otlp') === 'none') return undefined;
  // What takes OTLP over HTTP takes it in JSON.
  const protocols = ['http/json', 'http/protobuf'] as const;
  for (const name of ['OTEL_EXPORTER_OTLP_PROTOCOL', 'OTEL_EXPORTER_OTLP_TRACES_PROTOCOL']) {
    oneOf(environment, name, protocols, 'http/json');
  }
  const kind = oneOf(environment, 'EXEUNT_ROLE', roleKinds, 'standalone');
  return {
    url,
    serviceName: text(environment, 'OTEL_SERVICE_NAME', serviceNames[kind]),
    sampledRatio: ratioOfSampler(environment),
  };
}

function endpoint(environment: Environment, name: string): string | undefined {
  const value = text(environment, name, '');
  if (value === '') return undefined;
  if (!URL.canParse(value) || !['http:', 'https:'].includes(new URL(value).protocol)) {
    throw new ConfigurationError(`${name} must be an http:// or https:// URL.`);
  }
  return value;
}

function ratioOfSampler(environment: Environment): number {
  const sampler = oneOf(
    environment,
    'OTEL_TRACES_SAMPLER',
    ['parentbased_always_on', 'parentbased_always_off', 'parentbased_traceidratio'],
    'parentbased_always_on',
  );
  const argument = text(environment, 'OTEL_TRACES_SAMPLER_ARG', '1');
  const ratio = /^(?:\d+(?:\.\d*)?|\.\d+)$/.test(argument) ? Number(argument) : Number.NaN;
  switch (sampler) {
    case 'parentbased_always_on':
      return 1;
    case 'parentbased_always_off':
      return 0;
    case 'parentbased_traceidratio':
      if (ratio >= 0 && ratio <= 1) return ratio;
      throw new ConfigurationError(`OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1, not ${argument}.`);
    default:
      return sampler satisfies never;
  }
}

function networks(environment: Environment): readonly string[] {
  const list = text(environment, 'EXEUNT_FEDERATION_ALLOW_NETWORKS', '')
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== '');
  for (const network of list) {
    if (!ipaddr.isValidCIDR(network)) {
      throw new ConfigurationError(
        `EXEUNT_FEDERATION_ALLOW_NETWORKS has an entry that is no CIDR range: ${network}`,
      );
    }
  }
  return list;
}

function port(environment: Environment, name: string, otherwise: number): number {
  return wholeNumber(environment, name, otherwise, { from: 0, to: 65_535 });
}

function wholeNumber(
  environment: Environment,
  name: string,
  otherwise: number,
  bounds: { readonly from: number; readonly to: number },
): number {
  const value = text(environment, name, String(otherwise));
  const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
  if (!(number >= bounds.from && number <= bounds.to)) {
    throw new ConfigurationError(
      `${name} must be a whole number from ${bounds.from} to ${bounds.to}, not ${value}.`,
    );
  }
  return number;
}

function flag(environment: Environment, name: string, otherwise: boolean): boolean {
  return oneOf(environment, name, ['true', 'false'], otherwise ? 'true' : 'false') === 'true';
}

function oneOf<const Value extends string>(
  environment: Environment,
  name: string,
  values: readonly Value[],
  otherwise: NoInfer<Value>,
): Value {
  const value = text(environment, name, otherwise);
  const known = values.find((one) => one === value);
  if (known === undefined)
    throw new ConfigurationError(
      `${name} must be one of ${values.filter((one) => one !== '').join(', ')}, not ${value}.`,
    );
  return known;
}

/**
 * A secret that stands in the environment under `name`, or in the file that `name` with `_FILE` names; undefined where
 * neither is set. Gives the name it came under too, for what has to be said of the value.
 */
function secret(
  environment: Environment,
  name: string,
): { readonly name: string; readonly value: string | undefined } {
  const value = text(environment, name, '');
  const fileName = `${name}_FILE`;
  if (value === '') return { name: fileName, value: secretFile(environment, fileName) };
  if (text(environment, fileName, '') !== '') {
    throw new ConfigurationError(`${name} and ${fileName} are both set: one of the two.`);
  }
  return { name, value };
}

/** One line, without the line feeds at its end: as a shell's `$(<file)` and the database's own image read it. */
function secretFile(environment: Environment, name: string): string | undefined {
  const value = optionalFile(environment, name)?.replace(/\n+$/, '');
  if (value === '') throw new ConfigurationError(`${name} names a file that is empty.`);
  if (value?.includes('\n') === true) {
    throw new ConfigurationError(`${name} names a file that holds more than one line.`);
  }
  return value;
}

function requiredFile(environment: Environment, name: string): string {
  const content = optionalFile(environment, name);
  if (content === undefined) throw new ConfigurationError(`EXEUNT_FEDERATION_TLS=files needs ${name}.`);
  return content;
}

function optionalFile(environment: Environment, name: string): string | undefined {
  const path = environment[name];
  if (path === undefined || path === '') return undefined;
  try {
    return readFileSync(path, 'utf8');
  } catch {
    throw new ConfigurationError(`${name} names a file that cannot be read: ${path}`);
  }
}
