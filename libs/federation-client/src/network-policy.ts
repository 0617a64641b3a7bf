import ipaddr from 'ipaddr.js';

type Address = ipaddr.IPv4 | ipaddr.IPv6;

/** A network in CIDR form. */
export interface Network {
  readonly address: Address;
  readonly prefixBits: number;
}

/**
 * Reads CIDR texts such as `127.0.0.0/8` or `fd00::/8`; an address alone is a network of one. Throws `TypeError`
 * naming the first that is neither.
 */
export function parseNetworks(texts: readonly string[]): readonly Network[] {
  return texts.map((text) => {
    try {
      const [address, prefixBits] = text.includes('/') ? ipaddr.parseCIDR(text) : wholeAddress(text);
      return { address, prefixBits };
    } catch (cause) {
      throw new TypeError(`${JSON.stringify(text)} is no network in CIDR form`, { cause });
    }
  });
}

function wholeAddress(text: string): [Address, number] {
  if (!ipaddr.IPv4.isValidFourPartDecimal(text) && !ipaddr.IPv6.isValid(text)) throw new TypeError(text);
  const address = ipaddr.parse(text);
  return [address, address.kind() === 'ipv4' ? 32 : 128];
}

const globalUnicast = ipaddr.IPv6.parse('2000::');

/**
 * Whether a request may be sent to this address (text, as a resolver gives it): it is public unicast, or inside one
 * of the networks allowed by configuration. Loopback, private, link-local (cloud metadata), CGNAT, multicast,
 * unspecified, documentation and every other special range are refused, and so is what is no address. An IPv4
 * address inside an IPv6 one (mapped, or behind NAT64) counts as the IPv4 address it leads to; 6to4 and Teredo, which
 * hide one too, are refused. (DS-07)
 */
export function mayDial(address: string, allowed: readonly Network[]): boolean {
  const parsed = parseAddress(address);
  if (parsed === undefined) return false;
  if (isPublic(parsed)) return true;
  return allowed.some(
    (network) =>
      network.address.kind() === parsed.kind() && parsed.match(network.address, network.prefixBits),
  );
}

function isPublic(address: Address): boolean {
  // Of IPv6 only 2000::/3 is given out; what lies outside needs no name of its own to be refused.
  return (
    address.range() === 'unicast' &&
    (address.kind() === 'ipv4' || (address as ipaddr.IPv6).match(globalUnicast, 3))
  );
}

function parseAddress(text: string): Address | undefined {
  // Short and octal forms of IPv4 are no addresses here: a resolver turns them into four decimal parts.
  if (!ipaddr.IPv4.isValidFourPartDecimal(text) && !ipaddr.IPv6.isValid(text)) return undefined;
  const address = ipaddr.parse(text);
  if (address.kind() === 'ipv4') return address;
  const bytes = address.toByteArray();
  const isNat64 = bytes.slice(0, 12).join() === '0,100,255,155,0,0,0,0,0,0,0,0';
  const isMapped = bytes.slice(0, 10).every((byte) => byte === 0) && bytes[10] === 255 && bytes[11] === 255;
  return isNat64 || isMapped ? new ipaddr.IPv4(bytes.slice(12)) : address;
}
