import {
  parsePdu,
  isPduFault,
  serverNameOf,
  type EventId,
  type Pdu,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { roomVersion, type RoomVersion } from '@exeunt/room-version';
import { JsonNumber, type JsonObject, type JsonValue } from '@exeunt/signing';
import type { DomainEvent, MemberCounts, Membership, PduAccepted, StateChange } from './domain-events.js';
import type { Facts, FactsNeeded, ForwardExtremity, KnownPdu, RoomHeader } from './room-facts.js';
import { stateKeyOf, typeAndStateKeyOf, type StateKey } from './state-resolution/state-key.js';
import { trunkAt, type StateRef, type StoredStateRef } from './state-ref.js';

/**
 * Thrown by a look-up of a {@link Room} that was loaded in part, for what has not been loaded. It never leaves this
 * library: `deciding` turns it into a value.
 */
export class FactsMissing {
  constructor(readonly needed: FactsNeeded) {}
}

/** What the room knows of a PDU, without the PDU. */
export interface KnownEvent {
  readonly eventId: EventId;
  readonly status: KnownPdu['status'];
  readonly place: KnownPdu['place'];
  readonly stateAfter: StateRef | undefined;
  readonly rule?: string;
  readonly detail?: string;
}

interface Entry {
  readonly position: number;
  readonly eventId: EventId | null;
}

const noMembers: MemberCounts = { join: 0, invite: 0, knock: 0, leave: 0, ban: 0 };
const noEntries: readonly Entry[] = [];

/**
 * A room: the fold of its log. Built by {@link evolve} from nothing it is complete; built from its header it holds
 * what was loaded, and a look-up of anything else throws {@link FactsMissing}. Either way the same decisions fall.
 *
 * Look-ups are pure. Only {@link evolve} and {@link Room.learn} change it.
 */
export class Room {
  #roomId: RoomId | undefined;
  #version: RoomVersion | undefined;
  #createEventId: EventId | undefined;
  #position = 0;
  #stateChangedAt = 0;
  #depth = 0n;
  #forkBase: number | undefined;
  #memberCounts: MemberCounts = noMembers;
  #extremities = new Map<EventId, ForwardExtremity>();
  readonly #known = new Map<EventId, KnownEvent | undefined>();
  readonly #stored = new Map<EventId, JsonObject>();
  readonly #pdus = new Map<EventId, Pdu>();
  /** Forward extremities of an imported snapshot that came without their PDUs. */
  readonly #withoutPdu = new Set<EventId>();
  readonly #entries = new Map<StateKey, readonly Entry[]>();
  readonly #changes = new Map<string, readonly StateKey[]>();
  readonly #citing = new Map<EventId, EventId[]>();
  readonly #residents = new Map<ServerName, number>();
  #allResidentsKnown: boolean;
  /** The position from which on {@link changesBetween} knows every change by itself: 0 for a complete room. */
  #loadedAt = 0;
  /** The key that changed at each position after {@link #loadedAt}, in order. */
  readonly #changeLog: { readonly position: number; readonly key: StateKey }[] = [];
  readonly #complete: boolean;

  private constructor(complete: boolean) {
    this.#complete = complete;
    this.#allResidentsKnown = complete;
  }

  /** A room without a log yet. */
  static initial(): Room {
    return new Room(true);
  }

  /** A room of which only the header is loaded. */
  static fromHeader(header: RoomHeader): Room {
    const room = new Room(false);
    room.#takeHeader(header);
    return room;
  }

  get isKnown(): boolean {
    return this.#position > 0;
  }

  get id(): RoomId {
    return defined(this.#roomId);
  }

  get version(): RoomVersion {
    return defined(this.#version);
  }

  get createEventId(): EventId {
    return defined(this.#createEventId);
  }

  get position(): number {
    return this.#position;
  }

  get stateChangedAt(): number {
    return this.#stateChangedAt;
  }

  get forkBase(): number | undefined {
    return this.#forkBase;
  }

  get depth(): bigint {
    return this.#depth;
  }

  get forwardExtremities(): readonly ForwardExtremity[] {
    return [...this.#extremities.values()];
  }

  isForwardExtremity(eventId: EventId): boolean {
    return this.#extremities.has(eventId);
  }

  get forwardExtremityCount(): number {
    return this.#extremities.size;
  }

  header(): RoomHeader {
    return {
      roomId: this.id,
      roomVersion: this.version.id,
      createEventId: this.createEventId,
      position: this.#position,
      stateChangedAt: this.#stateChangedAt,
      depth: this.#depth.toString(),
      forwardExtremities: this.forwardExtremities,
      memberCounts: this.#memberCounts,
      ...(this.#forkBase === undefined ? {} : { forkBase: this.#forkBase }),
    };
  }

  /** The state as of now: resolved over all forward extremities. */
  currentState(): StateRef {
    return trunkAt(this.#stateChangedAt);
  }

  /** The event that holds (type, state_key) in the state `ref`. */
  entry(ref: StateRef, type: string, stateKey: string): EventId | undefined {
    return this.entryOf(ref, stateKeyOf(type, stateKey));
  }

  entryOf(ref: StateRef, key: StateKey): EventId | undefined {
    const over = ref.overlay.get(key);
    if (over !== undefined) return over ?? undefined;
    const entries = this.#entriesOf(key);
    for (let at = entries.length - 1; at >= 0; at--) {
      const entry = entries[at]!;
      if (entry.position <= ref.base) return entry.eventId ?? undefined;
    }
    return undefined;
  }

  /** How many entries the current state has. Of a complete room alone. */
  currentEntries(): number {
    if (!this.#complete) throw new Error('a room loaded in part does not know all of its state');
    let held = 0;
    for (const entries of this.#entries.values()) if ((entries.at(-1)?.eventId ?? null) !== null) held++;
    return held;
  }

  /** The positions after `after` at which the current state's entry changed, in order. */
  changedAt(key: StateKey, after: number): readonly number[] {
    return this.#entriesOf(key)
      .map(({ position }) => position)
      .filter((position) => position > after);
  }

  /** Which entries of the current state changed after `after`, up to and with `upTo`. Each once. */
  changesBetween(after: number, upTo: number): readonly StateKey[] {
    if (after >= upTo || after >= this.#stateChangedAt) return [];
    if (after >= this.#loadedAt) {
      const keys = new Set<StateKey>();
      for (let at = this.#changeLog.length - 1; at >= 0; at--) {
        const change = this.#changeLog[at]!;
        if (change.position <= after) break;
        if (change.position <= upTo) keys.add(change.key);
      }
      return [...keys];
    }
    const keys = this.#changes.get(`${after}:${upTo}`);
    if (keys === undefined) throw new FactsMissing({ ...nothingNeeded, changes: [{ after, upTo }] });
    return keys;
  }

  /** What was decided on an event, or undefined for one the room has never seen. */
  known(eventId: EventId): KnownEvent | undefined {
    const known = this.#known.get(eventId);
    if (known !== undefined || this.#complete || this.#known.has(eventId)) return known;
    throw new FactsMissing({ ...nothingNeeded, events: [eventId] });
  }

  /** Whether the room has the PDU of an event; a snapshot's forward extremities may be known without. */
  hasPdu(eventId: EventId): boolean {
    return this.known(eventId) !== undefined && !this.#withoutPdu.has(eventId);
  }

  /** A PDU that the room knows. */
  pdu(eventId: EventId): Pdu {
    const parsed = this.#pdus.get(eventId);
    if (parsed !== undefined) return parsed;
    const stored = this.#stored.get(eventId);
    if (stored === undefined) throw new FactsMissing({ ...nothingNeeded, events: [eventId] });
    const pdu = parsePdu(stored, this.version, { boundReferences: false, knownAs: eventId });
    if (isPduFault(pdu)) throw new Error(`the log holds ${eventId}, which does not parse: ${pdu.detail}`);
    this.#pdus.set(eventId, pdu);
    return pdu;
  }

  /** The create event; the room always knows it. */
  create(): Pdu {
    return this.pdu(this.createEventId);
  }

  /** The PDU that holds (type, state_key) in the state `ref`. */
  statePdu(ref: StateRef, type: string, stateKey: string): Pdu | undefined {
    const eventId = this.entry(ref, type, stateKey);
    return eventId === undefined ? undefined : this.pdu(eventId);
  }

  /** The membership of a user in the state `ref`. */
  membership(ref: StateRef, userId: string): Membership {
    const member = this.statePdu(ref, 'm.room.member', userId);
    return member === undefined ? 'none' : membershipOf(member.content);
  }

  /** State events that cite `eventId` among their auth events. */
  citing(eventId: EventId): readonly EventId[] {
    const by = this.#citing.get(eventId);
    if (by !== undefined) return by;
    if (this.#complete) return noIds;
    throw new FactsMissing({ ...nothingNeeded, citing: [eventId] });
  }

  /** How many joined members a server has in the current state. */
  joinedMembersOf(server: ServerName): number {
    const joined = this.#residents.get(server);
    if (joined !== undefined || this.#allResidentsKnown) return joined ?? 0;
    throw new FactsMissing({ ...nothingNeeded, residents: [server] });
  }

  /** The servers with a joined member in the current state. */
  residentServers(): readonly ServerName[] {
    if (!this.#allResidentsKnown) throw new FactsMissing({ ...nothingNeeded, allResidents: true });
    return [...this.#residents].filter(([, joined]) => joined > 0).map(([server]) => server);
  }

  /**
   * Asks for many facts at once, so that one round trip brings what single look-ups would bring in many. Throws
   * {@link FactsMissing} unless all of them are there.
   */
  require(wanted: {
    state?: readonly StateKey[];
    events?: readonly EventId[];
    residents?: readonly ServerName[];
    allResidents?: boolean;
  }): void {
    const state = [...new Set(wanted.state)]
      .filter((key) => !this.#complete && !this.#entries.has(key))
      .map(typeAndStateKeyOf);
    const events = [...new Set(wanted.events)].filter((eventId) => !this.#isLoaded(eventId));
    const residents = this.#allResidentsKnown
      ? []
      : [...new Set(wanted.residents)].filter((server) => !this.#residents.has(server));
    const allResidents = wanted.allResidents === true && !this.#allResidentsKnown;
    if (state.length + events.length + residents.length > 0 || allResidents)
      throw new FactsMissing({ ...nothingNeeded, state, events, residents, allResidents });
  }

  /** Loads every PDU on the auth chains of `eventIds`, level by level, whatever else happens. */
  requireAuthChains(eventIds: readonly EventId[]): void {
    const seen = new Set<EventId>(eventIds);
    let level: readonly EventId[] = [...seen];
    while (level.length > 0) {
      this.require({ events: level });
      const next: EventId[] = [];
      for (const eventId of level) {
        if (this.known(eventId) === undefined) continue;
        for (const cited of this.pdu(eventId).authEvents) {
          if (!seen.has(cited)) {
            seen.add(cited);
            next.push(cited);
          }
        }
      }
      level = next;
    }
  }

  /** `eventIds` and every event on their auth chains. */
  authChainOf(eventIds: readonly EventId[]): ReadonlySet<EventId> {
    this.requireAuthChains(eventIds);
    const chain = new Set<EventId>(eventIds);
    for (const eventId of chain) {
      if (this.known(eventId) !== undefined)
        for (const cited of this.pdu(eventId).authEvents) chain.add(cited);
    }
    return chain;
  }

  /** Takes in facts that were asked for; what was asked for and is not among them does not exist. */
  learn(needed: FactsNeeded, facts: Facts): void {
    for (const { type, stateKey } of needed.state) this.#entries.set(stateKeyOf(type, stateKey), noEntries);
    for (const entry of facts.state) {
      const key = stateKeyOf(entry.type, entry.stateKey);
      this.#entries.set(key, [...(this.#entries.get(key) ?? noEntries), entry]);
    }
    for (const eventId of needed.events) if (!this.#known.has(eventId)) this.#known.set(eventId, undefined);
    for (const placed of facts.placed ?? []) {
      this.#withoutPdu.add(placed.eventId);
      this.#known.set(placed.eventId, {
        eventId: placed.eventId,
        status: 'accepted',
        place: 'graph',
        stateAfter: trunkAt(placed.position),
      });
    }
    for (const known of facts.events) {
      this.#known.set(known.eventId, {
        eventId: known.eventId,
        status: known.status,
        place: known.place,
        stateAfter: known.stateAfter === undefined ? undefined : readStateRef(known.stateAfter),
        ...(known.rule === undefined ? {} : { rule: known.rule, detail: known.detail ?? '' }),
      });
      this.#stored.set(known.eventId, known.pdu);
      this.#withoutPdu.delete(known.eventId);
    }
    for (const { after, upTo, keys } of facts.changes)
      this.#changes.set(
        `${after}:${upTo}`,
        keys.map(({ type, stateKey }) => stateKeyOf(type, stateKey)),
      );
    for (const cited of needed.citing) this.#citing.set(cited, []);
    for (const { cited, by } of facts.citing) this.#citing.set(cited, [...by]);
    for (const server of needed.residents) this.#residents.set(server, 0);
    for (const [server, joined] of facts.residents) this.#residents.set(server, joined);
    if (needed.allResidents) this.#allResidentsKnown = true;
  }

  /**
   * How many facts are held in memory; what a cache is bounded by. Each is a few hundred bytes, a PDU up to some
   * kilobytes.
   */
  get factCount(): number {
    return (
      this.#known.size +
      this.#entries.size +
      this.#residents.size +
      this.#changeLog.length +
      4 * this.#stored.size
    );
  }

  /** Forgets PDUs' contents; a look-up of one asks for it again. For folding a long log. */
  forgetPdus(): void {
    this.#pdus.clear();
    this.#stored.clear();
  }

  /** Takes in the next fact of the log; used by {@link evolve} alone. */
  apply(event: DomainEvent): void {
    const position = ++this.#position;
    switch (event.type) {
      case 'RoomIngested':
        this.#roomId = event.roomId;
        this.#version = defined(roomVersion(event.roomVersion));
        this.#createEventId = event.createEventId;
        return;
      case 'SnapshotPlaced':
        this.#stateChangedAt = position;
        this.#depth = BigInt(event.depth);
        this.#extremities.clear();
        for (const eventId of event.forwardExtremities) {
          this.#extremities.set(eventId, { eventId, depth: String(event.depth) });
          if (!this.#known.has(eventId)) this.#withoutPdu.add(eventId);
          this.#known.set(eventId, {
            eventId,
            status: 'accepted',
            place: this.#known.get(eventId)?.place ?? 'graph',
            stateAfter: trunkAt(position),
          });
        }
        return;
      case 'PduAccepted':
        this.#accept(event, position);
        return;
      case 'PduRejected':
      case 'PduSoftFailed':
        this.#remember(event.eventId, event.pdu, {
          eventId: event.eventId,
          status: event.type === 'PduRejected' ? 'rejected' : 'soft-failed',
          place: 'graph',
          stateAfter: event.stateAfter === 'none' ? undefined : readStateRef(event.stateAfter),
          rule: event.rule,
          detail: event.detail,
        });
        return;
      default:
        return event satisfies never;
    }
  }

  #accept(event: PduAccepted, position: number): void {
    this.#remember(event.eventId, event.pdu, {
      eventId: event.eventId,
      status: 'accepted',
      place: event.place,
      stateAfter: storedStateAfter(event, position),
    });
    for (const change of event.changes) this.#change(change, position);
    if (event.place !== 'graph') return;
    for (const parent of citedIds(event.pdu['prev_events'])) this.#extremities.delete(parent);
    const depth = losslessDepth(event.pdu['depth']);
    this.#extremities.set(event.eventId, { eventId: event.eventId, depth: depth.toString() });
    if (depth > this.#depth) this.#depth = depth;
    this.#forkBase = event.forkBase;
  }

  #remember(eventId: EventId, json: JsonObject, known: KnownEvent): void {
    this.#known.set(eventId, known);
    this.#stored.set(eventId, json);
    this.#withoutPdu.delete(eventId);
    this.#pdus.delete(eventId);
    // A room loaded in part may have been told before that nobody cites these: an event that is new does.
    if (this.#citing.size === 0 && !this.#complete) return;
    if (json['state_key'] === undefined) return;
    for (const cited of citedIds(json['auth_events'])) {
      const by = this.#citing.get(cited);
      if (by !== undefined) by.push(eventId);
      else if (this.#complete) this.#citing.set(cited, [eventId]);
    }
  }

  #change(change: StateChange, position: number): void {
    const key = stateKeyOf(change.type, change.stateKey);
    const entries = this.#entries.get(key);
    // Of an entry that was never loaded nothing is kept: a look-up loads its whole history.
    if (entries !== undefined || this.#complete)
      this.#entries.set(key, [...(entries ?? noEntries), { position, eventId: change.eventId }]);
    this.#changeLog.push({ position, key });
    this.#stateChangedAt = position;
    if (change.membership === undefined) return;
    const { from, to } = change.membership;
    const counts = { ...this.#memberCounts };
    if (from !== 'none') counts[from]--;
    if (to !== 'none') counts[to]++;
    this.#memberCounts = counts;
    if ((from === 'join') === (to === 'join')) return;
    const server = serverNameOf(change.stateKey as UserId);
    const joined = this.#residents.get(server);
    if (joined === undefined && !this.#allResidentsKnown)
      throw new Error(`the residents of ${server} were not loaded before a change of them`);
    const now = (joined ?? 0) + (to === 'join' ? 1 : -1);
    if (now === 0 && this.#allResidentsKnown) this.#residents.delete(server);
    else this.#residents.set(server, now);
  }

  #entriesOf(key: StateKey): readonly Entry[] {
    const entries = this.#entries.get(key);
    if (entries !== undefined) return entries;
    if (this.#complete) return noEntries;
    throw new FactsMissing({ ...nothingNeeded, state: [typeAndStateKeyOf(key)] });
  }

  #isLoaded(eventId: EventId): boolean {
    const known = this.#known.get(eventId);
    if (known === undefined) return this.#complete || this.#known.has(eventId);
    return this.#stored.has(eventId) || this.#withoutPdu.has(eventId);
  }

  #takeHeader(header: RoomHeader): void {
    this.#roomId = header.roomId;
    this.#version = defined(roomVersion(header.roomVersion));
    this.#createEventId = header.createEventId;
    this.#position = header.position;
    this.#loadedAt = header.position;
    this.#stateChangedAt = header.stateChangedAt;
    this.#depth = BigInt(header.depth);
    this.#forkBase = header.forkBase;
    this.#memberCounts = header.memberCounts;
    for (const extremity of header.forwardExtremities) this.#extremities.set(extremity.eventId, extremity);
  }
}

const noIds: readonly EventId[] = [];

/** Asks for nothing. */
export const nothingNeeded: FactsNeeded = {
  state: [],
  events: [],
  changes: [],
  citing: [],
  residents: [],
  allResidents: false,
};

/** A room without a log: what the fold starts from. */
export function initialRoom(): Room {
  return Room.initial();
}

/** Folds the next domain event into `room` and gives it back; the room given is used up. */
export function evolve(room: Room, event: DomainEvent): Room {
  room.apply(event);
  return room;
}

/** The membership that a member event's content names; anything unknown counts as `leave`. */
export function membershipOf(content: JsonObject): Membership {
  const membership = content['membership'];
  switch (membership) {
    case 'join':
    case 'invite':
    case 'knock':
    case 'ban':
      return membership;
    default:
      return 'leave';
  }
}

/** A PDU's depth without loss. */
export function depthOf(pdu: Pdu): bigint {
  return losslessDepth(pdu.depth);
}

function losslessDepth(depth: JsonValue | undefined): bigint {
  if (typeof depth === 'number') return BigInt(depth);
  if (depth instanceof JsonNumber) return BigInt(depth.source);
  throw new Error('the log holds a PDU without a depth');
}

/**
 * The events that a PDU of the log cites. The fold reads no more of a PDU than this: it was parsed before it was
 * accepted, and to do so again, hash and all, would cost more than everything else.
 */
function citedIds(references: JsonValue | undefined): readonly EventId[] {
  if (!Array.isArray(references)) throw new Error('the log holds a PDU without references');
  // Room versions 1 and 2 cite pairs.
  return references.map((cited) => (Array.isArray(cited) ? cited[0] : cited) as EventId);
}

function storedStateAfter(event: PduAccepted, position: number): StateRef | undefined {
  if (event.stateAfter === 'none') return undefined;
  return event.stateAfter === 'current' ? trunkAt(position) : readStateRef(event.stateAfter);
}

/** Reads a stored state reference. */
export function readStateRef([base, overlay]: StoredStateRef): StateRef {
  return {
    base,
    overlay: new Map(overlay.map(([type, stateKey, eventId]) => [stateKeyOf(type, stateKey), eventId])),
  };
}

/** The stored form of a state reference; in order, so that it does not show in which order things were loaded. */
export function storeStateRef(ref: StateRef): StoredStateRef {
  return [
    ref.base,
    [...ref.overlay.keys()].sort().map((key) => {
      const { type, stateKey } = typeAndStateKeyOf(key);
      return [type, stateKey, ref.overlay.get(key) ?? null] as const;
    }),
  ];
}

function defined<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the room is not known');
  return value;
}
