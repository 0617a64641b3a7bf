import { describe, expect, it } from 'vitest';
import type { Pdu, UserId } from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { parseJson, type JsonObject } from '@exeunt/signing';
import { comparePower, PowerLevels, readLevel } from './power-levels.js';

const version = (id: string): RoomVersion => roomVersion(id)!;

describe('a power level value', () => {
  it.each<[json: string, v5: bigint | undefined, v9: bigint | undefined, v10: bigint | undefined]>([
    ['50', 50n, 50n, 50n],
    ['-7', -7n, -7n, -7n],
    ['"50"', 50n, 50n, undefined],
    ['" +00100 "', 100n, 100n, undefined],
    ['"\\t-3\\n"', -3n, -3n, undefined],
    ['"9007199254740993"', 9007199254740993n, 9007199254740993n, undefined],
    ['50.57', 50n, undefined, undefined],
    ['-50.57', -50n, undefined, undefined],
    ['5.114698E4', 51146n, undefined, undefined],
    ['0.00012e6', 120n, undefined, undefined],
    ['1e2', 100n, undefined, undefined],
    ['12345e-3', 12n, undefined, undefined],
    ['1e-999999999', 0n, undefined, undefined],
    ['0e999999999', 0n, undefined, undefined],
    ['-0', 0n, undefined, undefined],
    ['9007199254740993', 9007199254740993n, undefined, undefined],
    ['1e308', 10n ** 308n, undefined, undefined],
    ['1e309', undefined, undefined, undefined],
    ['"50.5"', undefined, undefined, undefined],
    ['"1e2"', undefined, undefined, undefined],
    ['"0x10"', undefined, undefined, undefined],
    ['"+-1"', undefined, undefined, undefined],
    ['""', undefined, undefined, undefined],
    ['"NaN"', undefined, undefined, undefined],
    ['null', undefined, undefined, undefined],
    ['true', undefined, undefined, undefined],
    ['[1]', undefined, undefined, undefined],
    ['{}', undefined, undefined, undefined],
  ])('%s reads as %s in version 5, %s in version 9, %s in version 10', (json, v5, v9, v10) => {
    const value = parseJson(json);
    expect(readLevel(value, version('5'))).toBe(v5);
    expect(readLevel(value, version('9'))).toBe(v9);
    expect(readLevel(value, version('10'))).toBe(v10);
  });
});

function create(content: JsonObject): Pdu {
  return { sender: '@alice:a' as UserId, content } as Pdu;
}

describe('the power of a user', () => {
  it('is 100 for the creator and 0 for others without an event, until version 11', () => {
    const v10 = new PowerLevels(version('10'), { event: undefined, create: create({ creator: '@bob:b' }) });
    expect([v10.powerOf('@alice:a'), v10.powerOf('@bob:b')]).toEqual([0n, 100n]);
    const v11 = new PowerLevels(version('11'), { event: undefined, create: create({ creator: '@bob:b' }) });
    expect([v11.powerOf('@alice:a'), v11.powerOf('@bob:b')]).toEqual([100n, 0n]);
  });

  it('is infinite for creators since version 12, whatever the event says', () => {
    const event = { content: { users: { '@alice:a': 0, '@carol:c': 9007199254740991 } } } as unknown as Pdu;
    const levels = new PowerLevels(version('12'), {
      event,
      create: create({ additional_creators: ['@bob:b'] }),
    });
    expect(levels.powerOf('@alice:a')).toBe('infinite');
    expect(levels.powerOf('@bob:b')).toBe('infinite');
    expect(comparePower(levels.powerOf('@alice:a'), levels.powerOf('@bob:b'))).toBe(0);
    expect(comparePower(levels.powerOf('@alice:a'), levels.powerOf('@carol:c'))).toBe(1);
  });

  it('is not taken from a prototype', () => {
    const content = parseJson('{"users": {"__proto__": 100}, "events": {}}') as JsonObject;
    const levels = new PowerLevels(version('11'), { event: { content } as Pdu, create: create({}) });
    expect(levels.powerOf('__proto__')).toBe(100n);
    expect(levels.powerOf('constructor')).toBe(0n);
    expect(levels.requiredFor('toString', false)).toBe(0n);
    expect(levels.requiredFor('hasOwnProperty', true)).toBe(50n);
  });

  it('takes a value that is no level for missing', () => {
    const content = { users: { '@bob:b': [] }, users_default: 7, ban: {}, events: 'x' };
    const levels = new PowerLevels(version('6'), {
      event: { content } as unknown as Pdu,
      create: create({}),
    });
    expect(levels.powerOf('@bob:b')).toBe(7n);
    expect(levels.level('ban')).toBe(50n);
    expect(levels.requiredFor('x', true)).toBe(50n);
  });
});
