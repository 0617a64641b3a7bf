import { verify, createPublicKey } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import { createServer as createTcpServer, type AddressInfo, type Server } from 'node:net';
import { parseXMatrix } from '@exeunt/signing';

/*
 * The other servers of the fan-out benchmark, in a process of their own: one HTTPS listener an address, which answers
 * for every name that leads there, and one that takes connections and never says a word.
 */

/** What the peers are told once. */
export interface PeersSetup {
  /** Loopback addresses to listen on. */
  readonly addresses: readonly string[];
  /** PEM; for every name that the listeners answer for. */
  readonly certificate: string;
  readonly privateKey: string;
  /** SPKI in base64: whose transactions these are. */
  readonly senderKey: string;
  /** True: parses each transaction and checks its X-Matrix signature, as every homeserver must; false: looks at nothing. */
  readonly areChecking: boolean;
}

/** Where the peers are, in the order of their addresses. */
export interface PeersPlace {
  readonly ports: readonly number[];
  /** Of the listener that never answers, on the first address. */
  readonly silentPort: number;
}

/** What has come since it was last asked for. */
export interface PeersCount {
  readonly transactions: number;
  readonly pdus: number;
  /** Transactions that came again under their ID. */
  readonly repeats: number;
  /** PDUs that came after a later one, or a second time under another transaction's ID. */
  readonly outOfOrder: number;
  readonly badSignatures: number;
  readonly connections: number;
  readonly cpuSeconds: number;
}

/** What the peers are asked, one at a time; each is answered with a message. */
export type PeersRequest =
  | { readonly kind: 'setup'; readonly setup: PeersSetup }
  /** With `forget`, the numbers of PDUs may begin anew. */
  | { readonly kind: 'count'; readonly forget: boolean };

/** The part of a transaction that is looked at. The benchmark numbers its leaves in their reason. */
interface Transaction {
  readonly pdus: readonly { readonly content: { readonly reason: string } }[];
}

const nothing = { transactions: 0, pdus: 0, repeats: 0, outOfOrder: 0, badSignatures: 0, connections: 0 };
let count = { ...nothing };
let cpuBefore = process.cpuUsage();
const lastOf = new Map<string, { txnId: string; number: number }>();

async function answer(request: PeersRequest): Promise<PeersPlace | PeersCount> {
  switch (request.kind) {
    case 'setup':
      return await listen(request.setup);
    case 'count': {
      const { user, system } = process.cpuUsage(cpuBefore);
      const counted = { ...count, cpuSeconds: (user + system) / 1e6 };
      count = { ...nothing };
      cpuBefore = process.cpuUsage();
      if (request.forget) lastOf.clear();
      return counted;
    }
    default:
      return request satisfies never;
  }
}

async function listen(setup: PeersSetup): Promise<PeersPlace> {
  const publicKey = createPublicKey({
    key: Buffer.from(setup.senderKey, 'base64'),
    format: 'der',
    type: 'spki',
  });
  const isSigned = (request: IncomingMessage, body: Buffer): boolean => {
    const header = parseXMatrix(request.headers.authorization ?? '');
    if ('error' in header || header.destination !== request.headers.host) return false;
    // A body in canonical form is part of what is signed as it stands.
    const signed = Buffer.concat([
      Buffer.from('{"content":'),
      body,
      Buffer.from(
        `,"destination":"${header.destination}","method":"PUT","origin":"${header.origin}","uri":"${request.url}"}`,
      ),
    ]);
    return verify(null, signed, publicKey, Buffer.from(header.signature, 'base64'));
  };

  const receive = (request: IncomingMessage, body: Buffer, response: ServerResponse): void => {
    count.transactions += 1;
    if (setup.areChecking) {
      if (!isSigned(request, body)) count.badSignatures += 1;
      const { pdus } = JSON.parse(body.toString('utf8')) as Transaction;
      note(
        request.headers.host ?? '',
        request.url ?? '',
        pdus.map(({ content }) => Number(content.reason)),
      );
    }
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': 11 });
    response.end('{"pdus":{}}');
  };

  const ports: number[] = [];
  for (const address of setup.addresses) {
    const server = createServer({ cert: setup.certificate, key: setup.privateKey }, (request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () =>
        receive(request, chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks), response),
      );
      response.on('error', () => {});
    });
    server.on('connection', () => (count.connections += 1));
    ports.push(await portOf(server, address));
  }
  const silent = createTcpServer((socket) => void socket.on('error', () => {}));
  return { ports, silentPort: await portOf(silent, setup.addresses[0]!) };
}

function note(destination: string, txnId: string, numbers: readonly number[]): void {
  const last = lastOf.get(destination);
  if (last?.txnId === txnId) {
    count.repeats += 1;
    return;
  }
  let highest = last?.number ?? -1;
  for (const number of numbers) {
    if (number <= highest) count.outOfOrder += 1;
    highest = Math.max(highest, number);
  }
  count.pdus += numbers.length;
  lastOf.set(destination, { txnId, number: highest });
}

function portOf(server: Server, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port: 0, host, backlog: 2_048 }, () => resolve((server.address() as AddressInfo).port));
  });
}

process.on('message', (request: PeersRequest) => {
  answer(request).then(
    (result) => process.send?.({ result }),
    (cause: unknown) => process.send?.({ failed: cause instanceof Error ? cause.stack : String(cause) }),
  );
});
process.on('disconnect', () => process.exit(0));
