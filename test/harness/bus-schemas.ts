import { readdirSync, readFileSync } from 'node:fs';
import { Ajv, type AnySchemaObject, type ValidateFunction } from 'ajv';
import addFormats from 'ajv-formats';
import { parse } from 'yaml';
import type { BusMessage } from '@exeunt/message-bus';
import { isJsonObject, type JsonObject } from '@exeunt/signing';

/** Where the contract of the message bus is: `asyncapi.yaml` and `schemas/`. */
export const busDocs = new URL('../../docs/bus/', import.meta.url);

/** A message as the AsyncAPI document has it. */
export interface DescribedMessage {
  /** Its `ce_type`, which is the name of its schema's file as well. */
  readonly name: string;
  /** In `components.messages`. */
  readonly id: string;
  /** Addresses of the channels that have it. */
  readonly topics: readonly string[];
}

/** The schema files by name without `.json`: those of messages are named for their `ce_type`. */
export const schemaFiles: ReadonlyMap<string, AnySchemaObject> = new Map(
  readdirSync(new URL('schemas/', busDocs)).map((file) => [
    file.replace(/\.json$/, ''),
    JSON.parse(readFileSync(new URL(`schemas/${file}`, busDocs), 'utf8')) as AnySchemaObject,
  ]),
);

/** The AsyncAPI document, parsed. */
export const asyncapi = parse(readFileSync(new URL('asyncapi.yaml', busDocs), 'utf8')) as JsonObject;

/** What a path of keys leads to in the AsyncAPI document, which must be an object. */
export function inDocument(...path: readonly string[]): JsonObject {
  let value: unknown = asyncapi;
  for (const key of path) value = isJsonObject(value) ? value[key] : undefined;
  if (!isJsonObject(value)) throw new Error(`the AsyncAPI document has no object at ${path.join('.')}`);
  return value;
}

/** All messages of the document. */
export const describedMessages: readonly DescribedMessage[] = Object.entries(
  inDocument('components', 'messages'),
).map(([id, message]) => ({
  id,
  name: String((message as JsonObject)['name']),
  topics: Object.values(inDocument('channels')).flatMap((channel) => {
    const { address, messages } = channel as { address: string; messages: Record<string, { $ref: string }> };
    const has = Object.values(messages).some(({ $ref }) => $ref === `#/components/messages/${id}`);
    return has ? [address] : [];
  }),
}));

/** `open`: fields that no schema knows are let through, as every consumer has to. `sealed`: they are faults. */
type Envelope = 'open' | 'sealed';

/** The document and its schemas as one set, in which each `$ref` is found from the file it is in. */
function validatorOf(envelope: Envelope): (pointer: string) => ValidateFunction {
  const ajv = new Ajv({ strict: false, allErrors: true });
  addFormats.default(ajv);
  for (const [name, schema] of schemaFiles) {
    const sealed = envelope === 'sealed' && name.startsWith('exeunt.') ? sealedSchema(schema) : schema;
    ajv.addSchema({ ...sealed, $id: new URL(`schemas/${name}.json`, busDocs).href });
  }
  // No more of the document, for that is no schema.
  const $id = new URL('asyncapi.yaml', busDocs).href;
  ajv.addSchema({ $id, components: inDocument('components') });
  const compiled = new Map<string, ValidateFunction>();
  return (pointer) => {
    const known = compiled.get(pointer);
    if (known !== undefined) return known;
    const made = ajv.compile({ $ref: new URL(`asyncapi.yaml#${pointer}`, busDocs).href });
    compiled.set(pointer, made);
    return made;
  };
}

/** The schema of a message without the freedom to hold more fields; PDUs and headers keep theirs. */
function sealedSchema(schema: AnySchemaObject): AnySchemaObject {
  const { message } = schema['properties'] as Record<string, AnySchemaObject>;
  const properties =
    message?.['properties'] === undefined
      ? schema['properties']
      : { ...schema['properties'], message: { ...message, additionalProperties: false } };
  return { ...schema, properties, additionalProperties: false };
}

const validators = { open: validatorOf('open'), sealed: validatorOf('sealed') };

/**
 * What is wrong with a message by the contract: its topic, key, headers or value. `sealed` also finds fields of the
 * value that the contract does not tell of. Empty for one that is as it should be.
 */
export function faultsOf(message: BusMessage, envelope: Envelope = 'sealed'): readonly string[] {
  const type = message.headers['ce_type'];
  const described = describedMessages.find(({ name }) => name === type);
  if (described === undefined) return [`no schema tells of the type ${type}`];
  const { id, topics } = described;
  const at = `/components/messages/${id}`;
  const parts: readonly (readonly [string, string, unknown])[] = [
    ['key', `${at}/bindings/kafka/key`, message.key],
    ['headers', `${at}/headers`, message.headers],
    // As any consumer reads it: big numbers lose digits here, which no schema minds.
    ['value', `${at}/payload/schema`, JSON.parse(message.value)],
  ];
  return [
    ...(topics.includes(message.topic) ? [] : [`${type} is no message of ${message.topic}`]),
    ...parts.flatMap(([part, pointer, data]) => {
      const validate = validators[envelope](pointer);
      if (validate(data)) return [];
      return (validate.errors ?? []).map(
        ({ instancePath, message: text, params }) =>
          `${type} ${part}${instancePath} ${text} ${JSON.stringify(params)}`,
      );
    }),
  ];
}

/**
 * The fields of a message's envelope with the type of each, such as `value.message.offset string`: of what is
 * anybody's, a PDU, the headers of a dead letter, no more than that it is there.
 */
export function fieldsOf(message: BusMessage): readonly string[] {
  const value = JSON.parse(message.value) as JsonObject;
  return [
    ...Object.keys(message.headers).map((name) => `headers.${name} string`),
    ...fieldsIn('value', value),
  ];
}

const anybodys = new Set(['value.pdu', 'value.message.headers']);

function fieldsIn(path: string, object: JsonObject): readonly string[] {
  return Object.entries(object).flatMap(([key, value]) => {
    const here = `${path}.${key}`;
    const own = `${here} ${Array.isArray(value) ? 'array' : typeof value}`;
    return isJsonObject(value) && !anybodys.has(here) ? [own, ...fieldsIn(here, value)] : [own];
  });
}
