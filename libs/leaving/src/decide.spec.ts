import { describe, expect, it } from 'vitest';
import type { EventId, ServerName, UserId } from '@exeunt/pdu';
import {
  cancelLeave,
  finishRound,
  isLeavingRefusal,
  nextStep,
  noteKnock,
  noteOutcome,
  noteRemoval,
  receiveInvite,
  recordLocalLeave,
  requestLeave,
  retryLeave,
  type HandshakeOutcome,
  type LeavingDecision,
} from './decide.js';
import type { InviteReceived, KnockMade, LeavingEvent } from './domain-events.js';
import { evolve, initialLeaving, type Leaving } from './leaving.js';
import { maxCandidates } from './candidates.js';
import { maxRefusedRounds, signedLeaveLifeMs } from './retry-schedule.js';

const ourName = 'ours.example' as ServerName;
const x = 'x.example' as ServerName;
const y = 'y.example' as ServerName;
const inviter = '@i:x.example' as UserId;
const bounds = { minMs: 1000, maxMs: 60_000 };

const invite = (name = 'one', hash = name): Omit<InviteReceived, 'type'> => ({
  eventId: `$${name}` as EventId,
  sender: inviter,
  origin: x,
  roomVersion: '11',
  isVersionStated: true,
  pdu: { hashes: { sha256: hash } },
  inviteRoomState: [
    { type: 'm.room.member', sender: '@z:y.example', state_key: '@z:y.example', content: {} },
  ],
  at: 10,
});
const knock = (
  name = 'knock',
  more: Partial<KnockMade> = { eventId: `$${name}` as EventId, roomVersion: '7' },
): Omit<KnockMade, 'type' | 'answeredBy'> => ({
  knockId: `$${name}`,
  via: [y, ourName],
  knockRoomState: [{ type: 'm.room.member', sender: '@z:z.example', state_key: '@z:z.example', content: {} }],
  at: 10,
  ...more,
});
const wish = (leaveId = 'first', via: readonly ServerName[] = []) => ({
  leaveId,
  reason: undefined,
  via,
  ourName,
  now: 20,
});
const pdu = { eventId: '$leave', roomVersion: { id: '11' }, json: {} } as never;

function facts(decision: LeavingDecision): readonly LeavingEvent[] {
  if (isLeavingRefusal(decision)) throw new Error(decision.detail);
  return decision;
}
/** The state after decisions, each on what the one before left. */
function given(...steps: readonly ((state: Leaving) => LeavingDecision)[]): Leaving {
  return steps.reduce((state, step) => facts(step(state)).reduce(evolve, state), initialLeaving);
}
const invited = (state: Leaving) => receiveInvite(state, invite());
const knocked = (state: Leaving) => noteKnock(state, knock());
const leaving = (state: Leaving) => requestLeave(state, wish());
const note =
  (outcome: HandshakeOutcome, at = 30) =>
  (state: Leaving) =>
    noteOutcome(state, 'first', outcome, at);
const roundOver =
  (at = 40) =>
  (state: Leaving) =>
    finishRound(state, 'first', { now: at, random: 0, bounds });
const unreached = (server: ServerName) =>
  note({ kind: 'failed', server, step: 'make_leave', detail: 'unreachable' });
const refusedBy = (server: ServerName) =>
  note({ kind: 'refused', server, step: 'make_leave', detail: '403' });

describe('an invite', () => {
  it('waits for the user, and the same again changes nothing', () => {
    const state = given(invited);
    expect(state.invite?.eventId).toBe('$one');
    expect(invited(state)).toEqual([]);
  });

  it('with the ID of another, in versions 1 and 2, is refused', () => {
    expect(receiveInvite(given(invited), invite('one', 'other'))).toMatchObject({
      refused: 'invite-known-otherwise',
    });
  });

  it('that was answered does not come back by a repeat', () => {
    const state = given(invited, leaving);
    expect(state.invite).toBeUndefined();
    expect(receiveInvite(state, invite())).toEqual([]);
  });

  it('that is new ends the leave that answered an older one', () => {
    const state = given(invited, leaving, (state) => receiveInvite(state, invite('two')));
    expect(state.leave?.status).toEqual({ kind: 'cancelled' });
    expect(state.invite?.eventId).toBe('$two');
  });
});

