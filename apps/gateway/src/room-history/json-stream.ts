import { Readable } from 'node:stream';
import { StreamableFile } from '@nestjs/common';

/** Pages of JSON texts as the text of one JSON list, a chunk a page. */
export async function* jsonList(pages: AsyncIterable<readonly string[]>): AsyncGenerator<string> {
  let before = '[';
  for await (const page of pages) {
    if (page.length === 0) continue;
    yield before + page.join(',');
    before = ',';
  }
  yield before === '[' ? '[]' : ']';
}

/** Whoever has not taken an answer by then gets no more of it, slow or not. */
const deadlineMs = 15 * 60_000;

/**
 * Chunks of JSON text as an answer of any length, read as fast as the other side takes it. Resolves when the first
 * chunk is there, so that what fails at once is still told as an error; what fails later cuts the answer off.
 */
export async function jsonStream(chunks: AsyncGenerator<string>): Promise<StreamableFile> {
  const first = await chunks.next();
  const all = async function* (): AsyncGenerator<string> {
    try {
      if (first.done === true) return;
      yield first.value;
      yield* chunks;
    } finally {
      await chunks.return(undefined);
    }
  };
  const stream = Readable.from(all(), { objectMode: false });
  const giveUp = () => stream.destroy(new Error('the answer was not taken in time'));
  const deadline = setTimeout(giveUp, deadlineMs).unref();
  stream.once('close', () => clearTimeout(deadline));
  return new StreamableFile(stream, { type: 'application/json' });
}
