import { styleText } from 'node:util';
import { isJsonObject, type JsonObject, type JsonValue } from '@exeunt/signing';
import { acceptInvites, makeLeave, sendLeave, signTemplate } from '../../../test/harness/leaving-user.js';
import { startLeaveServer } from '../../../test/harness/leave-server.js';
import { startRemoteServer } from '../../../test/harness/remote-server.js';
import { RoomBuilder } from '../../../test/harness/room-builder.js';

/*
 * The leave handshake as a story for the terminal. Three homeservers on loopback, each on an address of its own: ours
 * is the real one, whole, with a database in memory; the other two are scripted, with real keys, TLS and signatures.
 * Whatever runs on the usual ports is left alone.
 */

type Colour = Parameters<typeof styleText>[0];

function paint(colour: Colour, text: string): string {
  return styleText(colour, text, { stream: process.stdout });
}

function say(text = ''): void {
  process.stdout.write(`${text}\n`);
}

let step = 0;

function heading(text: string): void {
  say();
  say(`${paint(['bold', 'cyan'], ` ${++step} `)} ${paint('bold', text)}`);
}

function line(who: string, arrow: string, text: string): void {
  say(`   ${paint('dim', who.padEnd(9))} ${paint('cyan', arrow)} ${text}`);
}

function answered(status: number, body: JsonValue | undefined): void {
  const colour = status < 300 ? 'green' : 'yellow';
  line('', '←', `${paint(colour, String(status))} ${JSON.stringify(body)}`);
}

/** An event, key by key, with long values cut and the keys that matter in colour. */
function event(pdu: JsonObject, bright: readonly string[] = []): void {
  for (const key of Object.keys(pdu).sort()) {
    const text = JSON.stringify(pdu[key]);
    const shown = text.length > 88 ? `${text.slice(0, 87)}…` : text;
    const isBright = bright.includes(key);
    say(
      `             ${paint(isBright ? 'green' : 'dim', key.padEnd(17))} ${isBright ? shown : paint('dim', shown)}`,
    );
  }
}

async function main(): Promise<void> {
  say(paint('bold', 'A leave, from invite to broadcast'));
  const ours = await startLeaveServer();
  const theirs = await startRemoteServer({ host: '127.0.0.2' });
  const third = await startRemoteServer({ host: '127.0.0.3' });
  acceptInvites(theirs);
  const [alice, bob, olga] = [`@alice:${ours.name}`, `@bob:${theirs.name}`, `@olga:${third.name}`];
  say(paint('dim', `\n   ours      ${ours.name}, with ${alice}`));
  say(paint('dim', `   theirs    ${theirs.name}, with ${bob}`));
  say(paint('dim', `   third     ${third.name}, with ${olga}`));

  heading('A room of ours, in which somebody of the third server is');
  const builder = new RoomBuilder({
    version: '11',
    creator: alice,
    servers: [{ name: ours.name, key: ours.running.platform.side.signingKey }, third],
  });
  builder.member(olga, 'join');
  const report = await ours.ok('POST', '/v1/rooms/import', {
    room_version: '11',
    events: builder.pdus.map(({ json }) => json),
    server_keys: [third.keyResponse()],
  });
  const { roomId } = builder;
  const path = `/v1/rooms/${encodeURIComponent(roomId)}`;
  line('platform', '→', 'POST /v1/rooms/import');
  answered(201, { room_id: report['room_id'] ?? '', accepted: report['accepted'] ?? 0 });

  heading('Alice invites Bob, and his server signs the invite');
  const invited = await ours.ok('POST', `${path}/invites`, { sender: alice, target: bob });
  line('ours', '→', `PUT ${theirs.name} v2/invite/…/${String(invited['event_id'])}`);
  answered(200, { event: '… with their signature added' });

  heading('Bob does not want to come: his server asks ours for a leave template');
  const made = await makeLeave(theirs, ours, roomId, bob);
  const { room_version: version, event: template } = made.json as { room_version: string; event: JsonObject };
  line('theirs', '→', `GET v1/make_leave/${roomId}/${bob}`);
  answered(made.status, { room_version: version, event: '…' });
  event(template, ['auth_events', 'prev_events', 'depth']);

  heading('It signs the leave, and hands it in');
  const leave = signTemplate(theirs, version, template);
  const sent = await sendLeave(theirs, ours, leave);
  line('theirs', '→', `PUT v2/send_leave/${roomId}/${leave.eventId}`);
  event(leave.event, ['hashes', 'signatures']);
  answered(sent.status, sent.json);

  heading('Before that 200 the leave was in the room log, with its effect');
  const { events } = await ours.ok('GET', `${path}/events?limit=1000`);
  const accepted = (events as readonly JsonObject[]).find(({ event_id }) => event_id === leave.eventId);
  line(
    'log',
    '·',
    `position ${String(accepted?.['position'])} ${paint('green', String(accepted?.['type']))}`,
  );
  const member = await ours.member(roomId, bob);
  const content = member?.['content'];
  const membership = isJsonObject(content) ? content['membership'] : 'unknown';
  line('state', '·', `${bob} ${paint('green', String(membership))}`);

  heading('And it goes to every other server that was in the room');
  const delivered = await third.received(
    ({ url, json }) =>
      url.startsWith('/_matrix/federation/v1/send/') &&
      isJsonObject(json) &&
      (json['pdus'] as readonly JsonObject[]).some(({ state_key }) => state_key === bob),
  );
  line('ours', '→', `PUT ${third.name} ${delivered.url.replace('/_matrix/federation/', '')}`);
  answered(200, {});

  heading('Nobody leaves twice: a second try is refused, and says by which rule');
  const again = await makeLeave(theirs, ours, roomId, bob);
  line('theirs', '→', `GET v1/make_leave/${roomId}/${bob}`);
  answered(again.status, again.json);

  say();
  say(paint('dim', '   `npm start` runs the same server; its API is described at /docs.'));
  await Promise.all([ours.stop(), theirs.close(), third.close()]);
}

await main();
