import { styleText } from 'node:util';
import Table from 'cli-table3';
import type { Destination, DestinationDetails } from './destination.js';
import { countInWords, pdusInWords, printable, spanInWords, timeInWords } from './in-words.js';

/** Where text goes. A terminal has a width and, unless NO_COLOR is set, colours. */
export type Out = NodeJS.WriteStream;

type Style = Parameters<typeof styleText>[0];

export function styled(style: Style, text: string, out: Out): string {
  return styleText(style, text, { stream: out });
}

/** Of a terminal alone: what is written to a file or a pipe is not cut. */
function widthOf(out: Out): number | undefined {
  return out.isTTY ? Math.max(out.columns, 60) : undefined;
}

const borderless = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '',
} as const;

const GAP = 2;

interface Column {
  readonly head: string;
  readonly align?: 'right';
  readonly width: number;
}

function tableText(columns: readonly Column[], rows: readonly (readonly string[])[], out: Out): string {
  const heads = columns.map(({ head }) => head).some((head) => head !== '');
  const table = new Table({
    chars: borderless,
    style: { 'padding-left': 0, 'padding-right': GAP, head: [], border: [], compact: true },
    head: heads ? columns.map(({ head }) => styled('bold', head, out)) : [],
    colAligns: columns.map(({ align }) => align ?? 'left'),
    ...(widthOf(out) === undefined ? {} : { colWidths: columns.map(({ width }) => width + GAP) }),
    wordWrap: !heads,
  });
  table.push(...rows.map((row) => [...row]));
  const lines = table.toString().split('\n');
  return lines.map((line) => `${line.trimEnd()}\n`).join('');
}

const kinds = { idle: 'idle', sending: 'sending', 'backing-off': 'backing off', parked: 'parked' } as const;

function stateStyle({ state, parked_by }: Destination): Style {
  if (parked_by === 'operator') return 'magenta';
  return ({ idle: 'dim', sending: 'cyan', 'backing-off': 'yellow', parked: 'red' } as const)[state];
}

function stateWord({ state, parked_by }: Destination): string {
  return parked_by === 'operator' ? 'by hand' : kinds[state];
}

/** Those that something waits for and that fail go first, the longest queues before; then the others, by name. */
export function byHurt(a: Destination, b: Destination): number {
  return rank(a) - rank(b) || b.pending - a.pending || (a.destination < b.destination ? -1 : 1);
}

function rank({ pending, failures, parked_by }: Destination): number {
  if (parked_by !== null || failures > 0) return pending > 0 ? 0 : 1;
  return pending > 0 ? 2 : 3;
}

/** A line a destination, in the order given, as wide as the terminal. */
export function destinationTable(destinations: readonly Destination[], now: number, out: Out): string {
  const width = widthOf(out) ?? Infinity;
  const longest = Math.max(11, ...destinations.map((one) => one.destination.length));
  const isWide = width >= 100;
  const columns: Column[] = [
    { head: 'DESTINATION', width: Math.min(longest, Math.floor(width * 0.3)) },
    { head: 'STATE', width: 11 },
    { head: 'PENDING', align: 'right', width: 9 },
    { head: 'NEXT TRY', width: 9 },
    ...(isWide ? [{ head: 'FAILING FOR', width: 11 }] : []),
  ];
  const used = columns.reduce((sum, column) => sum + column.width + GAP, 0);
  const left = width - used - GAP;
  const hasErrors = left >= 10;
  if (hasErrors) columns.push({ head: 'LAST ERROR', width: left });
  const rows = destinations.map((one) => [
    one.destination,
    styled(stateStyle(one), stateWord(one), out),
    countInWords(one.pending),
    one.retry_at === null ? '' : timeInWords(Math.max(one.retry_at, now), now),
    ...(isWide ? [one.failing_since === null ? '' : spanInWords(now - one.failing_since)] : []),
    ...(hasErrors ? [one.failures === 0 ? '' : printable(one.last_error ?? '')] : []),
  ]);
  return tableText(columns, rows, out);
}

