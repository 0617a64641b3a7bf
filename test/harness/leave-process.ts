import { spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseJson, stringifyJson, type JsonObject, type JsonValue } from '@exeunt/signing';
import { settle } from './settle.js';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Our server as people run it: the built program in a process of its own, which can be killed. */
export interface LeaveProcess {
  readonly name: string;
  readonly federationUrl: string;
  /** As `LeaveServer.ok`. */
  ok(method: 'GET' | 'POST', path: string, body?: JsonValue): Promise<JsonObject>;
  /** Kills it as a power cut would, and resolves when it is gone. */
  kill(): Promise<void>;
}

export interface LeaveProcessOptions {
  readonly dataDirectory: string;
  /** Free ports, the same at every start. */
  readonly federationPort: number;
  readonly platformPort: number;
  /** More of its environment, or other than usual. */
  readonly environment?: Readonly<Record<string, string>>;
}

/** Builds the program where the sources are newer; anybody who starts it first does so. */
export async function buildProgram(): Promise<void> {
  const freshness = (await import(`${root}scripts/freshness.mjs`)) as { isFresh(): boolean };
  if (freshness.isFresh()) return;
  const code = await exitOf(
    spawn(`${root}node_modules/.bin/node`, [`${root}scripts/build.mjs`], { cwd: root }),
  );
  if (code !== 0) throw new Error(`the program cannot be built: ${code}`);
}

/** Starts the program and resolves when it is ready. */
export async function startLeaveProcess(options: LeaveProcessOptions): Promise<LeaveProcess> {
  const { dataDirectory, federationPort, platformPort } = options;
  const token = 'a-token-of-the-kill-test';
  const name = options.environment?.['EXEUNT_SERVER_NAME'] ?? `127.0.0.1:${federationPort}`;
  const child = spawn(
    `${root}node_modules/.bin/node`,
    ['--disable-warning=ExperimentalWarning', `${root}dist/apps/gateway/src/main.js`],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        PATH: process.env['PATH'],
        EXEUNT_SERVER_NAME: name,
        EXEUNT_FEDERATION_PORT: String(federationPort),
        EXEUNT_PLATFORM_PORT: String(platformPort),
        EXEUNT_PLATFORM_TOKEN: token,
        EXEUNT_DATA_DIR: dataDirectory,
        EXEUNT_FEDERATION_VERIFY_TLS: 'false',
        EXEUNT_FEDERATION_ALLOW_NETWORKS: '127.0.0.0/8',
        EXEUNT_SENDER_BACKOFF_MIN_MS: '50',
        EXEUNT_LOG_LEVEL: 'info',
        ...options.environment,
      },
    },
  );
  const log = createWriteStream(`${dataDirectory}/output.log`, { flags: 'a' });
  child.stdout.pipe(log, { end: false });
  child.stderr.pipe(log, { end: false });
  const exited = exitOf(child);
  let code: number | undefined;
  void exited.then((ended) => (code = ended));

  const platformUrl = `http://127.0.0.1:${platformPort}`;
  const ok: LeaveProcess['ok'] = async (method, path, body) => {
    const response = await fetch(`${platformUrl}${path}`, {
      method,
      headers: { Authorization: `Bearer ${token}` },
      ...(body === undefined ? {} : { body: stringifyJson(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return parseJson(text) as JsonObject;
  };
  await settle(
    'the program is ready',
    async () => {
      if (code !== undefined) throw new Error(`it ended with ${code}: see ${dataDirectory}/output.log`);
      return fetch(`${platformUrl}/readyz`).then(
        (response) => (response.ok ? true : undefined),
        () => undefined,
      );
    },
    60_000,
  );
  return {
    name,
    federationUrl: `https://127.0.0.1:${federationPort}`,
    ok,
    async kill() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

function exitOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? -1));
  });
}
