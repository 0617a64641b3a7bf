import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { LoadRequest } from './send-leave.load.js';

/** The process of send-leave.load.ts. */
export interface Load {
  /** What it answers; one request at a time. Rejects with what it failed by. */
  ask(request: LoadRequest): Promise<unknown>;
  stop(): void;
}

export function startLoad(): Load {
  const child = fork(fileURLToPath(new URL('send-leave.load.js', import.meta.url)), [], { execArgv: [] });
  const ended = once(child, 'exit').then(() => [{ failed: 'the load process has ended' }]);
  return {
    async ask(request: LoadRequest): Promise<unknown> {
      const message = new Promise((resolve) => child.once('message', (one) => resolve([one])));
      child.send(request);
      const [answer] = (await Promise.race([message, ended])) as [{ result?: unknown; failed?: string }];
      if (answer.failed !== undefined) throw new Error(answer.failed);
      return answer.result;
    },
    stop: () => child.disconnect(),
  };
}
