import { Controller, Get, Header, Inject } from '@nestjs/common';
import { ApiExcludeController } from '@nestjs/swagger';
import { MatrixError } from '../matrix-error/matrix-error.js';
import { GatewayMetrics } from './metrics.js';

/** The injection token of {@link Readiness}. */
export const READINESS = Symbol('Readiness');

/** What has to work for a request to be taken, by name; each resolves or rejects with the reason. */
export type Readiness = Readonly<Record<string, () => Promise<void>>>;

const checkTimeoutMs = 5000;

/** What an orchestrator and Prometheus ask; without a token, for they tell nothing of rooms or users. */
@Controller()
@ApiExcludeController()
export class OperationsController {
  constructor(
    @Inject(READINESS) private readonly readiness: Readiness,
    @Inject(GatewayMetrics) private readonly all: GatewayMetrics,
  ) {}

  /** The process lives. */
  @Get('healthz')
  health(): { readonly status: 'ok' } {
    return { status: 'ok' };
  }

  /** Requests can be taken now: everything they need answers. */
  @Get('readyz')
  async ready(): Promise<{ readonly status: 'ready' }> {
    for (const [name, check] of Object.entries(this.readiness)) {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error('no answer in time')), checkTimeoutMs);
      });
      try {
        await Promise.race([check(), late]);
      } catch (cause) {
        const why = cause instanceof Error ? cause.message : String(cause);
        throw new MatrixError(503, 'M_UNKNOWN', `not ready: ${name}: ${why}`);
      } finally {
        clearTimeout(timer);
      }
    }
    return { status: 'ready' };
  }

  @Get('metrics')
  @Header('Content-Type', 'text/plain; version=0.0.4; charset=utf-8')
  metrics(): Promise<string> {
    return this.all.registry.metrics();
  }
}
