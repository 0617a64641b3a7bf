import { fileURLToPath } from 'node:url';
import { DocumentBuilder, SwaggerModule } from '@nestjs/swagger';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { Logger } from 'pino';
import type { Configuration, Listener } from '@exeunt/configuration';
import { platformToken, selfSignedCertificate } from './data-directory.js';
import { FederationModule } from './federation.module.js';
import {
  createListener,
  maxFederationBodyBytes,
  maxPlatformBodyBytes,
  type AnsweredRequest,
} from './listeners.js';
import { PlatformModule } from './platform.module.js';
import { admitPlatform, PlatformTokenGuard } from './platform-request/platform-token.guard.js';
import { startPlatform, type Platform } from './platform.js';
import { product } from './product.js';
import { traceHeader } from './request-trace.js';

/** A gateway, listening; alone with its sender in this process, or one of several beside federation-senders. */
export interface Standalone {
  readonly platform: Platform;
  readonly federationUrl: string;
  readonly platformUrl: string;
  readonly token: string;
  /** Takes no new request, answers those under way, and closes everything. */
  stop(): Promise<void>;
}

export async function startStandalone(configuration: Configuration, log: Logger): Promise<Standalone> {
  const token = configuration.platformToken ?? (await platformToken(configuration.dataDirectory));
  const platform = await startPlatform(configuration, log);
  const { side, sender, discovery, readiness, tracing } = platform;
  const onAnswered = (answered: AnsweredRequest): void => side.metrics.incoming(answered);
  const open: NestFastifyApplication[] = [];
  const stop = async (): Promise<void> => {
    for (const app of open.splice(0)) await app.close();
    await platform.close();
  };
  try {
    const tls = await tlsFor(configuration);
    const federation = await createListener({
      module: FederationModule.on(side),
      maxBodyBytes: maxFederationBodyBytes,
      log,
      tracing,
      onAnswered,
      ...(tls === undefined ? {} : { tls }),
    });
    open.push(federation);
    const internal = await createListener({
      module: PlatformModule.on({
        side,
        sender,
        discovery,
        token,
        readiness,
      }),
      maxBodyBytes: maxPlatformBodyBytes,
      // Half a gigabyte of a room is read for those alone who may hand one over.
      admit: admitPlatform(new PlatformTokenGuard(token)),
      log,
      tracing,
      onAnswered,
      prepare: describe,
    });
    open.push(internal);
    const scheme = tls === undefined ? 'http' : 'https';
    return {
      platform,
      federationUrl: await listen(federation, configuration.federation, scheme),
      platformUrl: await listen(internal, configuration.platform, 'http'),
      token,
      stop,
    };
  } catch (cause) {
    await stop();
    throw cause;
  }
}

async function tlsFor({ federation, dataDirectory, serverName }: Configuration) {
  switch (federation.tls.kind) {
    case 'off':
      return undefined;
    case 'files':
      return { cert: federation.tls.certificate, key: federation.tls.privateKey };
    case 'self-signed':
      return selfSignedCertificate(dataDirectory, serverName);
    default:
      return federation.tls satisfies never;
  }
}

/** Listens, and gives the URL with the port that it got. */
export async function listen(
  app: NestFastifyApplication,
  { host, port }: Listener,
  scheme: string,
): Promise<string> {
  await app.listen(port, host);
  const address = app.getHttpServer().address();
  const actual = typeof address === 'object' && address !== null ? address.port : port;
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${actual}`;
}

/** The contract of the message bus, from the root of the sources as from that of the build. */
const busDocs = fileURLToPath(new URL('../../../docs/bus/', import.meta.url));

/** The OpenAPI document and its page at /docs; the bus at /asyncapi.yaml, with the schemas that it refers to. */
function describe(app: NestFastifyApplication): void {
  app.useStaticAssets({ root: busDocs, prefix: '/', wildcard: false, index: false });
  const document = new DocumentBuilder()
    .setTitle(`${product.name} platform API`)
    .setDescription(
      'Rooms, leaves and deliveries, for the services of the platform and its operators. ' +
        `Every answer names its trace in ${traceHeader}, which the log lines of the request carry as trace_id; ` +
        'a traceparent header (W3C Trace Context) is gone on with.',
    )
    .setVersion(product.version)
    .addBearerAuth()
    .setExternalDoc('The messages of the bus', '/asyncapi.yaml')
    .build();
  SwaggerModule.setup('docs', app, () => SwaggerModule.createDocument(app, document));
}
