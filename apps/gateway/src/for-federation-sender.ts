/**
 * All that apps/federation-sender takes of this app: what both roles stand on, and the controllers that both serve. It
 * imports nothing else from here.
 */
export { platformToken } from './data-directory.js';
export { openFoundation } from './foundation.js';
export { createListener, type ListenerOptions } from './listeners.js';
export { DestinationsController } from './operations/destinations.controller.js';
export { GatewayMetrics } from './operations/metrics.js';
export { OperationsController, READINESS, type Readiness } from './operations/operations.controller.js';
export {
  admitPlatform,
  PLATFORM_TOKEN,
  PlatformTokenGuard,
} from './platform-request/platform-token.guard.js';
export { runApp } from './process.js';
export { product } from './product.js';
export { startSending } from './sending-side.js';
export { listen } from './standalone.js';
