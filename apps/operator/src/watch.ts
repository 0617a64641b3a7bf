import { SingleBar } from 'cli-progress';
import type { Destination } from './destination.js';
import { stuckText, styled, type Out } from './destination-text.js';
import { countInWords, pdusInWords } from './in-words.js';

export interface Watch {
  /** How those that are watched stand now. */
  readonly look: () => Promise<readonly Destination[]>;
  readonly out: Out;
  readonly json: boolean;
  readonly everyMs: number;
}

/** How far it has come; `total` grows with what is queued meanwhile. */
interface Progress {
  readonly pending: number;
  readonly delivered: number;
  readonly total: number;
}

const SHOWN_STUCK = 10;

/**
 * Follows a backlog until nothing is left of it, exit code 0, or nothing more moves, 1: all that still have something
 * waiting are parked or wait for a retry. A bar on a terminal; elsewhere, or as JSON, a line a change.
 */
export async function watchBacklog({ look, out, json, everyMs }: Watch): Promise<0 | 1> {
  const show = json ? jsonLines(out) : out.isTTY ? bar(out) : textLines(out);
  let progress: Progress | undefined;
  for (;;) {
    const destinations = (await look()).filter((one) => one.pending > 0);
    const pending = destinations.reduce((sum, one) => sum + one.pending, 0);
    progress = advanced(progress, pending);
    show.progress(progress);
    const stuck = destinations.filter(isStuck);
    if (stuck.length === destinations.length) {
      show.end();
      if (json) out.write(`${JSON.stringify({ result: pending === 0 ? 'empty' : 'stuck', stuck })}\n`);
      else out.write(pending === 0 ? `${styled('green', 'nothing waits', out)}\n` : stuckLines(stuck, out));
      return pending === 0 ? 0 : 1;
    }
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}

function isStuck({ state }: Destination): boolean {
  return state === 'backing-off' || state === 'parked';
}

function advanced(before: Progress | undefined, pending: number): Progress {
  if (before === undefined) return { pending, delivered: 0, total: pending };
  const total = before.total + Math.max(0, pending - before.pending);
  return { pending, total, delivered: total - pending };
}

function stuckLines(stuck: readonly Destination[], out: Out): string {
  const lines = stuck.slice(0, SHOWN_STUCK).map((one) => stuckText(one, Date.now()));
  if (stuck.length > SHOWN_STUCK) lines.push(`and ${countInWords(stuck.length - SHOWN_STUCK)} more`);
  return [styled('red', 'nothing moves', out), ...lines].map((line) => `${line}\n`).join('');
}

interface Show {
  readonly progress: (progress: Progress) => void;
  readonly end: () => void;
}

function bar(out: Out): Show {
  const one = new SingleBar({
    stream: out,
    format: '{bar} {delivered} of {pdus} delivered',
    barsize: Math.min(40, Math.max(10, out.columns - 40)),
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: false,
  });
  let isStarted = false;
  return {
    progress({ delivered, total }) {
      const words = { delivered: countInWords(delivered), pdus: pdusInWords(total) };
      if (!isStarted) one.start(total, delivered, words);
      isStarted = true;
      one.setTotal(total);
      one.update(delivered, words);
    },
    end: () => one.stop(),
  };
}

function textLines(out: Out): Show {
  return changes(({ delivered, total }) => {
    out.write(`${countInWords(delivered)} of ${pdusInWords(total)} delivered\n`);
  });
}

function jsonLines(out: Out): Show {
  return changes((progress) => out.write(`${JSON.stringify(progress)}\n`));
}

function changes(write: (progress: Progress) => void): Show {
  let last = '';
  return {
    progress(progress) {
      const now = JSON.stringify(progress);
      if (now !== last) write(progress);
      last = now;
    },
    end: () => {},
  };
}
