/** Reading takes at most this part of the time. */
const SHARE = 1 / 30;

/**
 * Reads what costs the more the more there is, without ever costing more than a thirtieth of the time: whoever asks
 * gets what was read last, until thirty times as long has passed as that took. Those who ask while it is being read
 * share it; a failure is not kept. `now`: milliseconds.
 */
export function inProportion<Value>(read: () => Promise<Value>, now: () => number): () => Promise<Value> {
  let last: { readonly value: Promise<Value>; until: number } | undefined;
  return () => {
    if (last !== undefined && now() < last.until) return last.value;
    const begun = now();
    const reading = { value: read(), until: Infinity };
    last = reading;
    reading.value.then(
      () => (reading.until = now() + (now() - begun) / SHARE),
      () => (last = undefined),
    );
    return reading.value;
  };
}
