import type { IncomingHttpHeaders } from 'node:http';
import type { Dispatcher } from 'undici';

/** The body's bytes; undefined, and the connection is closed, as soon as there are more than `maxBytes`. */
export async function readBody(
  response: Dispatcher.ResponseData,
  maxBytes: number,
): Promise<Uint8Array | undefined> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  const announced = firstOf(response.headers, 'content-length');
  if (Number(announced ?? 0) > maxBytes) {
    discard(response);
    return undefined;
  }
  // No more bytes than announced are part of an answer, so these need no counting, which takes several times as long.
  if (/^\d+$/.test(announced ?? '') && firstOf(response.headers, 'transfer-encoding') === undefined) {
    return await response.body.bytes();
  }
  for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > maxBytes) {
      discard(response);
      return undefined;
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}

/** Closes the connection: reading on to keep it would let the peer decide how much. */
export function discard({ body }: Dispatcher.ResponseData): void {
  body.on('error', () => {});
  body.destroy();
}

/** True where the body is encoded, which no request of ours asks for: it may be a thousand times its size. */
export function isCompressed({ headers }: Dispatcher.ResponseData): boolean {
  const encoding = firstOf(headers, 'content-encoding');
  return encoding !== undefined && encoding.trim().toLowerCase() !== 'identity';
}

/** A header's value, the first of a repeated one. */
export function firstOf(headers: IncomingHttpHeaders, name: string): string | undefined {
  const value = headers[name];
  return Array.isArray(value) ? value[0] : value;
}
