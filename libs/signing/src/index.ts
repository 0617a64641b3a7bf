export * from './base64.js';
export * from './canonical-json.js';
export * from './ed25519.js';
export * from './json.js';
export * from './signed-json.js';
export * from './x-matrix.js';
