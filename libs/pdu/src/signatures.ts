import type { RoomVersion } from '@exeunt/room-version';
import {
  decodeBase64,
  isJsonObject,
  signaturesOf,
  signedBytes,
  signJson,
  withKeys,
  withoutKeys,
  type Ed25519,
  type JsonObject,
  type JsonSignature,
  type SigningKey,
} from '@exeunt/signing';
import { contentHash } from './hashes.js';
import { parseUserId, serverNameOf } from './identifiers.js';
import type { Pdu, ServerName } from './pdu.js';
import { redact } from './redaction.js';

/** A server without whose signature a PDU is not to be believed, and the first reason found. */
export interface RequiredSigner {
  readonly server: ServerName;
  /**
   * `sender`: it is the server of the sender; `event-id`: of the event ID's domain, in versions 1 and 2; `invitee`:
   * of the invited user; `authorising-user`: of `content.join_authorised_via_users_server`.
   */
  readonly why: 'sender' | 'event-id' | 'invitee' | 'authorising-user';
}

/** What a caller knows about how far a PDU has come. */
export interface SigningStage {
  /**
   * True where the PDU is an invite that its invitee's server is only now asked to sign (`PUT invite`), so that its
   * signature cannot be there yet; false by default.
   */
  readonly awaitsInvitee?: boolean;
}

/**
 * The servers whose signatures a PDU must have, each once: the sender's; in versions 1 and 2 that of the event ID;
 * on an invite the invitee's; since version 8 that of the authorising user named in any member event, a leave
 * included. An invite by third-party ID need not be signed by the sender's server, for another one may have sent it:
 * the auth rules tie it to the sender by the signed token. The list is empty for such an invite of version 3 or later
 * that still awaits its invitee. The `origin` field is not consulted. (SG-08, SG-12, EV-10)
 */
export function requiredSigners(pdu: Pdu, stage: SigningStage = {}): readonly RequiredSigner[] {
  const isMember = pdu.type === 'm.room.member';
  const isInvite = isMember && pdu.content['membership'] === 'invite';
  const invitee = isInvite ? parseUserId(pdu.stateKey ?? '') : undefined;
  const why = new Map<ServerName, RequiredSigner['why']>();
  const require = (server: ServerName, reason: RequiredSigner['why']) => {
    if (!why.has(server)) why.set(server, reason);
  };

  // The sender's server, but for an invite by third-party ID, which its invitee's server answers for.
  const isThirdPartyInvite = invitee !== undefined && isJsonObject(pdu.content['third_party_invite']);
  if (!isThirdPartyInvite) require(serverNameOf(pdu.sender), 'sender');

  // In versions 1 and 2 the server that made up the event ID vouches for it.
  if (pdu.roomVersion.eventIdFormat === 'opaque-in-pdu') require(serverNameOf(pdu.eventId), 'event-id');

  // An invite is signed by both sides before anyone else gets to see it.
  if (invitee !== undefined && stage.awaitsInvitee !== true) require(serverNameOf(invitee), 'invitee');

  // Since version 8 the key counts on every member event, not only on a join.
  const authorising = isMember && pdu.roomVersion.restrictedJoins ? authorisingUser(pdu) : undefined;
  if (typeof authorising === 'string') require(authorising, 'authorising-user');

  return Array.from(why, ([server, reason]) => ({ server, why: reason }));
}

/** The server of the authorising user; `malformed` (no server can have signed) or undefined where none is named. */
function authorisingUser(pdu: Pdu): ServerName | typeof malformed | undefined {
  const named = pdu.content['join_authorised_via_users_server'];
  if (named === undefined) return undefined;
  const userId = typeof named === 'string' ? parseUserId(named) : undefined;
  return userId === undefined ? malformed : serverNameOf(userId);
}
const malformed = Symbol('malformed');

/** Not a published key but the room's policy server's; the ordinary check passes it over. (SG-13, KY-15) */
const policyServerKeyId = 'ed25519:policy_server';

/** The server's signatures by keys that it publishes, of algorithms we know. */
function ordinarySignatures(pdu: Pdu, server: ServerName): JsonSignature[] {
  return signaturesOf(pdu.json, server).filter(({ keyId }) => keyId !== policyServerKeyId);
}

/**
 * The keys that required signers say they have signed with, to be fetched before `checkPduSignatures`; those of
 * unknown algorithms and of policy servers are left out. A server may be missing: it has not signed. (SG-06, SG-13)
 */
