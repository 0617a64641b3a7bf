export * from './room-store.js';
export * from './replay-check.js';