describe('a leave or ban of the invited user', () => {
  const kick = (sender: string, authEvents: readonly string[]) => (state: Leaving) =>
    noteRemoval(state, {
      eventId: '$kick' as EventId,
      sender: sender as UserId,
      origin: x,
      authEvents: authEvents as readonly EventId[],
      pdu: {},
      at: 50,
    });

  it('by the inviter takes the invite back', () => {
    expect(given(invited, kick(inviter, [])).invite).toBeUndefined();
  });

  it('by somebody else counts only where it cites the invite', () => {
    expect(kick('@mod:y.example', ['$create'])(given(invited))).toMatchObject({
      refused: 'not-the-invites-room',
    });
    expect(given(invited, kick('@mod:y.example', ['$create', '$one'])).invite).toBeUndefined();
  });

  it('without an invite is refused', () => {
    expect(kick(inviter, [])(initialLeaving)).toMatchObject({ refused: 'not-invited' });
  });

  it('ends a leave that is under way: the room knows', () => {
    const state = given(invited, leaving, kick(inviter, []));
    expect(state.leave?.status).toEqual({ kind: 'completed' });
  });
});

describe('a knock', () => {
  it('waits for the room, and the same again changes nothing, before its end and after', () => {
    const state = given(knocked);
    expect(state.knock?.eventId).toBe('$knock');
    expect(knocked(state)).toEqual([]);
    expect(knocked(given(knocked, leaving))).toEqual([]);
  });

  it('is retracted by a leave: at the servers it went by, then at those shown, in its version (LV-03, LV-05)', () => {
    const state = given(knocked, leaving);
    expect(state.knock).toBeUndefined();
    expect(state.leave).toMatchObject({ candidates: [y, 'z.example'], roomVersions: ['7'] });
    const unnamed = given((state) => noteKnock(state, knock('knock', {})), leaving);
    expect(unnamed.leave?.roomVersions).toEqual([]);
  });

  it('asks no more servers than a leave may ask, whoever names them', () => {
    const via = Array.from({ length: 30 }, (_, at) => `s${at}.example` as ServerName);
    expect(given((state) => noteKnock(state, knock('many', { via })), leaving).leave?.candidates).toEqual(
      via.slice(0, maxCandidates),
    );
  });

  it('is not retracted by a leave that was over before it: it begins anew', () => {
    const state = given(knocked, leaving, (state) => noteKnock(state, knock('second')));
    expect(state.knock?.knockId).toBe('$second');
    expect(state.leave?.status).toEqual({ kind: 'cancelled' });
    expect(facts(requestLeave(state, wish('second')))).toMatchObject([
      { type: 'LeaveHandshakeStarted', leaveId: 'second' },
    ]);
    expect(retryLeave(state, 'first', 70)).toMatchObject({ refused: 'leave-is-over' });
  });

  it('is answered by an invite, which says so, whichever of the two we hear of first (IN-13)', () => {
    const answered = given(knocked, invited);
    expect(answered.knock).toBeUndefined();
    expect(answered.invite?.answersKnock).toEqual({ eventId: '$knock', at: 10 });
    expect(answered.answered).toEqual({ eventId: '$knock', at: 10 });
    const late = given(invited, knocked);
    expect(late.knock).toBeUndefined();
    expect(late.invite?.eventId).toBe('$one');
    expect(late.answered).toEqual({ eventId: '$knock', at: 10 });
    // Who leaves then rejects the invite, at the inviter's.
    expect(facts(leaving(late))).toMatchObject([{ candidates: [x, y] }]);
  });

  const denied = (sender: string, authEvents: readonly string[]) => (state: Leaving) =>
    noteRemoval(state, {
      eventId: '$denial' as EventId,
      sender: sender as UserId,
      origin: y,
      authEvents: authEvents as readonly EventId[],
      pdu: {},
      at: 50,
    });

  it('is denied by who cites it, and by nobody else, not even of a server that it went by (AU-21)', () => {
    expect(given(knocked, denied('@mod:q.example', ['$create', '$knock'])).knock).toBeUndefined();
    for (const sender of ['@mod:q.example', '@mod:y.example']) {
      expect(denied(sender, ['$create'])(given(knocked))).toMatchObject({ refused: 'not-the-knocks-room' });
    }
  });

  it('of which we have no ID is denied by users of the servers that it went by', () => {
    const unnamed = (state: Leaving) => noteKnock(state, knock('knock', {}));
    expect(given(unnamed, denied('@mod:y.example', ['$any'])).knock).toBeUndefined();
    expect(denied('@mod:z.example', ['$any'])(given(unnamed))).toMatchObject({
      refused: 'not-the-knocks-room',
    });
  });

  it('that is denied while its retraction is under way needs none: the room knows', () => {
    const state = given(knocked, leaving, denied('@mod:y.example', ['$knock']));
    expect(state.leave?.status).toEqual({ kind: 'completed' });
  });

  it('ends where this server, being in the room, finds the user out', () => {
    const state = given(knocked, (state) =>
      recordLocalLeave(state, { leaveId: 'here', reason: undefined, ourName, now: 5 }),
    );
    expect(state.knock).toBeUndefined();
  });
});

