import type { JsonObject } from '@exeunt/signing';
import { federationUri } from './leaving-user.js';
import type { LeaveServer } from './leave-server.js';
import type { PeerResponse, RemoteServer } from './remote-server.js';

/** The endpoints that serve a room's past, each as a peer asks it about one event. */
export interface HistoryQuestions {
  event(eventId: string): Promise<PeerResponse>;
  /** What precedes `latest`. */
  missing(latest: readonly string[], more?: JsonObject): Promise<PeerResponse>;
  /** `limit` as text, so that a bad one can be sent; undefined leaves it out. */
  backfill(from: readonly string[], limit?: string): Promise<PeerResponse>;
  state(eventId?: string): Promise<PeerResponse>;
  stateIds(eventId?: string): Promise<PeerResponse>;
  eventAuth(eventId: string): Promise<PeerResponse>;
}

/** The questions of `peer` about a room. */
export function asking(peer: RemoteServer, ours: LeaveServer, roomId: string): HistoryQuestions {
  const get = (uri: string): Promise<PeerResponse> =>
    peer.request({ method: 'GET', uri, destination: ours.name, baseUrl: ours.federationUrl });
  const withQuery = (uri: string, pairs: readonly (readonly [string, string | undefined])[]): string => {
    const query = pairs.flatMap(([key, value]) =>
      value === undefined ? [] : [`${key}=${encodeURIComponent(value)}`],
    );
    return query.length === 0 ? uri : `${uri}?${query.join('&')}`;
  };
  return {
    event: (eventId) => get(federationUri('v1/event', eventId)),
    missing: (latest, more = {}) =>
      peer.request({
        method: 'POST',
        uri: federationUri('v1/get_missing_events', roomId),
        destination: ours.name,
        baseUrl: ours.federationUrl,
        body: { latest_events: latest, earliest_events: [], ...more },
      }),
    backfill: (from, limit) =>
      get(
        withQuery(federationUri('v1/backfill', roomId), [
          ...from.map((eventId) => ['v', eventId] as const),
          ['limit', limit],
        ]),
      ),
    state: (eventId) => get(withQuery(federationUri('v1/state', roomId), [['event_id', eventId]])),
    stateIds: (eventId) => get(withQuery(federationUri('v1/state_ids', roomId), [['event_id', eventId]])),
    eventAuth: (eventId) => get(federationUri('v1/event_auth', roomId, eventId)),
  };
}

/** Every question about one event, by its endpoint. */
export function everyQuestion(
  questions: HistoryQuestions,
  eventId: string,
): readonly (readonly [endpoint: string, answer: () => Promise<PeerResponse>])[] {
  return [
    ['event', () => questions.event(eventId)],
    ['get_missing_events', () => questions.missing([eventId])],
    ['backfill', () => questions.backfill([eventId], '10')],
    ['state', () => questions.state(eventId)],
    ['state_ids', () => questions.stateIds(eventId)],
    ['event_auth', () => questions.eventAuth(eventId)],
  ];
}
