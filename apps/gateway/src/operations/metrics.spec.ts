import { describe, expect, it } from 'vitest';
import { GatewayMetrics } from './metrics.js';

/** The samples of a metric: what comes before the value, and the value. */
async function samples(metrics: GatewayMetrics, name: string): Promise<Record<string, number>> {
  const lines = (await metrics.registry.metrics()).split('\n').filter((line) => line.startsWith(name));
  return Object.fromEntries(
    lines.map((line) => line.split(' ') as [string, string]).map(([key, value]) => [key, Number(value)]),
  );
}

describe('the metrics of a sender', () => {
  const none = { pduErrors: [], waits: [] };

  it('count attempts by outcome, delivered PDUs by result, and the wait of each PDU by class', async () => {
    const metrics = new GatewayMetrics();
    metrics.attempt({ outcome: 'unreachable', pdus: 3, ...none });
    metrics.attempt({ outcome: 'refused', pdus: 3, ...none });
    metrics.attempt({
      outcome: 'delivered',
      pdus: 3,
      pduErrors: [{ roomId: '!a:us.test', eventId: '$a:us.test', error: 'no' }],
      waits: [
        { waitedMs: 2 * 86_400_000, wasHindered: true },
        { waitedMs: 20, wasHindered: false },
        { waitedMs: 0, wasHindered: false },
      ],
    });
    expect(await samples(metrics, 'exeunt_transactions_total')).toEqual({
      'exeunt_transactions_total{outcome="unreachable"}': 1,
      'exeunt_transactions_total{outcome="refused"}': 1,
      'exeunt_transactions_total{outcome="delivered"}': 1,
    });
    expect(await samples(metrics, 'exeunt_delivered_pdus_total')).toEqual({
      'exeunt_delivered_pdus_total{result="taken"}': 2,
      'exeunt_delivered_pdus_total{result="refused"}': 1,
    });
    expect(await samples(metrics, 'exeunt_delivery_seconds')).toMatchObject({
      'exeunt_delivery_seconds_bucket{le="0.01",class="healthy"}': 1,
      'exeunt_delivery_seconds_bucket{le="0.025",class="healthy"}': 2,
      'exeunt_delivery_seconds_count{class="healthy"}': 2,
      'exeunt_delivery_seconds_bucket{le="86400",class="failing"}': 0,
      'exeunt_delivery_seconds_bucket{le="259200",class="failing"}': 1,
      'exeunt_delivery_seconds_sum{class="failing"}': 172_800,
    });
  });

  it('read what waits for whom', async () => {
    const metrics = new GatewayMetrics();
    metrics.readQueue({
      countPending: async () => 12,
      countByState: async () => ({ idle: 4, sending: 3, 'backing-off': 2, parked: 1 }),
    });
    expect(await samples(metrics, 'exeunt_pending_pdus')).toEqual({ exeunt_pending_pdus: 12 });
    expect(await samples(metrics, 'exeunt_destinations')).toEqual({
      'exeunt_destinations{state="idle"}': 4,
      'exeunt_destinations{state="sending"}': 3,
      'exeunt_destinations{state="backing-off"}': 2,
      'exeunt_destinations{state="parked"}': 1,
    });
  });

  it('are told without what waits while the database is away', async () => {
    const metrics = new GatewayMetrics();
    const away = () => Promise.reject(new Error('away'));
    metrics.readQueue({ countPending: away, countByState: away });
    metrics.attempt({ outcome: 'unreachable', pdus: 1, ...none });
    expect(await samples(metrics, 'exeunt_pending_pdus')).toEqual({});
    expect(await samples(metrics, 'exeunt_destinations')).toEqual({});
    expect(await samples(metrics, 'exeunt_transactions_total')).toEqual({
      'exeunt_transactions_total{outcome="unreachable"}': 1,
    });
  });
});
