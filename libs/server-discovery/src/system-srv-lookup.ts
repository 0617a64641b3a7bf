import { NODATA, NOTFOUND } from 'node:dns';
import { Resolver } from 'node:dns/promises';
import type { SrvLookup } from './server-discovery.js';

export interface SystemSrvLookupOptions {
  /** When a look-up gives up, all tries and name servers included; 2000 unless told. */
  readonly timeoutMs?: number;
  /** `address[:port]` of the name servers to ask instead of the system's. */
  readonly servers?: readonly string[];
}

/**
 * Asks the system's name servers for SRV records; `getaddrinfo` has no such question. An empty answer and a name that
 * does not exist are no records; a server that fails, refuses or stays silent is a rejection. (contract, Environment)
 */
export function systemSrvLookup({ timeoutMs = 2000, servers }: SystemSrvLookupOptions = {}): SrvLookup {
  // A lost packet is asked for once more within the time.
  const resolver = new Resolver({ timeout: Math.ceil(timeoutMs / 3), tries: 2 });
  if (servers !== undefined) resolver.setServers(servers);
  return async (name) => {
    let timer: NodeJS.Timeout | undefined;
    const outOfTime = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no SRV answer within ${timeoutMs} ms`)), timeoutMs);
    });
    try {
      return await Promise.race([resolver.resolveSrv(name), outOfTime]);
    } catch (thrown) {
      if (thrown instanceof Error && 'code' in thrown && isNoRecord(thrown.code)) return [];
      throw thrown;
    } finally {
      clearTimeout(timer);
    }
  };
}

function isNoRecord(code: unknown): boolean {
  return code === NODATA || code === NOTFOUND;
}
