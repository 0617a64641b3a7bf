/**
 * A number that JavaScript's `number` cannot hold as it was written: out of the safe integer range, with a
 * fraction or an exponent, or negative zero. Its source text is kept, so that events of room versions 1 to 5
 * verify byte for byte. (requirements CJ-04, RV-05)
 */
export class JsonNumber {
  constructor(readonly source: string) {}
}

/** A parsed JSON value without loss. Plain `number`s are always safe integers and never `-0`. */
export type JsonValue = null | boolean | number | string | JsonNumber | readonly JsonValue[] | JsonObject;

/** A JSON object; own keys only, `__proto__` is a key like any other. */
export interface JsonObject {
  readonly [key: string]: JsonValue;
}
