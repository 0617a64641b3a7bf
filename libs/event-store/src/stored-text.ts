/**
 * A string as a PostgreSQL `text` value: U+0000 and halves of surrogate pairs, which `text` can't hold, are written
 * with U+0001 as the escape. Different strings stay different, and strings without halves of pairs keep their order
 * by code point. Nearly every string comes back as it is.
 */
export function toStoredText(text: string): string {
  if (!/[\u0000\u0001]/.test(text) && text.isWellFormed()) return text;
  return text.replace(special, (unit) => {
    const code = unit.charCodeAt(0);
    if (code <= 1) return code === 0 ? '\u0001\u0001' : '\u0001\u0002';
    return `\u0001\u0003${String.fromCharCode(code - 0xd800 + 0xe000)}`;
  });
}

/** What {@link toStoredText} was given. */
export function fromStoredText(stored: string): string {
  if (!stored.includes('\u0001')) return stored;
  return stored.replace(escaped, (_, kind: string, half: string | undefined) => {
    if (half !== undefined) return String.fromCharCode(half.charCodeAt(0) - 0xe000 + 0xd800);
    return kind === '\u0001' ? '\u0000' : '\u0001';
  });
}

/** Whether `a` comes before, with or after `b` in the order of `COLLATE "C"` over stored text: by code point. */
export function compareStoredText(a: string, b: string): number {
  return a === b ? 0 : Buffer.compare(Buffer.from(toStoredText(a)), Buffer.from(toStoredText(b)));
}

// In unicode mode a surrogate in a class matches only where it stands alone.
const special = /[\u0000\u0001\ud800-\udfff]/gu;
const escaped = /\u0001(?:([\u0001\u0002])|\u0003([\ue000-\ue7ff]))/g;
