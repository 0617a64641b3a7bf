import type { Pdu } from '@exeunt/pdu';
import type { RoomVersion } from '@exeunt/room-version';
import { memberOf, type JsonValue } from '@exeunt/signing';
import { PowerLevels } from './power-levels.js';

/**
 * The event that a room state has for a type and state_key. It is called only for entries a rule really looks at,
 * and may throw the caller's own exception, which passes through untouched.
 */
export type StateLookup = (type: string, stateKey: string) => Pdu | undefined;

/** A room state in the words of the auth rules. Each question looks up only what it needs. */
export class RoomView {
  readonly #state: StateLookup;
  #powerLevels: PowerLevels | undefined;

  constructor(
    readonly version: RoomVersion,
    readonly create: Pdu,
    state: StateLookup,
  ) {
    this.#state = state;
  }

  /** The user's membership, in the event's own word; `leave` where there is no event or no word. */
  membershipOf(userId: string): string {
    const membership = this.#contentOf('m.room.member', userId, 'membership');
    return typeof membership === 'string' ? membership : 'leave';
  }

  /** The room's join rule, in the event's own word; `invite` where there is no event or no word. */
  joinRule(): string {
    const rule = this.#contentOf('m.room.join_rules', '', 'join_rule');
    return typeof rule === 'string' ? rule : 'invite';
  }

  powerLevels(): PowerLevels {
    return (this.#powerLevels ??= new PowerLevels(this.version, {
      event: this.powerLevelsEvent(),
      create: this.create,
    }));
  }

  powerLevelsEvent(): Pdu | undefined {
    return this.#state('m.room.power_levels', '');
  }

  thirdPartyInvite(token: string): Pdu | undefined {
    return this.#state('m.room.third_party_invite', token);
  }

  #contentOf(type: string, stateKey: string, key: string): JsonValue | undefined {
    const event = this.#state(type, stateKey);
    return event && memberOf(event.content, key);
  }
}
