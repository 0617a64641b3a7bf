import { afterEach, describe, expect, it } from 'vitest';
import { parseServerName, type ServerName } from '@exeunt/pdu';
import {
  encodeCanonicalJson,
  parseXMatrix,
  requestToSign,
  selectEd25519,
  verifyJsonSignature,
} from '@exeunt/signing';
import { generateSelfSigned, respond, startRemoteServer } from '../../../test/harness/remote-server.js';
import { FederationClient } from './federation-client.js';

const signingKey = { keyId: 'ed25519:a', seed: new Uint8Array(32).fill(7) };
const ourName = name('exeunt.test');
const toClose: { close(): unknown }[] = [];

afterEach(async () => {
  await Promise.all(toClose.splice(0).map((each) => each.close()));
});

function name(text: string): ServerName {
  const parsed = parseServerName(text);
  if (parsed === undefined) throw new Error(text);
  return parsed;
}

describe('a request to a server that is somewhere else than its name says', () => {
  it('is between the server names, wherever it goes (RA-05, RA-09)', async () => {
    const peer = await startRemoteServer({ tls: await generateSelfSigned(['delegated.test']) });
    toClose.push(peer);
    peer.on('PUT', '/_matrix/federation/v1/send/', (_, response) => respond(response, 200, { pdus: {} }));
    const client = new FederationClient({
      serverName: ourName,
      signingKey,
      now: () => 1_700_000_000_000,
      options: { timeoutMs: 20_000, verifyTls: true, allowNetworks: ['127.0.0.0/8'], ca: peer.certificate },
      resolve: () => ({
        kind: 'targets',
        targets: [
          {
            kind: 'target',
            host: '127.0.0.1',
            port: peer.port,
            hostHeader: 'delegated.test',
            certificateName: 'delegated.test',
            isIpLiteral: false,
          },
        ],
      }),
    });
    toClose.push(client);

    const destination = name('peer.test');
    const content = { pdus: [] };
    expect((await client.sendTransaction(destination, 'txn1', encodeCanonicalJson(content))).ok).toBe(true);

    const [request] = peer.requests;
    const header = parseXMatrix(request?.headers.authorization ?? '');
    if ('error' in header) throw new Error(header.error);
    expect([header.origin, header.destination, request?.headers.host]).toEqual([
      ourName,
      destination,
      'delegated.test',
    ]);
    const signed = requestToSign({
      method: 'PUT',
      uri: '/_matrix/federation/v1/send/txn1',
      origin: ourName,
      destination,
      content,
    });
    const publicKey = selectEd25519().publicKeyOf(signingKey.seed);
    expect(verifyJsonSignature(signed, header.signature, publicKey)).toBe(true);
  });
});
