import { createSocket } from 'node:dgram';
import type { AddressInfo } from 'node:net';
import type { AddressLookup, FoundAddress } from '@exeunt/federation-client';
import type { SrvLookup, SrvRecord } from '@exeunt/server-discovery';

/** Addresses of one answer. */
export type Addresses = readonly string[];

/**
 * A name system of its own for both ports that ask one: `lookup` for addresses, `lookUpSrv` for SRV records. A name
 * that nobody has set has neither, as in DNS. Names are told apart without case and without the dot at their end.
 */
export interface FakeDns {
  readonly lookup: AddressLookup;
  readonly lookUpSrv: SrvLookup;
  /** Every question so far, in order: `A example.com`, `SRV _matrix._tcp.example.com`. */
  readonly questions: readonly string[];
  /** The answers to one question after the other; the last is given from then on. */
  addresses(name: string, ...answers: [Addresses, ...Addresses[]]): void;
  /** The records of a full name; those left out of a record are 0. `fail` is a server that does not answer well. */
  srv(name: string, records: readonly FakeSrvRecord[] | 'fail'): void;
}

export type FakeSrvRecord = Pick<SrvRecord, 'name' | 'port'> & Partial<SrvRecord>;

export function createFakeDns(): FakeDns {
  const addresses = new Map<string, Addresses[]>();
  const srv = new Map<string, readonly FakeSrvRecord[] | 'fail'>();
  const questions: string[] = [];

  return {
    questions,
    async lookup(name) {
      questions.push(`A ${name}`);
      const answers = addresses.get(keyOf(name));
      const answer = answers !== undefined && answers.length > 1 ? answers.shift() : answers?.[0];
      if (answer === undefined) throw noSuchName(name);
      return answer.map(foundAddress);
    },
    async lookUpSrv(name) {
      questions.push(`SRV ${name}`);
      const records = srv.get(keyOf(name)) ?? [];
      if (records === 'fail') throw Object.assign(new Error(`SERVFAIL ${name}`), { code: 'ESERVFAIL' });
      return records.map((record) => ({ priority: 0, weight: 0, ...record }));
    },
    addresses: (name, ...answers) => void addresses.set(keyOf(name), answers),
    srv: (name, records) => void srv.set(keyOf(name), records),
  };
}

function keyOf(name: string): string {
  return name.toLowerCase().replace(/\.$/, '');
}

function foundAddress(address: string): FoundAddress {
  return { address, family: address.includes(':') ? 6 : 4 };
}

function noSuchName(name: string): Error {
  return Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND' });
}

/** What a name server says to a question for SRV records; `silent` never answers. */
export type DnsReply = readonly SrvRecord[] | 'no-such-name' | 'server-failure' | 'refused' | 'silent';

/** A name server on a real UDP socket of the loopback interface. */
export interface DnsServer {
  /** `address:port`, as `Resolver.setServers` takes it. */
  readonly address: string;
  /** Names asked for so far, repeated questions too. */
  readonly questions: readonly string[];
  close(): Promise<void>;
}

/** Starts a name server that answers SRV questions as told. */
export async function startDnsServer(replyTo: (name: string) => DnsReply): Promise<DnsServer> {
  const socket = createSocket('udp4');
  const questions: string[] = [];
  socket.on('message', (query, from) => {
    const { name, end } = readName(query, 12);
    questions.push(name);
    const reply = replyTo(name);
    if (reply === 'silent') return;
    socket.send(answerTo(query, end + 4, reply), from.port, from.address);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  return {
    address: `127.0.0.1:${(socket.address() as AddressInfo).port}`,
    questions,
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

const rcodes = { 'server-failure': 2, 'no-such-name': 3, refused: 5 } as const;

/** Header and question as asked, then the records (RFC 1035, 4.1; RFC 2782). */
function answerTo(query: Buffer, questionEnd: number, reply: Exclude<DnsReply, 'silent'>): Buffer {
  const records = typeof reply === 'string' ? [] : reply;
  const head = Buffer.from(query.subarray(0, questionEnd));
  head.writeUInt16BE(0x8180 | (typeof reply === 'string' ? rcodes[reply] : 0), 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(records.length, 6);
  head.writeUInt16BE(0, 8);
  head.writeUInt16BE(0, 10);
  return Buffer.concat([
    head,
    ...records.map(({ priority, weight, port, name }) => {
      const target = writeName(name);
      const record = Buffer.alloc(18);
      record.writeUInt16BE(0xc00c, 0); // the name of the question
      record.writeUInt16BE(33, 2); // SRV
      record.writeUInt16BE(1, 4); // IN
      record.writeUInt32BE(300, 6);
      record.writeUInt16BE(6 + target.length, 10);
      record.writeUInt16BE(priority, 12);
      record.writeUInt16BE(weight, 14);
      record.writeUInt16BE(port, 16);
      return Buffer.concat([record, target]);
    }),
  ]);
}

function readName(message: Buffer, start: number): { readonly name: string; readonly end: number } {
  const labels: string[] = [];
  let at = start;
  for (let length = message[at] ?? 0; length > 0; length = message[at] ?? 0) {
    labels.push(message.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join('.'), end: at + 1 };
}

function writeName(name: string): Buffer {
  const labels = name.split('.').filter((label) => label !== '');
  return Buffer.concat([
    ...labels.map((label) => Buffer.from([label.length, ...Buffer.from(label, 'latin1')])),
    Buffer.from([0]),
  ]);
}
