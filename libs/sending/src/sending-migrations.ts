import { SendingParking1700000000030 } from './parking.migration.js';
import { Sending1700000000003 } from './sending.migration.js';

/** Everything the sender has to remember, for `openDatabase`. */
export const sendingMigrations = [Sending1700000000003, SendingParking1700000000030] as const;
