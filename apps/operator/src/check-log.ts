import { styleText } from 'node:util';
import type { OperatorApi } from './operator-api.js';

interface Check {
  readonly room_id: string;
  readonly position: number;
  readonly entries: number;
  readonly agrees: boolean;
  readonly differences: readonly string[];
}

interface Page {
  readonly rooms: readonly { readonly room_id: string }[];
  readonly next?: string;
}

/** Checks the named rooms, or all; a line a room. Gives the exit code: 0 where every log agrees with its state. */
export async function checkLogs(
  api: OperatorApi,
  rooms: readonly string[],
  out: NodeJS.WriteStream,
): Promise<number> {
  let checked = 0;
  let differing = 0;
  for await (const roomId of rooms.length > 0 ? rooms : allRooms(api)) {
    const check = await api.call<Check>('POST', `/v1/rooms/${encodeURIComponent(roomId)}/replay-check`);
    checked++;
    if (!check.agrees) differing++;
    const mark = check.agrees
      ? styleText('green', 'agrees', { stream: out })
      : styleText('red', 'DIFFERS', { stream: out });
    out.write(`${mark}  ${roomId}  ${check.position} events, ${check.entries} state entries\n`);
    for (const difference of check.differences) out.write(`         ${difference}\n`);
  }
  out.write(`${checked} ${checked === 1 ? 'room' : 'rooms'} checked, ${differing} differ\n`);
  return differing === 0 ? 0 : 1;
}

async function* allRooms(api: OperatorApi): AsyncGenerator<string> {
  let from = '';
  for (;;) {
    const page = await api.call<Page>('GET', `/v1/rooms?limit=1000${from}`);
    for (const { room_id } of page.rooms) yield room_id;
    if (page.next === undefined) return;
    from = `&from=${encodeURIComponent(page.next)}`;
  }
}
