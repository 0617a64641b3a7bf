/** Marks a text that is stored as a JSON string. */
const MARK = '\u0001';

/**
 * The text in a form that PostgreSQL's `text` can hold: it takes no NUL, and half a surrogate pair would come back
 * as U+FFFD. Almost every text is stored as it is.
 */
export function toStoredText(text: string): string {
  const asIs = !text.includes('\0') && !text.startsWith(MARK) && text.isWellFormed();
  if (asIs) return text;
  return MARK + JSON.stringify(text);
}

/** What {@link toStoredText} was given. */
export function fromStoredText(stored: string): string {
  return stored.startsWith(MARK) ? (JSON.parse(stored.slice(1)) as string) : stored;
}
