import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { orderSrvRecords, type SrvRecord } from './srv-order.js';

const record = (name: string, priority: number, weight: number): SrvRecord => ({
  name,
  port: 1,
  priority,
  weight,
});

describe('the order of SRV records', () => {
  it('is by priority first, whatever is drawn', () => {
    const records = [record('c', 20, 65_535), record('a', 1, 0), record('b', 10, 1)];
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (drawn) => {
        expect(orderSrvRecords(records, () => drawn).map(({ name }) => name)).toEqual(['a', 'b', 'c']);
      }),
    );
  });

  it('is a permutation of the records', () => {
    const anyRecord = fc.record({
      name: fc.string(),
      port: fc.nat(65_535),
      priority: fc.nat(3),
      weight: fc.nat(65_535),
    });
    fc.assert(
      fc.property(fc.array(anyRecord), fc.infiniteStream(fc.nat(999)), (records, draws) => {
        const ordered = orderSrvRecords(records, () => Number(draws.next().value) / 1000);
        expect(ordered).toHaveLength(records.length);
        expect(new Set(ordered)).toEqual(new Set(records));
      }),
    );
  });

  it('gives each record of a priority its share by weight', () => {
    const records = [record('one', 0, 1), record('three', 0, 3)];
    const rounds = 1000;
    const first = Array.from(
      { length: rounds },
      (_, round) => orderSrvRecords(records, () => round / rounds)[0],
    );
    const share = first.filter((each) => each?.name === 'three').length / rounds;
    // RFC 2782 draws 0 to 4 inclusive, and 0 falls to the first.
    expect(share).toBeCloseTo(3 / 5, 2);
  });

  it('draws a record of weight 0 first only by the least of chances', () => {
    const records = [record('heavy', 0, 100), record('none', 0, 0)];
    expect(orderSrvRecords(records, () => 0)[0]?.name).toBe('none');
    expect(orderSrvRecords(records, () => 0.01)[0]?.name).toBe('heavy');
    expect(orderSrvRecords(records, () => 0.999)[0]?.name).toBe('heavy');
  });
});
