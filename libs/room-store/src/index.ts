export * from './room-store.js';
