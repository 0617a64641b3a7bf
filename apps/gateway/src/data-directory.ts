import { randomBytes } from 'node:crypto';
import { chmod, link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { generate } from 'selfsigned';
import { generateSigningKeyLine, seedBytes } from '@exeunt/key-ring';
import { hostOf, type ServerName } from '@exeunt/pdu';

/*
 * What the first start makes and every later one finds: the signing key, the platform token, a certificate. Each is
 * written whole or not at all, and readable by its owner alone.
 */

/** The text of the signing key file; a new key where there is no file yet. */
export function signingKeyText(path: string): Promise<string> {
  return existingOr(path, () => Promise.resolve(`${generateSigningKeyLine(randomBytes(seedBytes))}\n`));
}

/** The platform API's bearer token, from `<data>/platform.token`. */
export async function platformToken(dataDirectory: string): Promise<string> {
  const path = join(dataDirectory, 'platform.token');
  return (await existingOr(path, () => Promise.resolve(`${randomBytes(24).toString('base64url')}\n`))).trim();
}

/** A self-signed certificate for our server name, from `<data>/federation.crt` and `.key`. */
export async function selfSignedCertificate(
  dataDirectory: string,
  serverName: ServerName,
): Promise<{ readonly cert: string; readonly key: string }> {
  const pem = await existingOr(join(dataDirectory, 'federation.pem'), async () => {
    const host = hostOf(serverName).replaceAll(/[[\]]/g, '');
    const isAddress = /^[\d.]+$|:/.test(host);
    const notAfterDate = new Date(Date.now() + 10 * 365 * 86_400_000);
    const made = await generate([{ name: 'commonName', value: host.slice(0, 64) }], {
      keyType: 'ec',
      notAfterDate,
      extensions: [
        { name: 'basicConstraints', cA: false },
        { name: 'subjectAltName', altNames: [isAddress ? { type: 7, ip: host } : { type: 2, value: host }] },
      ],
    });
    return `${made.private.trim()}\n${made.cert.trim()}\n`;
  });
  const at = pem.indexOf('-----BEGIN CERTIFICATE-----');
  return { key: pem.slice(0, at), cert: pem.slice(at) };
}

async function existingOr(path: string, make: () => Promise<string>): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
  }
  const content = await make();
  await mkdir(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}.new`;
  await writeFile(draft, content, { mode: 0o600, flag: 'wx' });
  await chmod(draft, 0o600);
  try {
    // Not a rename: of several processes that start on one directory the first makes it, and the others take that.
    await link(draft, path);
    return content;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
    return await readFile(path, 'utf8');
  } finally {
    await rm(draft, { force: true });
  }
}