/** What the list comes to: how many there are of each kind, and what waits for all of them. */
export function summary(destinations: readonly Destination[], shown: number, out: Out): string {
  const counts = (['parked', 'backing-off', 'sending', 'idle'] as const).flatMap((state) => {
    const count = destinations.filter((one) => one.state === state).length;
    return count === 0 ? [] : [`${countInWords(count)} ${kinds[state]}`];
  });
  const pending = destinations.reduce((sum, one) => sum + one.pending, 0);
  const all = destinations.length;
  const many = `${countInWords(all)} ${all === 1 ? 'destination' : 'destinations'}`;
  const lines = [`${[many, ...counts].join(', ')}; ${pdusInWords(pending)} pending`];
  if (shown < all) lines.push(`and ${countInWords(all - shown)} more: --limit ${all} shows all`);
  return lines.map((line) => `${styled('dim', line, out)}\n`).join('');
}

const SHOWN = 5;

/** Everything about one destination, for reading. */
export function detailsText(details: DestinationDetails, now: number, out: Out): string {
  const at = (time: number) =>
    `${timeInWords(time, now)} (${new Date(time).toISOString().replace(/\.\d+Z$/, 'Z')})`;
  const rows: string[][] = [['state', styled(stateStyle(details), standing(details, now), out)]];
  if (details.failing_since !== null) {
    rows.push([
      'failing',
      `${countInWords(details.failures)} in a row, the first ${at(details.failing_since)}`,
    ]);
  }
  const oldest =
    details.oldest_accepted_at === null ? '' : `, the oldest accepted ${at(details.oldest_accepted_at)}`;
  rows.push(['pending', `${pdusInWords(details.pending)}${oldest}`]);
  rows.push(['last success', details.last_success_at === null ? 'never' : at(details.last_success_at)]);
  if (details.last_error !== null) rows.push(['last error', printable(details.last_error)]);
  if (details.transaction !== null) {
    const { txn_id, frozen_at, pdus } = details.transaction;
    rows.push(['transaction', `${printable(txn_id)}: ${pdusInWords(pdus.length)}, frozen ${at(frozen_at)}`]);
    for (const { room_id, event_id } of pdus.slice(0, SHOWN))
      rows.push(['', printable(`${event_id} in ${room_id}`)]);
    if (pdus.length > SHOWN) rows.push(['', `and ${countInWords(pdus.length - SHOWN)} more`]);
  }
  details.pdu_errors.slice(0, SHOWN).forEach(({ room_id, event_id, error, answered_at }, index) => {
    rows.push([
      index === 0 ? 'not taken' : '',
      `${printable(`${event_id} in ${room_id}`)}, ${at(answered_at)}`,
    ]);
    rows.push(['', styled('yellow', printable(error), out)]);
  });
  const more = details.pdu_errors.length - SHOWN;
  if (more > 0) rows.push(['', `and ${countInWords(more)} more: --json gives them`]);
  const columns = [
    { head: '', width: 12 },
    { head: '', width: (widthOf(out) ?? Infinity) - 12 - 2 * GAP },
  ];
  return `${styled('bold', details.destination, out)}\n${tableText(columns, rows, out)}`;
}

/** What it does, and until when. */
function standing({ state, parked_by, parked_at, retry_at, in_flight }: Destination, now: number): string {
  if (parked_by === 'operator') {
    const parked = `parked by hand${parked_at === null ? '' : ` ${timeInWords(parked_at, now)}`}`;
    return state === 'sending'
      ? `${parked}, when the transaction under way has ended`
      : `${parked}; nothing is sent until it is unparked or retried, or makes contact`;
  }
  const next = retry_at === null ? 'now' : timeInWords(Math.max(retry_at, now), now);
  switch (state) {
    case 'idle':
      return 'idle';
    case 'sending':
      return `sending: a transaction of ${pdusInWords(in_flight)} is under way`;
    case 'backing-off':
      return `backing off: tried again ${next}`;
    case 'parked':
      return `parked, for it has failed for days: probed ${next}`;
    default:
      return state satisfies never;
  }
}

/** Why nothing moves, in a line. */
export function stuckText(one: Destination, now: number): string {
  const why = one.last_error === null || one.failures === 0 ? '' : `; ${printable(one.last_error)}`;
  return `${one.destination}: ${standing(one, now)}${why}`;
}
