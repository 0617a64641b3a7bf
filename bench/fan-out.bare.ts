import { randomUUID } from 'node:crypto';
import type { LookupFunction } from 'node:net';
import { createSecureContext } from 'node:tls';
import type { AddressLookup } from '@exeunt/federation-client';
import { hostOf, type ServerName } from '@exeunt/pdu';
import {
  encodeCanonicalJson,
  encodeUnpaddedBase64,
  nativeEd25519,
  xMatrixHeader,
  type JsonObject,
  type SigningKey,
} from '@exeunt/signing';
import { Pool } from 'undici';

/** The body of a transaction, as bytes go out. */
export type BareTransaction = string;

export interface BareSenderOptions {
  readonly origin: ServerName;
  readonly signingKey: SigningKey;
  /** PEM. */
  readonly ca: string;
  /** Servers that are sent to at a time. */
  readonly concurrency: number;
  readonly lookup: AddressLookup;
}

/**
 * What the fan-out benchmark measures the sender against: nothing but signed requests by undici, one in flight a
 * server. No queue, no database, no checks; bodies are ready before, and only their signatures are made on the way.
 */
export class BareSender {
  readonly #options: BareSenderOptions;
  readonly #secureContext;
  readonly #pools = new Map<ServerName, Pool>();

  constructor(options: BareSenderOptions) {
    this.#options = options;
    this.#secureContext = createSecureContext({ ca: options.ca });
  }

  transaction(body: JsonObject): BareTransaction {
    return encodeCanonicalJson(body);
  }

  /** Rejects where one is not answered 200. */
  async send(transactions: ReadonlyMap<ServerName, readonly BareTransaction[]>): Promise<void> {
    const waiting = transactions.entries();
    const workers = Array.from({ length: this.#options.concurrency }, async () => {
      for (const [server, bodies] of waiting) for (const body of bodies) await this.#put(server, body);
    });
    await Promise.all(workers);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.destroy()));
  }

  async #put(server: ServerName, body: BareTransaction): Promise<void> {
    const { origin, signingKey } = this.#options;
    const uri = `/_matrix/federation/v1/send/${randomUUID()}`;
    const message = `{"content":${body},"destination":"${server}","method":"PUT","origin":"${origin}","uri":"${uri}"}`;
    const signature = encodeUnpaddedBase64(nativeEd25519.sign(signingKey.seed, Buffer.from(message)));
    const { keyId } = signingKey;
    const response = await this.#poolOf(server).request({
      method: 'PUT',
      path: uri,
      headers: {
        host: server,
        'content-type': 'application/json',
        authorization: xMatrixHeader({ origin, destination: server, keyId, signature }),
      },
      body,
    });
    const text = await response.body.text();
    if (response.statusCode !== 200) throw new Error(`${response.statusCode} ${text}`);
    JSON.parse(text);
  }

  #poolOf(server: ServerName): Pool {
    const known = this.#pools.get(server);
    if (known !== undefined) return known;
    const lookup: LookupFunction = (host, options, callback) => {
      this.#options.lookup(host).then(
        (found) =>
          options.all === true
            ? callback(null, [...found])
            : callback(null, found[0]!.address, found[0]!.family),
        (error: NodeJS.ErrnoException) => callback(error, '', 0),
      );
    };
    const pool = new Pool(`https://${server}`, {
      connect: { servername: hostOf(server), secureContext: this.#secureContext, lookup },
      connections: 1,
      pipelining: 1,
      keepAliveTimeout: 4_000,
      keepAliveMaxTimeout: 4_000,
    });
    this.#pools.set(server, pool);
    return pool;
  }
}
