import { Module, type DynamicModule } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { FederationSender } from '@exeunt/sending';
import { ServerDiscovery } from '@exeunt/server-discovery';
import { FEDERATION_SIDE, type FederationSide } from './federation-side.js';
import { JoinsController } from './join-room/joins.controller.js';
import { LeaveAllHandler } from './leave-room/leave-all.command.js';
import { LeaveAllController } from './leave-room/leave-all.controller.js';
import { LeaveAllStandingHandler } from './leave-room/leave-all.query.js';
import { LeaveRoomHandler } from './leave-room/leave-room.command.js';
import { LeavesController, UsersController } from './leave-room/leaves.controller.js';
import { MembershipsHandler } from './leave-room/memberships.query.js';
import { DestinationsController } from './operations/destinations.controller.js';
import { GatewayMetrics } from './operations/metrics.js';
import { OperationsController, READINESS, type Readiness } from './operations/operations.controller.js';
import { PLATFORM_TOKEN, PlatformTokenGuard } from './platform-request/platform-token.guard.js';
import { CreateRoomHandler } from './rooms/create-room.command.js';
import { ExplainHandler } from './rooms/explain.query.js';
import { ImportRoomHandler } from './rooms/import-room.command.js';
import { InviteUserHandler } from './rooms/invite-user.command.js';
import { RoomReads } from './rooms/room-reads.js';
import { RoomsController } from './rooms/rooms.controller.js';
import { SendStateHandler } from './rooms/send-state.command.js';

/** The internal listener: what the platform's own services and operators reach. */
@Module({})
export class PlatformModule {
  static on(parts: {
    readonly side: FederationSide;
    /** Absent: another process sends, and answers for destinations. */
    readonly sender: FederationSender | undefined;
    readonly discovery: ServerDiscovery;
    readonly token: string;
    readonly readiness: Readiness;
  }): DynamicModule {
    return {
      module: PlatformModule,
      imports: [CqrsModule.forRoot()],
      controllers: [
        RoomsController,
        ...(parts.sender === undefined ? [] : [DestinationsController]),
        JoinsController,
        LeaveAllController,
        LeavesController,
        OperationsController,
        UsersController,
      ],
      providers: [
        { provide: FEDERATION_SIDE, useValue: parts.side },
        ...(parts.sender === undefined ? [] : [{ provide: FederationSender, useValue: parts.sender }]),
        { provide: ServerDiscovery, useValue: parts.discovery },
        { provide: PLATFORM_TOKEN, useValue: parts.token },
        { provide: GatewayMetrics, useValue: parts.side.metrics },
        { provide: READINESS, useValue: parts.readiness },
        PlatformTokenGuard,
        RoomReads,
        CreateRoomHandler,
        ExplainHandler,
        ImportRoomHandler,
        InviteUserHandler,
        LeaveAllHandler,
        LeaveAllStandingHandler,
        LeaveRoomHandler,
        MembershipsHandler,
        SendStateHandler,
      ],
    };
  }
}
