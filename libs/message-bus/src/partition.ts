/**
 * A 32-bit hash with all bits mixed, the same on every machine and in every release: which partition a
 * destination belongs to depends on it. FNV-1a over the UTF-16 units with MurmurHash3's finaliser.
 */
export function stableHash(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) {
    const unit = text.charCodeAt(index);
    hash = Math.imul(hash ^ (unit & 0xff), 0x01000193);
    hash = Math.imul(hash ^ (unit >>> 8), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/**
 * The partition of a key among `partitions`, on every adapter. A key that is the decimal number of a partition
 * goes there, so that whoever numbers its buckets fills all of them; any other key goes where its hash points.
 */
export function partitionOf(key: string, partitions: number): number {
  if (/^(0|[1-9]\d{0,8})$/.test(key)) return Number(key) % partitions;
  return stableHash(key) % partitions;
}
