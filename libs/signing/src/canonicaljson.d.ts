declare module 'canonicaljson' {
  /** The package is CommonJS and ships no types; `stringify` is all we use of it. */
  const canonicaljson: { stringify(value: unknown): string };
  export default canonicaljson;
}
