import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { isPduFault, parsePdu } from '@exeunt/pdu';
import { roomVersion } from '@exeunt/room-version';
import { parseJson, withKeys, type JsonObject } from '@exeunt/signing';

interface Row {
  readonly id: string;
  readonly roomVersion: string;
  readonly input: {
    readonly event?: JsonObject;
    /** A base event and one member of its content to be made longer than a file should hold. */
    readonly generate?: {
      readonly base: JsonObject & { readonly content: JsonObject };
      readonly 'content.reason': { readonly repeat: string; readonly times: number };
    };
  };
  readonly expected: { readonly accepted: boolean };
}

const { vectors } = parseJson(
  readFileSync(new URL('vectors/event-format.json', import.meta.url), 'utf8'),
) as unknown as { vectors: readonly Row[] };

function eventOf({ event, generate }: Row['input']): JsonObject {
  if (event !== undefined) return event;
  if (generate === undefined) throw new Error('the vector holds no event');
  const { base, 'content.reason': reason } = generate;
  return withKeys(base, { content: withKeys(base.content, { reason: reason.repeat.repeat(reason.times) }) });
}

describe('the shape of a received PDU', () => {
  it.each(vectors)('$id in version $roomVersion', ({ roomVersion: id, input, expected }) => {
    const version = roomVersion(id);
    if (version === undefined) throw new Error(`no room version ${id}`);
    expect(isPduFault(parsePdu(eventOf(input), version))).toBe(!expected.accepted);
  });
});
