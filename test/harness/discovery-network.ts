import { createServer, type Server } from 'node:https';
import type { ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import {
  FederationClient,
  systemLookup,
  wellKnownFetch,
  type RefusedAddress,
  type RequestOutcome,
  type WellKnownFetchOptions,
} from '@exeunt/federation-client';
import { parseServerName } from '@exeunt/pdu';
import { ServerDiscovery, type DiscoveryLookup } from '@exeunt/server-discovery';
import { createFakeDns, type FakeDns } from './fake-dns.js';
import { createManualClock, type ManualClock } from './manual-clock.js';
import { respond } from './remote-server.js';
import { createTestCertificateAuthority, type TestCertificateAuthority } from './test-certificate.js';

/** A request as a server of this network saw it. */
export interface Arrival {
  /** Where the client dialled. */
  readonly address: string;
  readonly port: number;
  /** The name in the TLS handshake; false where there was none. */
  readonly sni: string | false;
  readonly hostHeader: string | undefined;
  readonly url: string | undefined;
}

/** A TLS server that answers every request, by default with `{}`, and remembers who came. */
export interface NetworkServer {
  readonly address: string;
  readonly port: number;
  readonly arrivals: readonly Arrival[];
  /** TCP connections so far, those that ended before a request too. */
  readonly connections: number;
  /** Answers otherwise from now on. */
  answer(handler: WebHandler): void;
  /** Shows a certificate for other names from now on. */
  certify(...names: [string, ...string[]]): Promise<void>;
  close(): Promise<void>;
}

/** Answers `/.well-known/matrix/server` and whatever else is asked of one host. */
export type WebHandler = (url: string, response: ServerResponse) => void;

/** The client under test, with what its hooks have heard. */
export interface NetworkClient {
  readonly client: FederationClient;
  readonly discovery: ServerDiscovery;
  readonly outcomes: readonly RequestOutcome[];
  readonly lookups: readonly DiscoveryLookup[];
  readonly refused: readonly RefusedAddress[];
}

export interface NetworkClientOptions {
  /** CIDR texts; 127.0.0.0/8 and ::1 unless told. */
  readonly allowNetworks?: readonly string[];
  readonly timeoutMs?: number;
  readonly wellKnown?: Partial<WellKnownFetchOptions>;
}

/**
 * An internet on the loopback interface: names of a fake DNS, real TLS with a certificate authority of its own, web
 * servers for `.well-known` on one port that stands for 443.
 */
export interface DiscoveryNetwork {
  readonly dns: FakeDns;
  readonly clock: ManualClock;
  /** Where every web host is: its name in DNS must lead to `web.address`. */
  readonly web: NetworkServer;
  /** Names the hosts that the web server has a certificate for; others fail TLS. */
  certifyWeb(...hosts: [string, ...string[]]): Promise<void>;
  /** Puts a host on the web, in DNS too; without a handler it answers 404. */
  onWeb(host: string, handler: WebHandler): void;
  /** An address of 127.0.0.0/8 that nobody else uses. */
  newAddress(): string;
  /** Starts a server with a certificate for these names, on an address of its own and a free port unless told. */
  serve(
    names: readonly [string, ...string[]],
    at?: { readonly address?: string; readonly port?: number },
  ): Promise<NetworkServer>;
  client(options?: NetworkClientOptions): NetworkClient;
  close(): Promise<void>;
}

export async function startDiscoveryNetwork(): Promise<DiscoveryNetwork> {
  const ca = await createTestCertificateAuthority();
  const dns = createFakeDns();
  const clock = createManualClock();
  const toClose: { close(): unknown }[] = [];
  const hosts = new Map<string, WebHandler>();
  // Processes of other tests keep to their own numbers, as far as there are any.
  const block = `127.${100 + (process.pid % 150)}.${Math.floor(process.pid / 150) % 256}`;
  let addresses = 0;
  const newAddress = () => `${block}.${(addresses += 1)}`;

  const web = await startServer(ca, ['web.invalid'], newAddress(), 0, (host, url, response) => {
    const handler = hosts.get(host);
    if (handler === undefined) respond(response, 404, {});
    else handler(url, response);
  });
  toClose.push(web);

  return {
    dns,
    clock,
    web,
    newAddress,
    certifyWeb: (...names) => web.certify(...names),
    onWeb(host, handler) {
      hosts.set(host, handler);
      dns.addresses(host, [web.address]);
    },
    async serve(names, { address = newAddress(), port = 0 } = {}) {
      const server = await startServer(ca, names, address, port, (_, __, response) =>
        respond(response, 200, {}),
      );
      toClose.push(server);
      return server;
    },
    client({ allowNetworks = ['127.0.0.0/8', '::1/128'], timeoutMs = 20_000, wellKnown = {} } = {}) {
      const outcomes: RequestOutcome[] = [];
      const lookups: DiscoveryLookup[] = [];
      const refused: RefusedAddress[] = [];
      // What is an odd way to write an address, such as 0x7f.1, is for the system to make out, as it does.
      const lookup = (name: string) =>
        /^(0x[\da-f]+|[\d.])+$|^localhost\.?$/i.test(name) ? systemLookup(name) : dns.lookup(name);
      const onRefusedAddress = (each: RefusedAddress) => void refused.push(each);
      const shared = { verifyTls: true, ca: ca.certificate, allowNetworks };
      const discovery = new ServerDiscovery({
        fetchWellKnown: wellKnownFetch({
          options: { ...shared, wellKnownPort: web.port, ...wellKnown },
          lookup,
          onRefusedAddress,
        }),
        lookUpSrv: dns.lookUpSrv,
        now: clock.now,
        random: () => 0.5,
        onLookup: (each) => void lookups.push(each),
      });
      const client = new FederationClient({
        serverName: parseServerName('exeunt.test')!,
        signingKey: { keyId: 'ed25519:a', seed: new Uint8Array(32).fill(7) },
        now: clock.now,
        options: { ...shared, timeoutMs },
        resolve: (server) => discovery.resolve(server),
        lookup,
        onOutcome: (each) => void outcomes.push(each),
        onRefusedAddress,
      });
      toClose.push(client);
      return { client, discovery, outcomes, lookups, refused };
    },
    async close() {
      await Promise.all(toClose.map((each) => each.close()));
      await ca.remove();
    },
  };
}

async function startServer(
  ca: TestCertificateAuthority,
  names: readonly [string, ...string[]],
  host: string,
  port: number,
  answer: (host: string, url: string, response: ServerResponse) => void,
): Promise<NetworkServer> {
  const arrivals: Arrival[] = [];
  let connections = 0;
  let handler: WebHandler | undefined;
  const first = await ca.issue(names);
  const server: Server = createServer(
    { cert: first.certificate, key: first.privateKey },
    (request, response) => {
      // A client that has seen enough breaks off.
      response.on('error', () => {});
      const socket = request.socket as TLSSocket & { readonly servername?: string | false };
      arrivals.push({
        address: socket.localAddress ?? '',
        port: socket.localPort ?? 0,
        sni: socket.servername ?? false,
        hostHeader: request.headers.host,
        url: request.url,
      });
      if (handler !== undefined) handler(request.url ?? '', response);
      else answer((request.headers.host ?? '').replace(/:\d+$/, ''), request.url ?? '', response);
    },
  );
  server.on('connection', (socket: Socket) => {
    connections += 1;
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  return {
    address: host,
    port: (server.address() as AddressInfo).port,
    arrivals,
    get connections() {
      return connections;
    },
    answer: (other) => void (handler = other),
    async certify(...others) {
      const { certificate, privateKey } = await ca.issue(others);
      server.setSecureContext({ cert: certificate, key: privateKey });
    },
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
