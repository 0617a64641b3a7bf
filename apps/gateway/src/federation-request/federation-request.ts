import type { FastifyRequest } from 'fastify';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import {
  decodeBase64,
  isJsonObject,
  isKeyId,
  parseJsonBytes,
  parseXMatrixHeaders,
  requestToSign,
  signedBytes,
  type Ed25519,
  type JsonObject,
  type XMatrixCredentials,
} from '@exeunt/signing';
import { MatrixError } from '../matrix-error/matrix-error.js';

/** A request of which we know who asks: what a federation endpoint works from. */
export interface AuthenticatedRequest {
  readonly origin: ServerName;
  /** The body, of PUT and POST alone. */
  readonly content: JsonObject | undefined;
  /** The path's segments, each decoded once from the request line. (ID-11) */
  readonly segments: readonly string[];
  readonly query: URLSearchParams;
}

/** The key that a server signs requests with now, or undefined. (RA-14) */
export type RequestKeys = (server: ServerName, keyId: string) => Promise<Uint8Array | undefined>;

/**
 * Rows 2 and 3 of the order of checks: the body is a JSON object, and the X-Matrix header is the origin's signature
 * over this very request. Throws {@link MatrixError}.
 *
 * Spec v1.19, server-server-api, Request authentication; RA-01 to RA-18.
 */
export async function authenticateRequest(
  request: FastifyRequest,
  us: { readonly ourName: ServerName; readonly keys: RequestKeys; readonly ed25519: Ed25519 },
): Promise<AuthenticatedRequest> {
  const uri = request.raw.url ?? '';
  const { segments, query } = readTarget(uri);
  const content = readContent(request);
  const credentials = parseXMatrixHeaders(request.raw.rawHeaders);
  if ('error' in credentials) {
    throw credentials.error === 'missing'
      ? unauthorized('the request has no X-Matrix authorization', 'RA-16')
      : unauthorized(`the X-Matrix header cannot be read: ${credentials.why}`, 'RA-06');
  }
  const origin = parseServerName(credentials.origin);
  if (origin === undefined) {
    throw new MatrixError(400, 'M_INVALID_PARAM', 'the origin is no server name', 'ID-01');
  }
  if (credentials.destination !== undefined && credentials.destination !== us.ourName) {
    throw unauthorized(`the request is for ${credentials.destination}, this is ${us.ourName}`, 'RA-10');
  }
  const message = signedBytes(
    requestToSign({
      method: request.method,
      uri,
      origin,
      destination: us.ourName,
      ...(content === undefined ? {} : { content }),
    }),
  );
  await verify(credentials, origin, message, us);
  return { origin, content, segments, query };
}

/** All signatures by keys that we know must hold, and there must be one. (RA-12) */
async function verify(
  credentials: XMatrixCredentials,
  origin: ServerName,
  message: Uint8Array,
  us: { readonly keys: RequestKeys; readonly ed25519: Ed25519 },
): Promise<void> {
  let verified = 0;
  for (const { keyId, signature } of credentials.signatures) {
    const key = isKeyId(keyId) ? await us.keys(origin, keyId) : undefined;
    if (key === undefined) continue;
    const bytes = decodeBase64(signature);
    if (bytes === undefined || !(await us.ed25519.verifyOffThread(key, message, bytes))) {
      throw unauthorized(`the signature by ${keyId} of ${origin} does not hold`, 'RA-02');
    }
    verified++;
  }
  if (verified === 0) throw unauthorized(`no current key of ${origin} is named that could be found`, 'RA-14');
}

function unauthorized(message: string, rule: string): MatrixError {
  return new MatrixError(401, 'M_UNAUTHORIZED', message, rule);
}

function readContent(request: FastifyRequest): JsonObject | undefined {
  if (request.method === 'GET' || request.method === 'HEAD') return undefined;
  const body = request.body;
  const bytes = Buffer.isBuffer(body) ? body : Buffer.alloc(0);
  const content = parseJsonBytes(bytes);
  if (!isJsonObject(content))
    throw new MatrixError(400, 'M_BAD_JSON', 'the body is not a JSON object', 'HT-01');
  return content;
}

function readTarget(uri: string): { readonly segments: readonly string[]; readonly query: URLSearchParams } {
  const mark = uri.indexOf('?');
  const path = mark < 0 ? uri : uri.slice(0, mark);
  try {
    return {
      segments: path.split('/').slice(1).map(decodeURIComponent),
      query: new URLSearchParams(mark < 0 ? '' : uri.slice(mark + 1)),
    };
  } catch {
    throw new MatrixError(400, 'M_INVALID_PARAM', 'the path is not percent-encoded UTF-8', 'ID-11');
  }
}
