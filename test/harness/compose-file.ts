import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** A service of a compose file, as far as tests look at it. */
export interface ComposeService {
  readonly image?: string;
  readonly build?: string;
  readonly command?: readonly string[];
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly environment?: Readonly<Record<string, string>>;
  /** `source:target`, with `:ro` or without. */
  readonly volumes?: readonly string[];
  readonly secrets?: readonly string[];
  readonly ports?: readonly string[];
  readonly healthcheck?: { readonly test: readonly string[] };
  readonly read_only?: boolean;
  readonly deploy?: { readonly replicas: number };
}

export interface ComposeFile {
  readonly services: Readonly<Record<string, ComposeService>>;
  readonly secrets: Readonly<Record<string, { readonly file: string }>>;
  readonly volumes: Readonly<Record<string, null>>;
  /** The variables that the file takes from its environment. */
  readonly variables: ReadonlySet<string>;
}

/**
 * A compose file of the repository with its anchors merged and its variables put in, as `docker compose config` gives
 * it: `${NAME}`, `${NAME:-otherwise}`, `${NAME:?what is missing}`. Throws what the last says.
 */
export function readComposeFile(name: string, environment: Readonly<Record<string, string>>): ComposeFile {
  const variables = new Set<string>();
  const put = (text: string): string =>
    text.replaceAll(
      /\$\{([A-Z_]+)(?::([-?])([^}]*))?\}/g,
      (_, variable: string, kind?: string, rest = '') => {
        variables.add(variable);
        const value = environment[variable] ?? '';
        if (value !== '') return value;
        if (kind === '?') throw new Error(String(rest));
        return kind === '-' ? String(rest) : '';
      },
    );
  const walk = (value: unknown): unknown => {
    if (typeof value === 'string') return put(value);
    if (Array.isArray(value)) return value.map(walk);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, walk(one)]));
  };
  const parsed = walk(parse(readFileSync(`${root}${name}`, 'utf8'), { merge: true })) as ComposeFile;
  return { ...parsed, variables };
}

/** `NAME=value` lines, as compose reads `.env`. */
export function readEnvFile(name: string): Readonly<Record<string, string>> {
  const lines = readFileSync(`${root}${name}`, 'utf8').split('\n');
  return Object.fromEntries(
    lines.flatMap((line) => {
      const [, variable, value] = /^([A-Z_]+)=(.*)$/.exec(line) ?? [];
      return variable === undefined ? [] : [[variable, value!]];
    }),
  );
}
