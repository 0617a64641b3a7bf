import { Module, type DynamicModule } from '@nestjs/common';
import { FederationSender } from '@exeunt/sending';
import { ServerDiscovery } from '@exeunt/server-discovery';
import {
  DestinationsController,
  GatewayMetrics,
  OperationsController,
  PLATFORM_TOKEN,
  PlatformTokenGuard,
  READINESS,
  type Readiness,
} from '../../gateway/src/for-federation-sender.js';

/** The sender's own listener: how it is, and how delivery to each server stands. */
@Module({})
export class SenderModule {
  static on(parts: {
    readonly sender: FederationSender;
    readonly discovery: ServerDiscovery;
    readonly metrics: GatewayMetrics;
    readonly token: string;
    readonly readiness: Readiness;
  }): DynamicModule {
    return {
      module: SenderModule,
      controllers: [DestinationsController, OperationsController],
      providers: [
        { provide: FederationSender, useValue: parts.sender },
        { provide: ServerDiscovery, useValue: parts.discovery },
        { provide: GatewayMetrics, useValue: parts.metrics },
        { provide: PLATFORM_TOKEN, useValue: parts.token },
        { provide: READINESS, useValue: parts.readiness },
        PlatformTokenGuard,
      ],
    };
  }
}