describe('the wish to leave', () => {
  it('retires the invite and asks the inviter first, then servers that the invite shows', () => {
    const state = given(invited, leaving);
    expect(state.invite).toBeUndefined();
    expect(state.leave).toMatchObject({ candidates: [x, y], roomVersions: ['11'] });
  });

  it('again while it is under way, and after, changes nothing', () => {
    const under = given(invited, leaving);
    expect(requestLeave(under, wish('second'))).toEqual([]);
    const done = evolve(under, { type: 'LeaveCompleted', leaveId: 'first', how: 'accepted', at: 1 });
    expect(requestLeave(done, wish('second', [y]))).toEqual([]);
  });

  it('without anything to leave is done at once', () => {
    const state = given((state) => requestLeave(state, wish()));
    expect(state.leave?.status).toEqual({ kind: 'completed' });
  });

  it('with servers named by the caller asks those, for a knock that we know nothing of', () => {
    const state = given((state) => requestLeave(state, wish('first', [y, ourName])));
    expect(state.leave?.candidates).toEqual([y]);
  });

  it('after a refusal begins anew', () => {
    const refused = evolve(given(invited, leaving), { type: 'LeaveRefused', leaveId: 'first', at: 1 });
    expect(facts(requestLeave(refused, wish('second')))).toMatchObject([
      { type: 'LeaveHandshakeStarted', leaveId: 'second', candidates: [x, y] },
    ]);
  });

  it('that this server decided is on record, once', () => {
    const local = { leaveId: 'here', reason: undefined, ourName, now: 5 };
    const state = given((state) => recordLocalLeave(state, { ...local, eventId: '$e' as EventId }));
    expect(state.leave).toMatchObject({ leaveId: 'here', status: { kind: 'completed' } });
    expect(recordLocalLeave(state, { ...local, leaveId: 'again' })).toEqual([]);
  });
});

