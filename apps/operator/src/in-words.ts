const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** A span of time in its largest unit: `42 s`, `3 min`, `5 h`, `12 d`. What is below a second is `0 s`. */
export function spanInWords(ms: number): string {
  if (ms < minute) return `${Math.floor(ms / second)} s`;
  if (ms < hour) return `${Math.floor(ms / minute)} min`;
  if (ms < 2 * day) return `${Math.floor(ms / hour)} h`;
  return `${Math.floor(ms / day)} d`;
}

/** A time (ms since the epoch) as seen from now: `in 3 min`, `5 h ago`, or `now` within a second. */
export function timeInWords(at: number, now: number): string {
  // One that is due and that nobody has taken yet is no later than a second.
  if (Math.abs(at - now) < second) return 'now';
  return at > now ? `in ${spanInWords(at - now)}` : `${spanInWords(now - at)} ago`;
}

/** `12,345` */
export function countInWords(count: number): string {
  return count.toLocaleString('en-US');
}

/** `1 PDU`, `12,345 PDUs` */
export function pdusInWords(count: number): string {
  return `${countInWords(count)} ${count === 1 ? 'PDU' : 'PDUs'}`;
}

/** Another server's words, fit for a terminal: nothing in them moves the cursor, rings, or turns text round. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}|\p{Cf}|\p{Zl}|\p{Zp}/gu, '\ufffd');
}
