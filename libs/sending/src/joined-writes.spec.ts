import { DatabaseUnavailable } from '@exeunt/database';
import { describe, expect, it } from 'vitest';
import { JoinedWrites } from './joined-writes.js';

/** Writes that end when told to. */
function scripted(most = 100) {
  const written: (readonly number[])[] = [];
  const ends: ((cause?: Error) => void)[] = [];
  const begun: (() => void)[] = [];
  const writes = new JoinedWrites<number>((items) => {
    written.push(items);
    begun.shift()?.();
    return new Promise((resolve, reject) => {
      ends.push((cause) => (cause === undefined ? resolve() : reject(cause)));
    });
  }, most);
  return {
    writes,
    written,
    /** Resolves when the next write begins. */
    next: () => new Promise<void>((resolve) => begun.push(resolve)),
    end: (cause?: Error) => ends.shift()?.(cause),
  };
}

describe('writes that come', () => {
  it('while one is under way are the next one, in their order', async () => {
    const { writes, written, next, end } = scripted();
    let begins = next();
    const first = writes.add(1);
    await begins;
    const others = [2, 3, 4].map((item) => writes.add(item));
    begins = next();
    end();
    await first;
    await begins;
    end();
    await Promise.all(others);
    expect(written).toEqual([[1], [2, 3, 4]]);
  });

  it('together are one, as far as they fit', async () => {
    const { writes, written, next, end } = scripted(2);
    let begins = next();
    const all = [1, 2, 3].map((item) => writes.add(item));
    await begins;
    begins = next();
    end();
    await begins;
    end();
    await Promise.all(all);
    expect(written).toEqual([[1, 2], [3]]);
  });
});

describe('a write that fails', () => {
  it('for want of the database fails for all that were part of it, and not for those that come after', async () => {
    const { writes, written, next, end } = scripted();
    let begins = next();
    const all = [1, 2].map((item) => writes.add(item));
    await begins;
    end(new DatabaseUnavailable(new Error('gone')));
    await expect(all[0]).rejects.toThrow('gone');
    await expect(all[1]).rejects.toThrow('gone');
    begins = next();
    const again = writes.add(1);
    await begins;
    end();
    await again;
    expect(written).toEqual([[1, 2], [1]]);
  });

  it('for one item fails for that item alone', async () => {
    const tried: (readonly number[])[] = [];
    const writes = new JoinedWrites<number>(async (items) => {
      tried.push(items);
      if (items.includes(2)) throw new Error('2 cannot be written');
    }, 100);
    const [one, two, three] = [1, 2, 3].map((item) => writes.add(item));
    await one;
    await expect(two).rejects.toThrow('2 cannot be written');
    await three;
    expect(tried).toEqual([[1, 2, 3], [1], [2], [3]]);
  });
});
