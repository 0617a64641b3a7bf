import { act, destination, destinations, type Destination, type DestinationFilter } from './destination.js';
import { byHurt, destinationTable, detailsText, summary, type Out } from './destination-text.js';
import { countInWords, pdusInWords } from './in-words.js';
import type { OperatorApi } from './operator-api.js';
import { watchBacklog } from './watch.js';

/** Where the answer goes, and whether a program is to read it. */
export interface Printing {
  readonly out: Out;
  readonly json: boolean;
}

export interface Watching {
  readonly watch: boolean;
  /** How often it looks. */
  readonly everyMs: number;
}

/** Lists what the filter takes, what hurts most first; at most `limit` on a table, all as JSON. Gives the exit code. */
export async function listDestinations(
  api: OperatorApi,
  { limit, ...filter }: DestinationFilter & { readonly limit: number },
  { out, json }: Printing,
): Promise<number> {
  const all = await destinations(api, filter);
  all.sort(byHurt);
  if (json) {
    printJson({ destinations: all }, out);
    return 0;
  }
  const shown = all.slice(0, limit);
  if (shown.length > 0) out.write(destinationTable(shown, Date.now(), out));
  out.write(summary(all, shown.length, out));
  return 0;
}

/** Shows everything of one, and then follows its backlog where that is asked for. */
export async function showDestination(
  api: OperatorApi,
  server: string,
  { watch, everyMs }: Watching,
  printing: Printing,
): Promise<number> {
  const { out, json } = printing;
  const details = await destination(api, server);
  if (json && !watch) printJson(details, out);
  if (!json) out.write(detailsText(details, Date.now(), out));
  return watch
    ? watchBacklog({ look: async () => [await destination(api, server)], everyMs, ...printing })
    : 0;
}

/** Has one tried now, and follows its backlog where that is asked for. */
export async function retryDestination(
  api: OperatorApi,
  server: string,
  { watch, everyMs }: Watching,
  printing: Printing,
): Promise<number> {
  const details = await act(api, server, 'retry');
  if (watch)
    return watchBacklog({ look: async () => [await destination(api, server)], everyMs, ...printing });
  printDone(details, `is tried now; ${pdusInWords(details.pending)} pending`, printing);
  return 0;
}

/** So many retries are asked for at the same time. */
const RETRIES = 8;

/** Has all tried now that fail; not those that an operator has parked. */
export async function retryAllFailing(
  api: OperatorApi,
  { watch, everyMs }: Watching,
  printing: Printing,
): Promise<number> {
  const { out, json } = printing;
  const waiting = [
    ...(await destinations(api, { state: 'backing-off' })),
    ...(await destinations(api, { state: 'parked' })),
  ];
  const failing = waiting.filter((one) => one.parked_by !== 'operator').map((one) => one.destination);
  for (let start = 0; start < failing.length; start += RETRIES) {
    await Promise.all(failing.slice(start, start + RETRIES).map((server) => act(api, server, 'retry')));
  }
  if (json && !watch) printJson({ retried: failing }, out);
  if (!json) out.write(`${countInWords(failing.length)} failing, all of them are tried now\n`);
  if (!watch) return 0;
  const watched = new Set(failing);
  const look = async () =>
    (await destinations(api, { pending: true })).filter((one) => watched.has(one.destination));
  return watchBacklog({ look, everyMs, ...printing });
}

/** Has nothing sent to it for now. */
export async function parkDestination(api: OperatorApi, server: string, printing: Printing): Promise<number> {
  const details = await act(api, server, 'park');
  const when =
    details.state === 'sending' ? 'is parked when the transaction under way has ended' : 'is parked';
  printDone(details, `${when}; ${pdusInWords(details.pending)} wait`, printing);
  return 0;
}

/** Ends its parking, by hand or by its failures. */
export async function unparkDestination(
  api: OperatorApi,
  server: string,
  printing: Printing,
): Promise<number> {
  const details = await act(api, server, 'unpark');
  printDone(details, `is not parked; ${pdusInWords(details.pending)} pending`, printing);
  return 0;
}

function printDone(details: Destination, words: string, { out, json }: Printing): void {
  if (json) printJson(details, out);
  else out.write(`${details.destination} ${words}\n`);
}

function printJson(value: unknown, out: Out): void {
  out.write(`${JSON.stringify(value, null, 2)}\n`);
}
