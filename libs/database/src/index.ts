export * from './database.js';
export { DatabaseUnavailable } from './database-unavailable.js';