export function signingKeysNamed(
  pdu: Pdu,
  stage: SigningStage = {},
): readonly { server: ServerName; keyId: string }[] {
  return requiredSigners(pdu, stage).flatMap(({ server }) =>
    ordinarySignatures(pdu, server).map(({ keyId }) => ({ server, keyId })),
  );
}

/** A verify key and the times for which it is good. */
export interface EventVerifyKey {
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
  /**
   * True where the key was valid at a time in milliseconds since the epoch. The room version says whether
   * `valid_until_ts` counts (`enforcesKeyValidity`); the `expired_ts` of an old key counts in all. (KY-09, KY-12)
   */
  validAt(ts: number, version: RoomVersion): boolean;
}

/** Whether a PDU has the signatures it needs, or the first server that lets it down. */
export type SignatureCheck =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly server: ServerName;
      readonly detail: string;
      /** True where the server has signed by a key that is not known, or not as valid then: more keys may tell more. */
      readonly lacksKey: boolean;
    };

/**
 * Checks the signatures of all required signers against the redacted PDU, so that the answer is the same for a
 * redacted copy. Signatures by keys that `keyOf` does not know, or that were not valid at `origin_server_ts`, are
 * passed over; of the rest every one must verify, and each required server must have at least one. Verifies off the
 * event loop. Does not check the content hash. (SG-06 to SG-10, SG-12, SG-13, PD-02; spec v1.19, server-server-api,
 * validating hashes and signatures on received events)
 */
export async function checkPduSignatures(
  pdu: Pdu,
  keyOf: (server: ServerName, keyId: string) => EventVerifyKey | undefined,
  ed: Pick<Ed25519, 'verifyOffThread'>,
  stage: SigningStage = {},
): Promise<SignatureCheck> {
  const { roomVersion, originServerTs } = pdu;
  if (pdu.type === 'm.room.member' && roomVersion.restrictedJoins && authorisingUser(pdu) === malformed) {
    const detail = 'join_authorised_via_users_server names no user whose server could have signed';
    return { ok: false, server: serverNameOf(pdu.sender), detail, lacksKey: false };
  }
  const message = signedBytes(redact(pdu.json, roomVersion));
  for (const { server, why } of requiredSigners(pdu, stage)) {
    let isSigned = false;
    let lacksKey = false;
    for (const { keyId, signature } of ordinarySignatures(pdu, server)) {
      const key = keyOf(server, keyId);
      if (key === undefined || !key.validAt(originServerTs, roomVersion)) {
        lacksKey = true;
        continue;
      }
      const bytes = decodeBase64(signature);
      if (bytes === undefined)
        return { ok: false, server, detail: `the signature by ${keyId} is not base64`, lacksKey: false };
      if (!(await ed.verifyOffThread(key.publicKey, message, bytes))) {
        return { ok: false, server, detail: `the signature by ${keyId} does not verify`, lacksKey: false };
      }
      isSigned = true;
    }
    if (!isSigned) {
      const detail = `no signature by a known, valid key of the server (${why})`;
      return { ok: false, server, detail, lacksKey };
    }
  }
  return { ok: true };
}

/**
 * The event hashed and signed by `serverName`, as the first signer does it: the content hash goes into `hashes`, the
 * signature is over the redacted form. `hashes` and `signatures` of `json` are replaced, for they are of another
 * event; `unsigned` is kept. From version 3 on take `event_id` off a template first: it would become part of what is
 * hashed. (SG-01, SG-04, RV-08; spec v1.19, server-server-api, adding hashes and signatures to outgoing events)
 */
export function signPdu(
  json: JsonObject,
  version: RoomVersion,
  serverName: ServerName,
  key: SigningKey,
): JsonObject {
  const bare = withoutKeys(json, 'hashes', 'signatures');
  const hashed = withKeys(bare, { hashes: { sha256: contentHash(bare) } });
  return addSignature(hashed, version, serverName, key);
}

/**
 * The event with one more signature over its redacted form; hashes and other signatures stay. For an invite that the
 * invitee's server signs too. Does not look at the hashes: check them first. (SG-04, SG-05)
 */
export function addSignature(
  json: JsonObject,
  version: RoomVersion,
  serverName: ServerName,
  key: SigningKey,
): JsonObject {
  const { signatures } = signJson(redact(json, version), serverName, key);
  return withKeys(json, { signatures: signatures ?? {} });
}
