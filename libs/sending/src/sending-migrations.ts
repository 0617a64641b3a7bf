import { SenderLanes1700000000040 } from './sender-lanes.migration.js';
import { Sending1700000000003 } from './sending.migration.js';

/** Everything the sender has to remember, for `openDatabase`. */
export const sendingMigrations = [Sending1700000000003, SenderLanes1700000000040] as const;
