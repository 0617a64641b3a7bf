import type { ServerName } from '@exeunt/pdu';
import {
  canonicalObjectOf,
  encodeCanonicalJson,
  isJsonObject,
  memberOf,
  parseJson,
  type CanonicalJson,
  type JsonObject,
} from '@exeunt/signing';
import type { FrozenTransaction } from './destination-queue.js';
import type { PduError } from './destination-reports.js';

/** A PDU is within the limit of 100 by itself. */
const MAX_PDU_DEPTH = 110;
const MAX_ERROR_LENGTH = 500;

/**
 * The body of a transaction: the same for the same frozen transaction. `origin` is us, whoever the senders of the
 * PDUs are. (TX-01, TX-04, TX-07, TX-09)
 */
export function transactionBody(
  origin: ServerName,
  { frozenAt, pdus }: Pick<FrozenTransaction, 'frozenAt' | 'pdus'>,
): CanonicalJson {
  return canonicalObjectOf({
    origin: encodeCanonicalJson(origin),
    origin_server_ts: encodeCanonicalJson(frozenAt),
    pdus: pdus.map(({ pdu }) => pdu),
  });
}

/** A PDU as it was queued, in the form that goes out. Throws `JsonSyntaxError` for a text that is no PDU. */
export function canonicalPdu(text: string): CanonicalJson {
  return encodeCanonicalJson(parseJson(text, { maxDepth: MAX_PDU_DEPTH }));
}

/**
 * What a 200 says of single PDUs of ours that it could not take. Whatever else is in the answer is passed over: it
 * was a 200, and that ends the transaction. (TX-02, TX-06)
 */
export function pduErrorsOf(pdus: FrozenTransaction['pdus'], answer: JsonObject): PduError[] {
  const results = memberOf(answer, 'pdus');
  if (!isJsonObject(results)) return [];
  // Nearly always there is none, and then nothing has to be looked up.
  const refused = new Map(
    Object.entries(results).flatMap(([eventId, result]) => {
      const error = isJsonObject(result) ? memberOf(result, 'error') : undefined;
      return error === undefined ? [] : [[eventId, error] as const];
    }),
  );
  if (refused.size === 0) return [];
  return pdus.flatMap(({ roomId, eventId }) => {
    const error = refused.get(eventId);
    if (error === undefined) return [];
    const text = typeof error === 'string' ? error : 'an error that is not a text';
    return [{ roomId, eventId, error: toRecordedText(text) }];
  });
}

/** A peer's words in a form that is safe to keep: without NUL and half characters, cut to 500 UTF-16 units. */
export function toRecordedText(text: string): string {
  return text.slice(0, MAX_ERROR_LENGTH).replaceAll('\0', '\ufffd').toWellFormed();
}
