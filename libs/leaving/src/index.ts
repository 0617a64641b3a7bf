export { candidatesFor, maxCandidates, roomVersionsOf } from './candidates.js';
export { decodeLeavingEvent, encodeLeavingEvent, upcasters, type Upcasters } from './codec.js';
export * from './decide.js';
export * from './domain-events.js';
export { answeredKnock, isFactForTheBus, LEAVING_SOURCE, messageOf } from './facts.js';
export { LeavingFactsRelay, type LeavingFactsRelayOptions } from './facts-relay.js';
export { HandshakeRunner, type HandshakeRunnerOptions, type LeaveClient } from './handshake-runner.js';
export { LeaveAll1700000000050 } from './leave-all.migration.js';
export { LeaveAllRunner, maxSweeps, type LeaveAllRunnerOptions, type RoomLeft } from './leave-all-runner.js';
export {
  LeaveAllStore,
  memberships,
  type LeaveAllCounts,
  type LeaveAllRun,
  type MembershipToLeave,
  type OpenRoom,
  type RoomOutcome,
  type RoomSaid,
  type RoomToLeave,
} from './leave-all-store.js';
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
