import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findNginx } from '../../scripts/services/nginx.mjs';
import { freePorts, ServiceProcess } from '../../scripts/services/service-process.mjs';
import { createTestCertificateAuthority } from './test-certificate.js';

export { findNginx };

/** The proxy of docker-compose.yml, on loopback. */
export interface NginxProxy {
  /** Ends TLS. */
  readonly federationUrl: string;
  readonly platformUrl: string;
  /** What it says of its own health. */
  readonly healthUrl: string;
  stop(): Promise<void>;
}

/**
 * A real nginx with what is in deploy/nginx: ports, certificate and files are of this run, and the gateways are the
 * addresses given, `host:port`, in place of the containers' name. All else is as it is deployed.
 */
export async function startNginx(upstreams: {
  readonly federation: readonly string[];
  readonly platform: readonly string[];
}): Promise<NginxProxy> {
  const nginx = findNginx();
  if (nginx === undefined) throw new Error('no nginx here: scripts/services/apt.sh installs it');
  const directory = await mkdtemp(join(tmpdir(), 'exeunt-nginx-'));
  const authority = await createTestCertificateAuthority();
  const certificate = await authority.issue(['127.0.0.1']);
  const [federation, platform, health] = await freePorts(3);
  const configuration = await adapted('nginx.conf', [
    ['listen 8448 ssl;', `listen 127.0.0.1:${federation} ssl;`],
    ['listen 8090;', `listen 127.0.0.1:${platform};`],
    ['listen 127.0.0.1:8089;', `listen 127.0.0.1:${health};`],
    ['/etc/nginx/tls/fullchain.pem', certificate.certificatePath],
    ['/etc/nginx/tls/privkey.pem', certificate.privateKeyPath],
  ]);
  const servers = (addresses: readonly string[]) => addresses.map((one) => `server ${one};`).join(' ');
  // Names that are looked up again are newer than the nginx of some systems.
  const gateways = await adapted('upstreams.conf', [
    ['resolver 127.0.0.11 valid=5s ipv6=off;', ''],
    ['server gateway:8448 resolve;', servers(upstreams.federation)],
    ['server gateway:8090 resolve;', servers(upstreams.platform)],
  ]);
  // Everything that the packaged nginx would keep in folders of the system.
  const own = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (kind) => `${kind}_temp_path ${join(directory, kind)};`,
  );
  await writeFile(join(directory, 'nginx.conf'), configuration);
  await writeFile(join(directory, 'upstreams.conf'), [...own, 'access_log off;', gateways].join('\n'));
  const global = [
    'daemon off;',
    `pid ${join(directory, 'nginx.pid')};`,
    // Its workers have this directory to write to.
    ...(process.getuid?.() === 0 ? ['user root;'] : []),
  ];
  const server = new ServiceProcess({
    what: 'nginx',
    directory,
    command: [
      [nginx, '-e', 'stderr', '-p', directory],
      ['-c', join(directory, 'nginx.conf'), '-g', global.join(' ')],
    ].flat(),
    endSignal: 'SIGTERM',
    orphanSignal: 'SIGTERM',
    outlivesCaller: false,
  });
  const stop = async (): Promise<void> => {
    await server.end();
    await authority.remove();
    await rm(directory, { recursive: true, force: true });
  };
  const outcome = await server.start(() => listens(health!));
  if (outcome !== 'ready') {
    await stop();
    throw new Error(`nginx did not come up:\n${outcome}`);
  }
  return {
    federationUrl: `https://127.0.0.1:${federation}`,
    platformUrl: `http://127.0.0.1:${platform}`,
    healthUrl: `http://127.0.0.1:${health}/`,
    stop,
  };
}

/** A file of deploy/nginx with parts of it put in place of others, each of which must be there. */
async function adapted(
  name: string,
  replacements: readonly (readonly [from: string, to: string])[],
): Promise<string> {
  const path = fileURLToPath(new URL(`../../deploy/nginx/${name}`, import.meta.url));
  let text = await readFile(path, 'utf8');
  for (const [from, to] of replacements) {
    if (!text.includes(from)) throw new Error(`deploy/nginx/${name} has no longer: ${from}`);
    text = text.replace(from, () => to);
  }
  return text;
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
