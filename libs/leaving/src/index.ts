export { candidatesFor, maxCandidates, roomVersionsOf } from './candidates.js';
export { decodeLeavingEvent, encodeLeavingEvent, upcasters, type Upcasters } from './codec.js';
export * from './decide.js';
export * from './domain-events.js';
export { answeredKnock, isFactForTheBus, LEAVING_SOURCE, messageOf } from './facts.js';
export { LeavingFactsRelay, type LeavingFactsRelayOptions } from './facts-relay.js';
export { HandshakeRunner, type HandshakeRunnerOptions, type LeaveClient } from './handshake-runner.js';
export {
  evolve as evolveLeaving,
  initialLeaving,
  type Leave,
  type LeaveStatus,
  type Leaving,
  type SignedLeave,
  type Verdict,
} from './leaving.js';
export { leavingMigrations } from './leaving.migration.js';
export {
  LeavingContended,
  LeavingStore,
  type FactToTell,
  type LeaveSummary,
  type LeavingOutcome,
  type LoadedLeaving,
} from './leaving-store.js';
export { afterRound, maxRefusedRounds, signedLeaveLifeMs, type RetryBounds } from './retry-schedule.js';
export {
  buildLeave,
  readTemplate,
  type OwnLeave,
  type TemplateAsked,
  type TemplateFault,
  type TemplatePlace,
} from './template-checks.js';
