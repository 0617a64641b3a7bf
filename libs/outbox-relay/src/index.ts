export * from './messages-for.js';
export * from './outbox-relay.js';
