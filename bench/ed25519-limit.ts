import { randomBytes } from 'node:crypto';
import { selectEd25519 } from '@exeunt/signing';

/** Bytes of a signed send_leave request and of a redacted leave, roughly; what is hashed costs next to nothing. */
const messageBytes = [1_000, 600];

/**
 * How many times a second one core can check the two signatures of a send_leave, and do nothing else. The best of
 * several short windows, so that a busy machine doesn't lower what others are measured against.
 */
export function signaturePairsPerSecond(windows = 10, windowMs = 100): number {
  const ed = selectEd25519();
  const checks = messageBytes.map((bytes) => {
    const seed = randomBytes(32);
    const message = randomBytes(bytes);
    return { key: ed.publicKeyOf(seed), message, signature: ed.sign(seed, message) };
  });
  const pair = (): boolean => checks.every((one) => ed.verify(one.key, one.message, one.signature));
  let best = 0;
  for (let window = 0; window < windows; window++) {
    const start = performance.now();
    let pairs = 0;
    let elapsed = 0;
    for (; elapsed < windowMs; elapsed = performance.now() - start) {
      for (let at = 0; at < 20; at++) if (!pair()) throw new Error('a good signature does not verify');
      pairs += 20;
    }
    best = Math.max(best, (pairs / elapsed) * 1000);
  }
  return best;
}
