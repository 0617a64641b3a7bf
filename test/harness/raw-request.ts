import { connect as connectPlainly } from 'node:net';
import { connect } from 'node:tls';
import { parseJson, type JsonValue } from '@exeunt/signing';

export interface RawResponse {
  /** 0 where the connection was closed without an answer. */
  readonly status: number;
  readonly head: string;
  readonly body: string;
  /** The parsed body; undefined where it is not JSON. */
  readonly json: JsonValue | undefined;
}

/**
 * Writes bytes to a listener as they are and gives what comes back until it closes, or until the head's
 * `Content-Length` has come. For requests that no HTTP client would send. Fails after `deadlineMs` without either.
 */
export function sendRaw(
  baseUrl: string,
  chunks: Iterable<string | Uint8Array>,
  deadlineMs = 10_000,
): Promise<RawResponse> {
  const { protocol, hostname: host, port } = new URL(baseUrl);
  return new Promise((resolve, reject) => {
    const received: Buffer[] = [];
    const write = (): void => {
      for (const chunk of chunks) socket.write(chunk);
    };
    const socket =
      protocol === 'https:'
        ? connect({ host, port: Number(port), rejectUnauthorized: false }, write)
        : connectPlainly({ host, port: Number(port) }, write);
    const deadline = setTimeout(() => {
      socket.destroy();
      reject(
        new Error(`no answer within ${deadlineMs} ms, only: ${Buffer.concat(received).toString('latin1')}`),
      );
    }, deadlineMs);
    const finish = (): void => {
      clearTimeout(deadline);
      socket.destroy();
      resolve(read(Buffer.concat(received)));
    };
    socket.on('data', (chunk) => {
      received.push(chunk);
      if (isWhole(Buffer.concat(received))) finish();
    });
    socket.on('close', finish);
    // A listener that refuses closes while we still write: what it said before that counts.
    socket.on('error', () => {});
  });
}

function split(bytes: Buffer): readonly [head: string, body: Buffer] {
  const end = bytes.indexOf('\r\n\r\n');
  return end < 0
    ? [bytes.toString('latin1'), Buffer.alloc(0)]
    : [bytes.toString('latin1', 0, end), bytes.subarray(end + 4)];
}

function isWhole(bytes: Buffer): boolean {
  const [head, body] = split(bytes);
  const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
  return length !== undefined && !head.startsWith('HTTP/1.1 100') && body.length >= Number(length);
}

function read(bytes: Buffer): RawResponse {
  const [head, rest] = split(bytes);
  const body = rest.toString();
  return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1] ?? 0), head, body, json: parsed(body) };
}

function parsed(text: string): JsonValue | undefined {
  try {
    return parseJson(text);
  } catch {
    // The text is in `body`.
    return undefined;
  }
}
