import { readdirSync, readFileSync } from 'node:fs';
import { schemas as asyncapiSchemas } from '@asyncapi/specs';
import { Ajv, type AnySchemaObject } from 'ajv';
import addFormats from 'ajv-formats';
import { describe, expect, it } from 'vitest';
import {
  KAFKA_PARTITIONS,
  KAFKA_RETENTION_MS,
  OUTBOUND_PDUS_TOPIC,
  TOPICS,
  type BusMessage,
} from '@exeunt/message-bus';
import { readOutboundPdu, SENDER_GROUP } from '@exeunt/sending';
import { isJsonObject, JsonNumber, parseJson, type JsonObject } from '@exeunt/signing';
import { readImport } from '../../apps/gateway/src/rooms/import-room.command.js';
import {
  asyncapi,
  busDocs,
  describedMessages,
  faultsOf,
  fieldsOf,
  inDocument,
  schemaFiles,
} from '../harness/bus-schemas.js';
import {
  deadLetters,
  handedOverMessages,
  publishedMessages,
  storedIn,
  storedMessages,
} from '../harness/published-messages.js';

/*
 * docs/bus: the messages as a contract. What is published today is as the contract says, what was published once still
 * is, and today's consumers read it.
 */

const published = await publishedMessages();
const handedOver = handedOverMessages();
const today = [...published, ...handedOver];
const typeOf = (message: BusMessage) => message.headers['ce_type'] ?? '';
const ofType = (messages: readonly BusMessage[], type: string) =>
  messages.filter((message) => typeOf(message) === type);

/** Schemas of messages; the other files are what these share. */
const types = [...schemaFiles.keys()].filter((name) => name.startsWith('exeunt.'));
const requiredOf = (type: string) => schemaFiles.get(type)?.['required'] as readonly string[];
const propertiesOf = (type: string) => Object.keys(schemaFiles.get(type)?.['properties'] as object);

const stored = storedMessages();

const withValue = (message: BusMessage, change: (value: Record<string, unknown>) => object): BusMessage => ({
  ...message,
  value: JSON.stringify(change(JSON.parse(message.value) as Record<string, unknown>)),
});
const without = (message: BusMessage, field: string): BusMessage =>
  withValue(message, ({ [field]: _gone, ...rest }) => rest);

/** Every type of message that the sources name, by the form of its name; topics.ts names topics. */
function typesInSources(): ReadonlySet<string> {
  const root = new URL('../../', import.meta.url);
  const sources = ['libs/', 'apps/'].flatMap((folder) =>
    readdirSync(new URL(folder, root), { recursive: true, encoding: 'utf8' })
      .filter((path) => /(?<!\.spec|\.fixture|\/topics)\.ts$/.test(path))
      .map((path) => readFileSync(new URL(`${folder}${path}`, root), 'utf8')),
  );
  const names = sources.flatMap((source) =>
    [...source.matchAll(/'(exeunt\.[a-z-]+\.v\d+)'/g)].map(([, name]) => name ?? ''),
  );
  return new Set(names);
}

describe('a type of message', () => {
  it('that the service names has a schema, and each schema is of one that is published or handed over', () => {
    const named = [...typesInSources(), ...handedOver.map(typeOf)];
    expect([...types].sort()).toEqual([...new Set(named)].sort());
    expect(new Set(today.map(typeOf))).toEqual(new Set(types));
  });

  it('has one message in the AsyncAPI document, on one topic', () => {
    expect(describedMessages.map(({ name }) => name).sort()).toEqual([...types].sort());
    for (const { name, topics } of describedMessages) expect(topics, name).toHaveLength(1);
  });
});

describe.each(types)('a message of type %s', (type) => {
  const messages = ofType(today, type);

  it('is as the contract says, with no field that it does not tell of', () => {
    for (const message of messages) expect(faultsOf(message)).toEqual([]);
  });

  it('has each field that the contract tells of, in one form or another', () => {
    const seen = new Set(messages.flatMap((message) => Object.keys(JSON.parse(message.value) as object)));
    expect(propertiesOf(type).filter((field) => !seen.has(field))).toEqual([]);
  });

  it('may hold fields that nobody knows yet', () => {
    const more = withValue(messages[0]!, (value) => ({ ...value, from_the_future: { a: 1 } }));
    expect(faultsOf(more, 'open')).toEqual([]);
    expect(faultsOf(more)).toHaveLength(1);
    const headers = { ...more.headers, ce_future: 'x' };
    expect(faultsOf({ ...more, headers }, 'open')).toEqual([]);
  });

  it.each(requiredOf(type))('is none without %s', (field) => {
    expect(faultsOf(without(messages[0]!, field), 'open')).not.toEqual([]);
  });

  it('is none where a field is of another kind', () => {
    for (const field of propertiesOf(type)) {
      const one = messages.find((message) => field in (JSON.parse(message.value) as object))!;
      const odd = withValue(one, (value) => ({ ...value, [field]: true }));
      expect(faultsOf(odd, 'open'), field).not.toEqual([]);
    }
  });

  it.each(['ce_specversion', 'ce_id', 'ce_source', 'ce_type', 'ce_time', 'content-type'])(
    'is none without the header %s',
    (name) => {
      const { [name]: _gone, ...headers } = messages[0]!.headers;
      expect(faultsOf({ ...messages[0]!, headers }, 'open')).not.toEqual([]);
    },
  );

  it('is none on another topic', () => {
    const elsewhere = TOPICS.find((topic) => topic !== messages[0]!.topic)!;
    expect(faultsOf({ ...messages[0]!, topic: elsewhere }, 'open')).not.toEqual([]);
  });
});

