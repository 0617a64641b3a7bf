export * from './event-store.js';
export * from './outbox.js';
export { InMemoryEventStore } from './in-memory-event-store.js';
export { TypeormEventStore, eventStoreMigrations } from './typeorm-event-store.js';
