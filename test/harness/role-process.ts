import { spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseJson, stringifyJson, type JsonObject, type JsonValue } from '@exeunt/signing';

/** The repository's: tests and benchmarks run there, and this is compiled for the latter. */
const root = resolve('.');

export interface RoleProcessOptions {
  readonly role: 'standalone' | 'gateway' | 'federation-sender';
  /** Where its output goes. */
  readonly logFile: string;
  /** Of its internal listener. */
  readonly port: number;
  readonly token: string;
  /** Its environment but for that port; it has the token in one of the ways there are. */
  readonly environment: Readonly<Record<string, string>>;
}

/** One process of a cluster: the built program of a role, which can be killed and started again. */
export class RoleProcess {
  readonly url: string;
  readonly #options: RoleProcessOptions;
  #child: ChildProcess | undefined;
  #exited: Promise<number> | undefined;

  constructor(options: RoleProcessOptions) {
    this.#options = options;
    this.url = `http://127.0.0.1:${options.port}`;
  }

  /** While it runs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Starts it and resolves when it is ready. Does nothing while it runs. */
  async start(): Promise<void> {
    if (this.#child !== undefined) return;
    const { role, logFile, port, environment } = this.#options;
    const app = role === 'federation-sender' ? role : 'gateway';
    const child = spawn(
      `${root}/node_modules/.bin/node`,
      ['--disable-warning=ExperimentalWarning', `${root}/dist/apps/${app}/src/main.js`],
      {
        cwd: root,
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          PATH: process.env['PATH'],
          ...environment,
          EXEUNT_ROLE: role,
          [app === 'gateway' ? 'EXEUNT_PLATFORM_PORT' : 'EXEUNT_SENDER_PORT']: String(port),
        },
      },
    );
    const log = createWriteStream(logFile, { flags: 'a' });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    let code: number | undefined;
    this.#child = child;
    this.#exited = new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (ended) => {
        code = ended ?? -1;
        resolve(code);
      });
    });
    const deadline = performance.now() + 60_000;
    while (!(await this.isReady())) {
      const late = performance.now() > deadline;
      if (code !== undefined || late) {
        const output = (await readFile(logFile, 'utf8')).slice(-3_000);
        throw new Error(`the ${role} ${late ? 'is not ready' : `ended with ${code}`}:\n${output}`);
      }
      await delay(50);
    }
  }

  /** Whether `/readyz` says so now. */
  isReady(): Promise<boolean> {
    return fetch(`${this.url}/readyz`).then(
      (response) => response.ok,
      () => false,
    );
  }

  /** Kills it as a power cut would, and resolves when it is gone. */
  kill(): Promise<number | undefined> {
    return this.#end('SIGKILL');
  }

  /** Asks it to end; gives its exit code. */
  terminate(): Promise<number | undefined> {
    return this.#end('SIGTERM');
  }

  /** Stops its clock, as a machine does that is suspended or out of breath: connections stay, nobody answers. */
  freeze(): void {
    this.#child?.kill('SIGSTOP');
  }

  /** Lets it go on where it was. */
  thaw(): void {
    this.#child?.kill('SIGCONT');
  }

  /** A request with the token; fails unless the status is good. */
  async ok(method: 'GET' | 'POST', path: string, body?: JsonValue): Promise<JsonObject> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { Authorization: `Bearer ${this.#options.token}` },
      ...(body === undefined ? {} : { body: stringifyJson(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return parseJson(text) as JsonObject;
  }

  async #end(signal: NodeJS.Signals): Promise<number | undefined> {
    const [child, exited] = [this.#child, this.#exited];
    this.#child = undefined;
    child?.kill(signal);
    return await exited;
  }
}
