import { BatchRelay, type MessageBus, type RelayPace } from '@exeunt/message-bus';
import { isFactForTheBus, messageOf } from './facts.js';
import type { LeavingStore } from './leaving-store.js';

export interface LeavingFactsRelayOptions extends RelayPace {
  readonly store: Pick<LeavingStore, 'toTell' | 'told' | 'onAppend'>;
  readonly bus: Pick<MessageBus, 'publish'>;
}

/**
 * Tells the bus the facts of the leaving side: at least once, those of a stream in order, and only what is durable. A
 * repeat has the same `ce_id`.
 */
export class LeavingFactsRelay extends BatchRelay {
  constructor({ store, bus, ...pace }: LeavingFactsRelayOptions) {
    const source = {
      what: 'tell the bus of leaves',
      onEntry: (listener: () => void) => store.onAppend(listener),
      async relay(limit: number): Promise<number> {
        const facts = await store.toTell(limit);
        if (facts.length === 0) return 0;
        await bus.publish(
          facts.flatMap(({ event, position, ...key }) =>
            isFactForTheBus(event) ? [messageOf(key, position, event)] : [],
          ),
        );
        await store.told(facts);
        return facts.length;
      },
    };
    super(source, pace);
  }
}
