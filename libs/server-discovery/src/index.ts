export {
  defaultFederationPort,
  maxTargets,
  resolveBySrv,
  resolveDelegation,
  resolveServerName,
  resolveWithoutLookups,
  type NeedsLookup,
  type Resolution,
  type SrvOutcome,
  type SrvOutcomes,
  type Target,
  type Targets,
  type Undialable,
} from './resolution-steps.js';
export {
  ServerDiscovery,
  srvLifetime,
  type DiscoveryLookup,
  type ServerDiscoveryDependencies,
  type SrvLookup,
  type WellKnownFetch,
} from './server-discovery.js';
export { orderSrvRecords, type SrvRecord } from './srv-order.js';
export { systemSrvLookup, type SystemSrvLookupOptions } from './system-srv-lookup.js';
export {
  delegationLifetimeMs,
  faultLifetimeMs,
  isTcpPort,
  readWellKnown,
  wellKnownLifetime,
  type CacheHeaders,
  type Delegation,
  type WellKnownAnswer,
  type WellKnownFault,
} from './well-known.js';
