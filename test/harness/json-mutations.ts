import * as fc from 'fast-check';
import { isJsonObject, parseJson, type JsonObject, type JsonValue } from '@exeunt/signing';

/** A change of one place in a JSON value; the place is chosen by `at` among those that there are. */
export interface JsonMutation {
  readonly at: number;
  readonly kind: 'remove' | 'replace' | 'add' | 'repeat';
  readonly key: string;
  readonly value: JsonValue;
}

/** Keys and texts at which programs stumble. */
const awkward = [
  '',
  '__proto__',
  'constructor',
  'toString',
  '\0',
  'm.room.create',
  '@:x',
  '!x',
  '$x',
  'leave',
  '\u{10ffff}',
  '\u2028',
  'a'.repeat(300),
];

const texts = fc.oneof(fc.constantFrom(...awkward), fc.string({ unit: 'binary', maxLength: 20 }));
const numbers = fc.constantFrom(
  '0',
  '-0',
  '-1',
  '1.0',
  '1e3',
  '1e400',
  '9007199254740993',
  '9223372036854775808',
);
const values: fc.Arbitrary<JsonValue> = fc.oneof(
  texts.filter((text) => text.isWellFormed()),
  numbers.map((source) => parseJson(source)),
  fc.constantFrom<JsonValue>(null, true, [], {}, [[]], { '': {} }),
  // Through the text, so that numbers are what our parser makes of them.
  fc.jsonValue({ maxDepth: 3, stringUnit: 'grapheme' }).map((value) => parseJson(JSON.stringify(value))),
);

/** Arbitrary changes to JSON, most of them of small effect. */
export const jsonMutations: fc.Arbitrary<JsonMutation> = fc.record({
  at: fc.nat(10_000),
  kind: fc.constantFrom('remove', 'replace', 'replace', 'add', 'repeat'),
  key: texts.filter((text) => text.isWellFormed()),
  value: values,
});

type Path = readonly (string | number)[];

function placesIn(value: JsonValue, path: Path = []): readonly Path[] {
  if (Array.isArray(value)) {
    const list = value as readonly JsonValue[];
    return [path, ...list.flatMap((one, at) => placesIn(one, [...path, at]))];
  }
  if (!isJsonObject(value)) return [path];
  return [path, ...Object.keys(value).flatMap((key) => placesIn(value[key]!, [...path, key]))];
}

/** The object with the changes made one after the other; it stays an object. */
export function mutated(object: JsonObject, mutations: readonly JsonMutation[]): JsonObject {
  return mutations.reduce((current, mutation) => {
    const places = placesIn(current);
    const changed = changeAt(current, places[mutation.at % places.length]!, mutation);
    return isJsonObject(changed) ? changed : current;
  }, object);
}

function changeAt(value: JsonValue, path: Path, mutation: JsonMutation): JsonValue {
  const [step, ...rest] = path;
  if (step === undefined) return changeHere(value, mutation);
  const isLast = rest.length === 0;
  if (Array.isArray(value)) {
    const list = value as readonly JsonValue[];
    return list.flatMap((one, at): readonly JsonValue[] => {
      if (at !== step) return [one];
      if (isLast && mutation.kind === 'remove') return [];
      if (isLast && mutation.kind === 'repeat') return [one, one];
      return [changeAt(one, rest, mutation)];
    });
  }
  const entries = Object.entries(value as JsonObject).flatMap(([key, one]): [string, JsonValue][] => {
    if (key !== step) return [[key, one]];
    if (isLast && mutation.kind === 'remove') return [];
    return [[key, changeAt(one, rest, mutation)]];
  });
  return Object.fromEntries(entries);
}

function changeHere(value: JsonValue, { kind, key, value: other }: JsonMutation): JsonValue {
  if (kind === 'replace') return other;
  if (kind !== 'add') return value;
  if (Array.isArray(value)) return [...(value as readonly JsonValue[]), other];
  if (!isJsonObject(value)) return other;
  return Object.fromEntries([...Object.entries(value), [key, other]]);
}
