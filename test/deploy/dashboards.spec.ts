import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { GatewayMetrics } from '../../apps/gateway/src/operations/metrics.js';
import { readComposeFile, readEnvFile } from '../harness/compose-file.js';

/* What Grafana shows and Prometheus alerts by is what a process of ours tells. */

const deploy = fileURLToPath(new URL('../../deploy/', import.meta.url));
const read = (name: string): string => readFileSync(`${deploy}${name}`, 'utf8');

interface Dashboard {
  readonly uid: string;
  readonly title: string;
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly datasource: { readonly uid: string };
    readonly gridPos: Readonly<Record<'x' | 'y' | 'w' | 'h', number>>;
    readonly targets: readonly { readonly expr: string; readonly legendFormat: string }[];
  }[];
}

const dashboards = readdirSync(`${deploy}grafana/dashboards`).map((file) => ({
  file,
  dashboard: JSON.parse(read(`grafana/dashboards/${file}`)) as Dashboard,
}));
const alerts = (
  parse(read('prometheus/alerts.yml')) as {
    readonly groups: readonly {
      readonly rules: readonly { readonly alert: string; readonly expr: string }[];
    }[];
  }
).groups.flatMap(({ rules }) => rules);

const queries = [
  ...dashboards.flatMap(({ file, dashboard }) =>
    dashboard.panels.flatMap(({ title, targets }) =>
      targets.map(({ expr, legendFormat }) => ({ where: `${file}: ${title}`, expr, legendFormat })),
    ),
  ),
  ...alerts.map(({ alert, expr }) => ({ where: `alert ${alert}`, expr, legendFormat: '' })),
];

/** By name, the labels of every metric of a process, whatever its role. */
const told: ReadonlyMap<string, ReadonlySet<string>> = (() => {
  const metrics = new GatewayMetrics();
  metrics.readQueue({
    countPending: async () => 0,
    countByState: async () => ({ idle: 0, sending: 0, 'backing-off': 0, parked: 0 }),
  });
  metrics.readIngestWaiting(async () => 0);
  return new Map(
    metrics.registry.getMetricsAsArray().map((metric) => {
      const { name, labelNames = [] } = metric as unknown as { name: string; labelNames?: readonly string[] };
      return [name, new Set(labelNames)] as const;
    }),
  );
})();
/** Those that are not of Node and the process alone. */
const ours = [...told.keys()].filter((name) => !/^exeunt_(process|nodejs)_/.test(name));

/** What Prometheus adds to each of them. */
const targetLabels = ['job', 'instance'];

describe.each(queries)('$where', ({ expr, legendFormat }) => {
  it('asks for metrics and labels that a process tells', () => {
    const labels = new Set(targetLabels);
    for (const [name] of expr.matchAll(/\bexeunt_\w+/g)) {
      const isHistogram = /_(bucket|sum|count)$/.test(name);
      const metric = told.get(name) ?? told.get(name.replace(/_(bucket|sum|count)$/, ''));
      expect(metric, name).toBeDefined();
      if (isHistogram) labels.add('le');
      for (const label of metric!) labels.add(label);
    }
    const matched = [...expr.matchAll(/\{([^}]*)\}/g)].flatMap(([, inside]) =>
      [...inside!.matchAll(/(\w+)\s*[=!]~?\s*"/g)].map(([, label]) => label!),
    );
    const grouped = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, inside]) => inside!.split(/,\s*/));
    const shown = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label!);
    for (const label of [...matched, ...grouped, ...shown]) expect([...labels]).toContain(label);
    // A sum takes all labels away but those it is by.
    if (grouped.length > 0) for (const label of shown) expect(grouped).toContain(label);
  });
});

describe.each(dashboards)('$file', ({ dashboard }) => {
  it('has panels that each have a place and an ID of their own, and the source that is provisioned', () => {
    const source = (
      parse(read('grafana/provisioning/datasources/prometheus.yml')) as {
        readonly datasources: readonly { readonly uid: string; readonly url: string }[];
      }
    ).datasources[0]!;
    const { panels } = dashboard;
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    expect(new Set(panels.map(({ gridPos: { x, y } }) => `${x} ${y}`)).size).toBe(panels.length);
    for (const { datasource } of panels) expect(datasource.uid).toBe(source.uid);
    expect(new URL(source.url).hostname).toBe('prometheus');
  });
});

describe('the dashboards', () => {
  it('have IDs of their own, and stand where Grafana looks', () => {
    expect(new Set(dashboards.map(({ dashboard }) => dashboard.uid)).size).toBe(dashboards.length);
    const { providers } = parse(read('grafana/provisioning/dashboards/exeunt.yml')) as {
      readonly providers: readonly { readonly options: { readonly path: string } }[];
    };
    const { services } = readComposeFile('docker-compose.yml', readEnvFile('.env.example'));
    expect(services['grafana']?.volumes).toContain(
      `./deploy/grafana/dashboards:${providers[0]!.options.path}:ro`,
    );
    expect(services['grafana']?.environment).toMatchObject({ GF_AUTH_ANONYMOUS_ENABLED: 'false' });
  });

  it.each(ours)('show %s', (name) => {
    expect(queries.some(({ where, expr }) => !where.startsWith('alert') && expr.includes(name))).toBe(true);
  });
});