describe('the PDU in a message', () => {
  const pdus = published.flatMap((message) => {
    const value = parseJson(message.value) as JsonObject;
    return isJsonObject(value['pdu']) ? [{ pdu: value['pdu'], version: value['room_version'] }] : [];
  });

  it.each(['1', '4', '5'])('of version %s may have a depth that no double holds', (version) => {
    const depths = pdus.filter((one) => one.version === version).map(({ pdu }) => pdu['depth']);
    expect(depths).toContainEqual(new JsonNumber('9223372036854775807'));
  });

  it('has no room ID where it founds a room of version 12', () => {
    const founding = pdus.filter(({ pdu, version }) => version === '12' && pdu['type'] === 'm.room.create');
    expect(founding).not.toEqual([]);
    for (const { pdu } of founding) expect(pdu).not.toHaveProperty('room_id');
  });
});

describe('the destinations of a large room', () => {
  it('are spread over messages that the contract describes, more than one of a bucket', () => {
    const keys = ofType(published, 'exeunt.outbound-pdu.v1').map(
      ({ key, headers }) => `${headers['ce_subject']} ${key}`,
    );
    expect(new Set(keys).size).toBeLessThan(keys.length);
  });
});

describe('W3C trace context', () => {
  it.each([
    ['00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', true],
    ['01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what.comes', true],
    ['0af7651916cd43dd8448eb211c80319c', false],
    ['', false],
  ])('%j may be with a message: %s', (traceparent, isValid) => {
    const message = published[0]!;
    const faults = faultsOf({ ...message, headers: { ...message.headers, ce_traceparent: traceparent } });
    expect(faults.length === 0).toBe(isValid);
  });
});

describe('a stored message', () => {
  it('is there of each type, of no other', () => {
    expect([...new Set(stored.map(typeOf))].sort()).toEqual([...types].sort());
    const files = readdirSync(storedIn).map((file) => file.replace(/\.json$/, ''));
    expect(files.sort()).toEqual([...types].sort());
  });

  it.each(types)('of type %s is as the contract says to this day', (type) => {
    for (const message of ofType(stored, type)) expect(faultsOf(message, 'open')).toEqual([]);
  });

  it.each(types)('of type %s has no field that is not published any more, or is of another kind', (type) => {
    const fields = new Set(ofType(today, type).flatMap(fieldsOf));
    const gone = ofType(stored, type).flatMap((message) =>
      fieldsOf(message).filter((field) => !fields.has(field)),
    );
    expect([...new Set(gone)]).toEqual([]);
  });

  it.each(types)('of type %s has no field that the contract does not tell of any more', (type) => {
    for (const message of ofType(stored, type)) expect(faultsOf(message)).toEqual([]);
  });

  // So that whoever removes a field, or makes one required, fails above.
  it.each(types)('of type %s is there with each field, and without each that may be missing', (type) => {
    const fields = (messages: readonly BusMessage[]) =>
      messages.map((message) => Object.keys(JSON.parse(message.value) as object));
    const kept = fields(ofType(stored, type));
    const missing = propertiesOf(type).filter((field) => !kept.some((one) => one.includes(field)));
    const example = ofType(today, type).find((message) =>
      missing.some((field) => field in JSON.parse(message.value)),
    );
    expect(example, `store this one: it is the first with ${missing.join(', ')}`).toBeUndefined();
    expect(missing).toEqual([]);
    const optional = propertiesOf(type).filter((field) => !requiredOf(type).includes(field));
    expect(optional.filter((field) => kept.every((one) => one.includes(field)))).toEqual([]);
  });
});

