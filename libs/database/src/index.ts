export * from './database.js';
export { DatabaseUnavailable } from './database-unavailable.js';
export * from './one-at-a-time.js';
