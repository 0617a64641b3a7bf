import type { Logger } from 'pino';
import type { Configuration } from '@exeunt/configuration';
import {
  admitPlatform,
  createListener,
  listen,
  openFoundation,
  platformToken,
  PlatformTokenGuard,
  startSending,
} from '../../gateway/src/for-federation-sender.js';
import { SenderModule } from './sender.module.js';

/** A federation-sender, listening. */
export interface RunningSender {
  readonly url: string;
  /** Commits what it has taken from the bus, records what is under way, and closes everything. */
  stop(): Promise<void>;
}

/** Nothing is ever sent to it with a body. */
const maxBodyBytes = 64 * 1024;

/** Starts to send what the bus brings, and to tell of it. */
export async function startSender(configuration: Configuration, log: Logger): Promise<RunningSender> {
  const token = configuration.platformToken ?? (await platformToken(configuration.dataDirectory));
  const foundation = await openFoundation(configuration, log);
  const closing: (() => Promise<void>)[] = [() => foundation.close()];
  const stop = async (): Promise<void> => {
    for (const close of closing.splice(0).reverse()) await close();
  };
  try {
    const { discovery, metrics, readiness, tracing } = foundation;
    const sending = await startSending(configuration, foundation, log);
    closing.push(() => sending.stop());
    const app = await createListener({
      module: SenderModule.on({ sender: sending.sender, discovery, metrics, token, readiness }),
      maxBodyBytes,
      admit: admitPlatform(new PlatformTokenGuard(token)),
      log,
      tracing,
      onAnswered: (answered) => metrics.incoming(answered),
    });
    closing.push(() => app.close());
    return { url: await listen(app, configuration.sender, 'http'), stop };
  } catch (cause) {
    await stop();
    throw cause;
  }
}
