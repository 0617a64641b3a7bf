import type { Outbox, OutboxEntry } from '@exeunt/event-store';
import { BatchRelay, type MessageBus, type RelayPace } from '@exeunt/message-bus';
import { noTracing, parseTraceparent, SpanKind, SpanStatusCode, type Tracing } from '@exeunt/tracing';
import { messagesFor } from './messages-for.js';

export interface OutboxRelayOptions extends RelayPace {
  readonly outbox: Outbox;
  readonly bus: Pick<MessageBus, 'publish' | 'partitions'>;
  /** Told of a batch that is durable in the bus. */
  readonly onRelayed?: (entries: readonly OutboxEntry[]) => void;
  /** Where the span of each batch goes, with a link to each entry's trace; nowhere by default. */
  readonly tracing?: Tracing;
}

/**
 * Carries accepted PDUs from the outbox to the bus: at least once, each room's in order. An entry leaves the outbox
 * after all its messages are durable in the bus; a failure in between publishes it again with the same `ce_id`s.
 * Several relays on one outbox do the work several times, but whoever ignores repeats still sees each room's order: a
 * batch begins with the oldest entry that is not done, so nothing comes before what precedes it has come once.
 */
export class OutboxRelay extends BatchRelay {
  constructor({ outbox, bus, onRelayed, tracing = noTracing, ...pace }: OutboxRelayOptions) {
    const publish = async (entries: readonly OutboxEntry[]): Promise<void> => {
      await bus.publish(entries.flatMap((entry) => messagesFor(entry, (topic) => bus.partitions(topic))));
      onRelayed?.(entries);
      await outbox.done(entries);
    };
    const source = {
      what: 'relay the outbox',
      onEntry: (listener: () => void) => outbox.onEntry(listener),
      async relay(limit: number): Promise<number> {
        const entries = await outbox.take(limit);
        if (entries.length === 0) return 0;
        const span = tracing.begin('relay outbox', {
          kind: SpanKind.PRODUCER,
          links: entries.flatMap(({ traceparent }) => parseTraceparent(traceparent) ?? []),
          attributes: { 'messaging.batch.message_count': entries.length },
        });
        try {
          await publish(entries);
        } catch (cause) {
          span.setStatus({ code: SpanStatusCode.ERROR });
          throw cause;
        } finally {
          span.end();
        }
        return entries.length;
      },
    };
    super(source, pace);
  }
}
