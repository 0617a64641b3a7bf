import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generate } from 'selfsigned';

/** A leaf certificate and its key, as PEM text and as files for a program that wants paths. */
export interface TestCertificate {
  certificate: string;
  privateKey: string;
  certificatePath: string;
  privateKeyPath: string;
}

/** A certificate authority that no machine trusts: only whoever is handed `certificate` or `certificatePath`. */
export interface TestCertificateAuthority {
  certificate: string;
  certificatePath: string;
  /**
   * A certificate for a TLS server, valid for a year.
   *
   * @param hosts every host name or IP literal (no port, no brackets) it must answer to; the first is its common name
   */
  issue(hosts: readonly [string, ...string[]]): Promise<TestCertificate>;
  /** Deletes every file it made. Whoever needs the files must have read them. */
  remove(): Promise<void>;
}

const HOUR_MS = 3_600_000;
const YEAR_MS = 365 * 24 * HOUR_MS;

/** Makes a new certificate authority with its own key in a temporary directory that only this user can read. */
export async function createTestCertificateAuthority(): Promise<TestCertificateAuthority> {
  const directory = await mkdtemp(join(tmpdir(), 'exeunt-ca-'));
  // From an hour ago: a peer whose clock is a little behind accepts it too.
  const validity = () => ({
    notBeforeDate: new Date(Date.now() - HOUR_MS),
    notAfterDate: new Date(Date.now() + YEAR_MS),
  });
  const ca = await generate([{ name: 'commonName', value: 'Exeunt test CA' }], {
    keyType: 'ec',
    algorithm: 'sha256',
    ...validity(),
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    ],
  });
  const certificatePath = join(directory, 'ca.crt');
  await writeFile(certificatePath, ca.cert);
  let issued = 0;

  return {
    certificate: ca.cert,
    certificatePath,
    async issue(hosts) {
      const leaf = await generate([{ name: 'commonName', value: hosts[0] }], {
        keyType: 'ec',
        algorithm: 'sha256',
        ...validity(),
        ca: { key: ca.private, cert: ca.cert },
        extensions: [
          { name: 'basicConstraints', cA: false, critical: true },
          { name: 'keyUsage', digitalSignature: true, critical: true },
          { name: 'extKeyUsage', serverAuth: true },
          {
            name: 'subjectAltName',
            altNames: hosts.map((host) => (isIP(host) ? { type: 7, ip: host } : { type: 2, value: host })),
          },
        ],
      });
      issued += 1;
      const leafPath = join(directory, `leaf-${issued}.crt`);
      const privateKeyPath = join(directory, `leaf-${issued}.key`);
      await writeFile(leafPath, leaf.cert);
      await writeFile(privateKeyPath, leaf.private, { mode: 0o600 });
      return {
        certificate: leaf.cert,
        privateKey: leaf.private,
        certificatePath: leafPath,
        privateKeyPath,
      };
    },
    remove: () => rm(directory, { recursive: true, force: true }),
  };
}
