import type { Pdu } from '@exeunt/pdu';
import {
  decodeBase64,
  isJsonObject,
  memberOf,
  selectEd25519,
  signaturesOf,
  signedBytes,
  type JsonObject,
  type JsonValue,
} from '@exeunt/signing';
import type { RoomView } from './room-view.js';
import { allowed, refused, type AuthVerdict } from './verdict.js';

/**
 * The rule for an invite that redeems a third-party invite. It needs neither membership nor power of the sender
 * beyond what sending the `m.room.third_party_invite` took.
 *
 * AU-07, IN-12; rooms/v1 rule 5.3.1, rooms/v12 rule 5.4.1.
 */
export function checkThirdPartyInvite(
  pdu: Pdu,
  target: string,
  thirdPartyInvite: JsonValue,
  room: RoomView,
): AuthVerdict {
  // The target is banned: reject.
  if (room.membershipOf(target) === 'ban') return refused('AU-07', `${target} is banned.`);

  // There is no signed: reject.
  const signed = isJsonObject(thirdPartyInvite) ? memberOf(thirdPartyInvite, 'signed') : undefined;
  if (!isJsonObject(signed)) return refused('AU-07', 'The third_party_invite has no signed object.');

  // signed lacks mxid or token: reject.
  const mxid = memberOf(signed, 'mxid');
  const token = memberOf(signed, 'token');
  if (typeof mxid !== 'string' || typeof token !== 'string') {
    return refused('AU-07', 'The signed part of third_party_invite lacks mxid or token.');
  }

  // mxid isn't the state_key: reject.
  if (mxid !== target) return refused('AU-07', `The third-party invite is for ${mxid}, not for ${target}.`);

  // The room has no third-party invite with that token: reject.
  const invite = room.thirdPartyInvite(token);
  if (invite === undefined) {
    return refused('AU-07', `The room has no third-party invite with the token ${JSON.stringify(token)}.`);
  }

  // Its sender is someone else: reject.
  if (invite.sender !== pdu.sender) {
    return refused('AU-07', `The third-party invite was sent by ${invite.sender}, not by ${pdu.sender}.`);
  }

  // Any signature in signed fits any of its public keys: allow. Otherwise: reject.
  if (isSignedByOneOf(publicKeysOf(invite.content), signed)) return allowed;
  return refused(
    'AU-07',
    'No signature of the third_party_invite fits a public key of the third-party invite.',
  );
}

/** `public_key`, and each `public_key` in `public_keys`; what isn't base64, in either alphabet, is left out. (B6-04) */
function publicKeysOf(content: JsonObject): Uint8Array[] {
  const list = memberOf(content, 'public_keys');
  const texts = [
    memberOf(content, 'public_key'),
    ...(Array.isArray(list) ? list : []).map((entry: JsonValue) =>
      isJsonObject(entry) ? memberOf(entry, 'public_key') : undefined,
    ),
  ];
  return texts.flatMap((text) => {
    const key = typeof text === 'string' ? decodeBase64(text, { alphabet: 'either' }) : undefined;
    return key === undefined ? [] : [key];
  });
}

function isSignedByOneOf(publicKeys: readonly Uint8Array[], signed: JsonObject): boolean {
  const entities = memberOf(signed, 'signatures');
  if (!isJsonObject(entities)) return false;
  const signatures = Object.keys(entities)
    .flatMap((entity) => signaturesOf(signed, entity))
    .flatMap(({ signature }) => decodeBase64(signature) ?? []);
  if (signatures.length === 0 || publicKeys.length === 0) return false;

  const ed25519 = selectEd25519();
  const bytes = signedBytes(signed);
  return publicKeys.some((key) => signatures.some((signature) => ed25519.verify(key, bytes, signature)));
}
