import type { Logger } from 'pino';
import type { ServerName } from '@exeunt/pdu';
import type { Ed25519, SigningKey } from '@exeunt/signing';
import type { KeyRing, OwnKeys } from '@exeunt/key-ring';
import type { FederationClient } from '@exeunt/federation-client';
import type { HandshakeRunner, LeaveAllRunner, LeaveAllStore, LeavingStore } from '@exeunt/leaving';
import type { RoomStore } from '@exeunt/room-store';
import type { RequestKeys } from './federation-request/federation-request.js';
import type { LocalMemberships } from './leave-room/local-memberships.js';
import type { GatewayMetrics } from './operations/metrics.js';
import type { ReceivedTransactions } from './receive-transaction/received-transactions.js';
import type { InvitesUnderWay } from './rooms/invites-under-way.js';

/** The injection token of {@link FederationSide}. */
export const FEDERATION_SIDE = Symbol('FederationSide');

/** Invites and leaves of our users in rooms that this server is not in. */
export interface LeavingSide {
  readonly store: LeavingStore;
  readonly runner: HandshakeRunner;
  /** How long a user's wish to leave waits for the room's servers. */
  readonly deadlineMs: number;
}

/** Users of ours who leave every room. */
export interface LeaveAllSide {
  readonly store: LeaveAllStore;
  readonly runner: LeaveAllRunner;
}

/** What every slice of the gateway stands on, made once by the composition root. */
export interface FederationSide {
  readonly ourName: ServerName;
  readonly signingKey: SigningKey;
  readonly ownKeys: OwnKeys;
  readonly keyRing: KeyRing;
  readonly keys: RequestKeys;
  readonly ed25519: Ed25519;
  readonly client: FederationClient;
  readonly rooms: RoomStore;
  readonly leaving: LeavingSide;
  readonly leaveAll: LeaveAllSide;
  readonly localMemberships: LocalMemberships;
  readonly receivedTransactions: ReceivedTransactions;
  readonly invitesUnderWay: InvitesUnderWay;
  readonly metrics: GatewayMetrics;
  readonly log: Logger;
  /** Ms since the epoch. */
  readonly now: () => number;
  /** A fresh opaque part for the IDs of versions 1 and 2. */
  readonly randomId: () => string;
  /** Called for every authenticated request: the sender stops waiting for that server. (TX-05) */
  readonly heardFrom: (server: ServerName) => void;
}