describe('the next step', () => {
  it('asks the candidates in order, and those alone that this round has not tried', () => {
    expect(nextStep(given(invited, leaving).leave, 20)).toEqual({ step: 'ask', servers: [x, y] });
    expect(nextStep(given(invited, leaving, unreached(x)).leave, 20)).toEqual({ step: 'ask', servers: [y] });
    expect(nextStep(given(invited, leaving, unreached(x), unreached(y)).leave, 20)).toEqual({
      step: 'finish-round',
    });
  });

  it('waits until the next attempt', () => {
    const state = given(invited, leaving, unreached(x), unreached(y), roundOver(40));
    expect(state.leave?.status).toEqual({ kind: 'retrying', nextAttemptAt: 1040 });
    expect(nextStep(state.leave, 1039)).toEqual({ step: 'nothing' });
    expect(nextStep(state.leave, 1040)).toEqual({ step: 'ask', servers: [x, y] });
  });

  const signed = note({ kind: 'signed', server: y, pdu });
  const lost = (server: ServerName) =>
    note({ kind: 'failed', server, step: 'send_leave', detail: 'timeout' });

  it('lc-017: sends to the server of the template, then to the others', () => {
    const state = given(invited, leaving, signed);
    expect(nextStep(state.leave, 20)).toEqual({ step: 'send', servers: [y, x] });
  });

  it('LV-15: repeats the same leave where the outcome is unknown, and signs no second one', () => {
    const state = given(invited, leaving, signed, lost(y), lost(x), roundOver(40));
    expect(nextStep(state.leave, 2000)).toEqual({ step: 'send', servers: [y, x] });
    expect(signed(state)).toMatchObject({ refused: 'leave-is-over' });
  });

  it('LV-14: asks for a new template where the server of the first one refused it, but not that server at once', () => {
    const no = note({ kind: 'refused', server: y, step: 'send_leave', detail: '403' });
    const state = given(invited, leaving, signed, no);
    expect(state.leave?.signed).toBeUndefined();
    expect(nextStep(state.leave, 20)).toEqual({ step: 'ask', servers: [x] });
  });

  it('keeps the leave where only another server refused it', () => {
    const no = note({ kind: 'refused', server: x, step: 'send_leave', detail: '403' });
    const state = given(invited, leaving, signed, lost(y), no, roundOver(40));
    expect(nextStep(state.leave, 2000)).toEqual({ step: 'send', servers: [y] });
  });

  it('gives a signed leave up after a day without an answer', () => {
    const state = given(invited, leaving, signed, lost(y), lost(x), roundOver(40));
    expect(nextStep(state.leave, 30 + signedLeaveLifeMs)).toEqual({ step: 'abandon-signed' });
  });
});

describe('a leave that everybody refuses', () => {
  it('is tried a few times more, for the invite may still be on its way, and then given up', () => {
    const round = [refusedBy(x), refusedBy(y), roundOver(40)];
    const before = given(
      invited,
      leaving,
      ...Array.from({ length: maxRefusedRounds - 1 }, () => round).flat(),
    );
    expect(before.leave?.status.kind).toBe('retrying');
    const after = round.reduce((state, step) => facts(step(state)).reduce(evolve, state), before);
    expect(after.leave?.status).toEqual({ kind: 'refused' });
  });

  it('is tried for ever where one cannot be reached', () => {
    const round = [refusedBy(x), unreached(y), roundOver(40)];
    const state = given(invited, leaving, ...Array.from({ length: 50 }, () => round).flat());
    expect(state.leave?.status).toEqual({ kind: 'retrying', nextAttemptAt: 40 + Math.round(60_000 / 1.4) });
  });

  it('LV-05: is given up at once where the room version is unknown', () => {
    const fault = { rule: 'LV-05', detail: 'version', isFinal: true };
    const unknown = (server: ServerName) => note({ kind: 'template-refused', server, fault });
    const state = given(invited, leaving, unknown(x), unknown(y), roundOver(40));
    expect(state.leave?.status).toEqual({ kind: 'refused' });
  });
});

describe('an operator', () => {
  it('has a waiting leave tried at once', () => {
    const state = given(invited, leaving, unreached(x), unreached(y), roundOver(40), (state) =>
      retryLeave(state, 'first', 60),
    );
    expect(nextStep(state.leave, 60)).toEqual({ step: 'ask', servers: [x, y] });
  });

  it('cancels, and an acceptance that comes in all the same is on record', () => {
    const cancelled = given(invited, leaving, (state) => cancelLeave(state, 'first', 60));
    expect(unreached(x)(cancelled)).toMatchObject({ refused: 'leave-is-over' });
    const state = given(
      invited,
      leaving,
      (state) => cancelLeave(state, 'first', 60),
      note({ kind: 'accepted', server: y, eventId: '$leave' as EventId }),
    );
    expect(state.leave?.status).toEqual({ kind: 'completed' });
  });

  it('cannot retry an older leave than the newest', () => {
    const refused = evolve(given(invited, leaving), { type: 'LeaveRefused', leaveId: 'first', at: 1 });
    const state = facts(requestLeave(refused, wish('second'))).reduce(evolve, refused);
    expect(retryLeave(state, 'first', 70)).toMatchObject({ refused: 'leave-is-over' });
  });
});
