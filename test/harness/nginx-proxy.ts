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
 * A real nginx with deploy/nginx/nginx.conf: ports, certificate and files are of this run, and upstreams are the
 * addresses given, `host:port`, in place of the containers' names. All else is as it is deployed.
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
  const ports = await freePorts(3);
  const [federation, platform, health] = ports;
  const deployed = await readFile(
    fileURLToPath(new URL('../../deploy/nginx/nginx.conf', import.meta.url)),
    'utf8',
  );
  const replacements = [
    ['listen 8448 ssl;', `listen 127.0.0.1:${federation} ssl;`],
    ['listen 8090;', `listen 127.0.0.1:${platform};`],
    ['listen 127.0.0.1:8089;', `listen 127.0.0.1:${health};`],
    ['/etc/nginx/tls/fullchain.pem', certificate.certificatePath],
    ['/etc/nginx/tls/privkey.pem', certificate.privateKeyPath],
  ] as const;
  let configuration = deployed;
  for (const [from, to] of replacements) {
    if (!configuration.includes(from)) throw new Error(`deploy/nginx/nginx.conf has no longer: ${from}`);
    configuration = configuration.replace(from, to);
  }
  // Everything that the packaged nginx would keep in folders of the system.
  const own = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (kind) => `${kind}_temp_path ${join(directory, kind)};`,
  );
  const upstream = (name: string, servers: readonly string[]) =>
    `upstream ${name} { ${servers.map((server) => `server ${server};`).join(' ')} }`;
  await writeFile(join(directory, 'nginx.conf'), configuration);
  await writeFile(
    join(directory, 'upstreams.conf'),
    [
      ...own,
      'access_log off;',
      upstream('federation', upstreams.federation),
      upstream('platform', upstreams.platform),
    ].join('\n'),
  );
  const global = [
    'daemon off;',
    `pid ${join(directory, 'nginx.pid')};`,
    // Its workers have this directory to write to.
    ...(process.getuid?.() === 0 ? ['user root;'] : []),
  ];
  const process_ = new ServiceProcess({
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
    await process_.end();
    await authority.remove();
    await rm(directory, { recursive: true, force: true });
  };
  const outcome = await process_.start(() => listens(health!));
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
