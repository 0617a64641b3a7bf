export * from './room-store.js';
export * from './replay-check.js';
export * from './look-back.js';
