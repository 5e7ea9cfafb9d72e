/** Rendezvous hashing: adding or removing a name moves only the sessions of that name. */

/** The name of highest weight for a key; empty if there is none. */
export function highestWeight(names: readonly string[], key: string): string {
  let best = "";
  let bestWeight = -1;
  for (const name of names) {
    const weight = fnv1a(`${name}\n${key}`);
    if (weight > bestWeight) {
      best = name;
      bestWeight = weight;
    }
  }
  return best;
}

/** FNV-1a, 32 bits, with a final mix so that names that differ in the last character spread. */
export function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
