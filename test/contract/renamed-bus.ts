import type { MessageBus } from '@exeunt/message-bus';

/** Topics and groups of a bus under other names, so that each test has a store of its own on one cluster. */
export function renamed(bus: MessageBus, suffix: string): MessageBus {
  return {
    publish: (messages) => bus.publish(messages.map((each) => ({ ...each, topic: each.topic + suffix }))),
    consume: ({ topic, group, maxBatch, handle }) =>
      bus.consume({
        topic: topic + suffix,
        group: group + suffix,
        maxBatch,
        handle: (batch) => handle(batch.map((each) => ({ ...each, topic }))),
      }),
    partitions: (topic) => bus.partitions(topic + suffix),
    check: () => bus.check(),
    close: () => bus.close(),
  };
}
