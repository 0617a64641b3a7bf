export * from './destination-queue.js';
export * from './destination-state.js';
export * from './destination-wakes.js';
export * from './federation-sender.js';
export * from './outbound-pdu.js';
export * from './outbound-pdus-consumer.js';
export * from './sending.migration.js';
export * from './transaction.js';
