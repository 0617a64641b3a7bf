import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

/** A process of its own that is asked one thing at a time. */
export interface OtherSide<Request> {
  /** Its answer; rejects with its words where it failed or has ended. */
  ask(request: Request): Promise<unknown>;
  stop(): void;
}

/** Starts a compiled module of this directory; it answers each message with `{result}` or `{failed}`. */
export function startOtherSide<Request extends object>(module: string): OtherSide<Request> {
  const child = fork(fileURLToPath(new URL(module, import.meta.url)), [], { execArgv: [] });
  const ended = once(child, 'exit').then(() => [{ failed: `${module} has ended` }]);
  return {
    async ask(request) {
      const message = new Promise((resolve) => child.once('message', (one) => resolve([one])));
      child.send(request);
      const [answer] = (await Promise.race([message, ended])) as [{ result?: unknown; failed?: string }];
      if (answer.failed !== undefined) throw new Error(answer.failed);
      return answer.result;
    },
    stop: () => child.disconnect(),
  };
}
