import { openDatabase } from '@exeunt/database';
import { KafkaMessageBus } from '@exeunt/message-bus';
import { projectRoomLeaves } from './room-leaves.projection.js';

const [brokers = '', url = ''] = process.argv.slice(-2);
const database = await openDatabase({ url, migrations: [] });
const bus = await KafkaMessageBus.open({ brokers: brokers.split(','), onProblem: console.warn });
await projectRoomLeaves(bus, database);
process.once('SIGTERM', () => void bus.close().then(() => database.close()));
