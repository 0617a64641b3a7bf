import { Module, type DynamicModule } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { FederationRequestGuard } from './federation-request/federation-request.guard.js';
import { FEDERATION_SIDE, type FederationSide } from './federation-side.js';
import { InviteController } from './invite/invite.controller.js';
import { ReceiveInviteHandler } from './invite/receive-invite.command.js';
import { MakeKnockController } from './make-knock/make-knock.controller.js';
import { MakeLeaveController } from './make-leave/make-leave.controller.js';
import { AcceptMembershipHandler } from './member-handshake/accept-membership.command.js';
import { GetMemberTemplateHandler } from './member-handshake/member-template.query.js';
import { ReceiveTransactionController } from './receive-transaction/receive-transaction.controller.js';
import { ReceiveTransactionHandler } from './receive-transaction/receive-transaction.command.js';
import { RoomHistoryController } from './room-history/room-history.controller.js';
import { RoomHistory } from './room-history/room-history.js';
import { SendKnockController } from './send-knock/send-knock.controller.js';
import { SendLeaveController } from './send-leave/send-leave.controller.js';
import { ServerKeysController } from './server-keys/server-keys.controller.js';

/** The federation listener: what other servers reach. */
@Module({})
export class FederationModule {
  static on(side: FederationSide): DynamicModule {
    return {
      module: FederationModule,
      imports: [CqrsModule.forRoot()],
      controllers: [
        InviteController,
        MakeKnockController,
        MakeLeaveController,
        ReceiveTransactionController,
        RoomHistoryController,
        SendKnockController,
        SendLeaveController,
        ServerKeysController,
      ],
      providers: [
        { provide: FEDERATION_SIDE, useValue: side },
        FederationRequestGuard,
        GetMemberTemplateHandler,
        AcceptMembershipHandler,
        ReceiveInviteHandler,
        ReceiveTransactionHandler,
        RoomHistory,
      ],
    };
  }
}
