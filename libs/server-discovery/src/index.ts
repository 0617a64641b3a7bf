export {
  defaultFederationPort,
  resolveServerName,
  resolveWithoutLookups,
  targetWithoutDelegation,
  type NeedsLookup,
  type Target,
  type Undialable,
} from './resolution-steps.js';
