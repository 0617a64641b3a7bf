import type { Branded } from '@exeunt/pdu';

/** A (type, state_key) pair as one string, so that it can key a map. Only {@link stateKeyOf} makes one. */
export type StateKey = Branded<'StateKey'>;

/**
 * One string for a (type, state_key) pair; different pairs give different strings. The length of the type goes
 * first, because either part may hold any character, whatever would be chosen as a separator included.
 */
export function stateKeyOf(type: string, stateKey: string): StateKey {
  return `${type.length}:${type}${stateKey}` as StateKey;
}

/** The pair that {@link stateKeyOf} was given. */
export function typeAndStateKeyOf(key: StateKey): { readonly type: string; readonly stateKey: string } {
  const colon = key.indexOf(':');
  const end = colon + 1 + Number(key.slice(0, colon));
  return { type: key.slice(colon + 1, end), stateKey: key.slice(end) };
}
