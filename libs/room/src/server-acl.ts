import { hostOf, parseServerName, type ServerName } from '@exeunt/pdu';
import { memberOf, type JsonObject, type JsonValue } from '@exeunt/signing';

/**
 * Whether a server may take part in a room. `acl` is the content of the room's current `m.room.server_acl` with an
 * empty state_key, `undefined` where the room has none. The port of the server name does not count, nor does case.
 * Time is bounded by the product of a pattern's and the name's length, hostile patterns included.
 *
 * AC-01 to AC-04, AC-09; spec v1.19, m.room.server_acl and appendices, Glob-style matching.
 */
export function isServerAllowed(acl: JsonObject | undefined, serverName: string): boolean {
  // 1. No such event: allow.
  if (acl === undefined) return true;
  const host = hostOf(serverName as ServerName).toLowerCase();

  // 2. An IP address, and allow_ip_literals is false: deny. What is not a boolean is true.
  if (memberOf(acl, 'allow_ip_literals') === false && isIpLiteral(host)) return false;

  // 3. An entry of deny matches: deny.
  if (matchesAny(memberOf(acl, 'deny'), host)) return false;

  // 4. An entry of allow matches: allow. 5. Otherwise deny.
  return matchesAny(memberOf(acl, 'allow'), host);
}

const ipv4 =
  /^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])$/;

function isIpLiteral(host: string): boolean {
  return ipv4.test(host) || (host.startsWith('[') && parseServerName(host) !== undefined);
}

/** What is no list counts as an empty one, what is no text in it is passed over. (AC-02, AC-09) */
function matchesAny(patterns: JsonValue | undefined, host: string): boolean {
  if (!Array.isArray(patterns)) return false;
  return patterns.some((pattern) => typeof pattern === 'string' && matchesGlob(pattern.toLowerCase(), host));
}

/**
 * `*` stands for any number of characters, `?` for exactly one, all else for itself; the whole text must match.
 * Only the last `*` is ever tried again, so nothing is tried more often than the text is long.
 */
function matchesGlob(pattern: string, text: string): boolean {
  let p = 0;
  let t = 0;
  let star = -1;
  let afterStar = 0;
  while (t < text.length) {
    if (p < pattern.length && pattern[p] === '*') {
      star = p++;
      afterStar = t;
    } else if (p < pattern.length && (pattern[p] === '?' || pattern[p] === text[t])) {
      p += 1;
      t += 1;
    } else if (star >= 0) {
      p = star + 1;
      t = ++afterStar;
    } else {
      return false;
    }
  }
  while (pattern[p] === '*') p += 1;
  return p === pattern.length;
}