describe('a consumer of today', () => {
  it('reads stored outbound PDUs', () => {
    for (const message of ofType(stored, 'exeunt.outbound-pdu.v1')) {
      const value = parseJson(message.value) as JsonObject;
      expect(readOutboundPdu(message)).toMatchObject({
        id: message.headers['ce_id'],
        roomId: value['room_id'],
        eventId: value['event_id'],
        destinations: value['destinations'],
      });
    }
  });

  it('reads outbound PDUs that have no more than what is required, or fields that nobody knows yet', () => {
    const type = 'exeunt.outbound-pdu.v1';
    const required = requiredOf(type);
    for (const message of ofType(stored, type)) {
      const least = withValue(message, (value) =>
        Object.fromEntries(Object.entries(value).filter(([field]) => required.includes(field))),
      );
      const more = withValue(message, (value) => ({ ...value, from_the_future: 1 }));
      for (const one of [least, more]) expect(readOutboundPdu(one)).not.toHaveProperty('unreadable');
    }
  });

  it('reads stored rooms that were handed over', () => {
    const kinds = ofType(stored, 'exeunt.ingest-room.v1').map(
      ({ value }) => readImport(parseJson(value) as JsonObject).content.kind,
    );
    expect(new Set(kinds)).toEqual(new Set(['graph', 'snapshot']));
  });

  it('finds in a stored dead letter the message as it came', () => {
    const came = ofType(stored, 'exeunt.dead-letter.v1').map(
      ({ value }) => (JSON.parse(value) as { message: BusMessage }).message,
    );
    for (const message of came) expect(message.topic).toBe(OUTBOUND_PDUS_TOPIC);
    expect(came.map(({ value }) => value)).toContain('no JSON \0');
  });
});

describe('a dead letter', () => {
  it('is of a message that no schema has to fit', async () => {
    const [first] = await deadLetters();
    const { message } = JSON.parse(first!.value) as { message: BusMessage };
    expect(faultsOf(message)).not.toEqual([]);
    expect(faultsOf(first!)).toEqual([]);
  });
});

/** Every `$ref` in a document, with where it stands. */
function refsIn(value: unknown, path: string): readonly (readonly [path: string, ref: string])[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, member]) =>
    key === '$ref' && typeof member === 'string'
      ? [[path, member] as const]
      : refsIn(member, `${path}/${key}`),
  );
}

/** Whether a reference from a file leads anywhere. */
function leadsSomewhere(from: URL, ref: string): boolean {
  const target = new URL(ref, from);
  const [, name] = /\/schemas\/([^/]+)\.json$/.exec(target.pathname) ?? [];
  let value: unknown = name === undefined ? asyncapi : schemaFiles.get(name);
  for (const part of target.hash.split('/').slice(1)) {
    const key = decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
    value = typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined;
  }
  return value !== undefined;
}

describe('the AsyncAPI document', () => {
  it('is one of AsyncAPI 3.0', () => {
    // It brings JSON Schema's own schema along.
    const ajv = new Ajv({ strict: false, allErrors: true, meta: false, validateSchema: false });
    addFormats.default(ajv);
    const validate = ajv.compile(asyncapiSchemas['3.0.0'] as AnySchemaObject);
    validate(asyncapi);
    expect(validate.errors ?? []).toEqual([]);
    validate({ ...asyncapi, channels: { odd: { adress: 'x' } } });
    expect(validate.errors ?? []).not.toEqual([]);
  });

  it('and its schemas have no reference that leads nowhere', () => {
    const files = [...schemaFiles].map(
      ([name, schema]) => [new URL(`schemas/${name}.json`, busDocs), schema] as const,
    );
    const document = new URL('asyncapi.yaml', busDocs);
    const refs = [[document, asyncapi] as const, ...files].flatMap(([from, content]) =>
      refsIn(content, from.pathname).map(([path, ref]) => ({ from, path, ref })),
    );
    expect(refs.length).toBeGreaterThan(50);
    expect(refs.filter(({ from, ref }) => !leadsSomewhere(from, ref))).toEqual([]);
    expect(leadsSomewhere(document, '#/channels/odd')).toBe(false);
  });

  it('uses each schema for the message of its name', () => {
    for (const { id, name } of describedMessages) {
      const payload = inDocument('components', 'messages', id, 'payload', 'schema');
      expect(payload).toEqual({ $ref: `./schemas/${name}.json` });
    }
    for (const schema of schemaFiles.values()) {
      expect(schema['$schema']).toBe('http://json-schema.org/draft-07/schema#');
    }
  });

  it('has the topics as they are made on Kafka', () => {
    const channels = Object.keys(inDocument('channels')).map((id) => {
      const { topic, partitions, topicConfiguration } = inDocument('channels', id, 'bindings', 'kafka');
      expect(topic).toBe(inDocument('channels', id)['address']);
      return { topic, partitions, topicConfiguration };
    });
    expect(channels).toEqual(
      TOPICS.map((topic) => ({
        topic,
        partitions: KAFKA_PARTITIONS[topic],
        topicConfiguration: { 'retention.ms': KAFKA_RETENTION_MS },
      })),
    );
  });

  it('says who sends and who receives, on each topic', () => {
    const operations = Object.keys(inDocument('operations')).map((id) => inDocument('operations', id));
    const used = operations.map(({ channel }) => (channel as { $ref: string }).$ref);
    expect(new Set(used)).toEqual(
      new Set(Object.keys(inDocument('channels')).map((id) => `#/channels/${id}`)),
    );
    const groups = inDocument('operations', 'takeOutboundPdus', 'bindings', 'kafka', 'groupId');
    expect(groups['enum']).toEqual([SENDER_GROUP]);
  });
});
