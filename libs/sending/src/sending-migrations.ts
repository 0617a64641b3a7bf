import { SendingParking1700000000030 } from './parking.migration.js';
import { SenderLanes1700000000040 } from './sender-lanes.migration.js';
import { Sending1700000000003 } from './sending.migration.js';
import { SendingTraceparent1700000000020 } from './sending-traceparent.migration.js';

/** Everything the sender has to remember, for `openDatabase`. */
export const sendingMigrations = [
  Sending1700000000003,
  SendingTraceparent1700000000020,
  SendingParking1700000000030,
  SenderLanes1700000000040,
] as const;
