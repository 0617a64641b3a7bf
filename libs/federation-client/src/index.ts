export {
  FederationClient,
  type Answer,
  type CallOptions,
  type FederationClientDependencies,
  type FederationClientOptions,
  type FederationResult,
  type RequestOutcome,
} from './federation-client.js';
export { systemLookup, type AddressLookup, type FoundAddress, type RefusedAddress } from './peer-pool.js';
export { parseNetworks, type Network } from './network-policy.js';
export { lacksEndpoint, mayInviteByV1, type RemoteError, type RemoteErrorKind } from './remote-error.js';
export {
  maxRedirects,
  wellKnownFetch,
  type WellKnownFetchDependencies,
  type WellKnownFetchOptions,
} from './well-known-fetch.js';
