/**
 * SHA-256 (FIPS 180-4) of what is short. A call into the runtime takes a dozen microseconds whatever it hashes, as long as some
 * hundred bytes take here; a turn hashes half a dozen such: keys, names, and other hashes.
 */

/** Most bytes that are hashed here: with padding they are four blocks. */
export const shortBytesMax = 247;

const blockBytes = 64;
/** Square and cube roots of the first primes give the algorithm's constants. */
const primes: readonly number[] = firstPrimes(64);
const initial = Int32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime)));
const rounds = Int32Array.from(primes, (prime) => fraction(Math.cbrt(prime)));

// Nothing waits between two hashes, so all of them share what they work in.
const message = new Uint8Array(4 * blockBytes);
const words = new Int32Array(64);
const state = new Int32Array(8);

/** The hash, 32 bytes; undefined for more than shortBytesMax bytes, and for text that is not ASCII. */
export function shortSha256(...parts: readonly (string | Uint8Array)[]): Uint8Array | undefined {
  const length = gather(parts);
  if (length === undefined) {
    return undefined;
  }
  const end = Math.ceil((length + 9) / blockBytes) * blockBytes;
  message[length] = 0x80;
  message.fill(0, length + 1, end);
  // Its bits; the length's other six bytes stay 0.
  message[end - 2] = length >>> 5;
  message[end - 1] = length << 3;
  state.set(initial);
  for (let at = 0; at < end; at += blockBytes) {
    addBlock(at);
  }
  const hash = new Uint8Array(32);
  for (let index = 0; index < hash.length; index++) {
    hash[index] = (state[index >>> 2] ?? 0) >>> (24 - 8 * (index & 3));
  }
  return hash;
}

/** Puts all parts one after the other into `message`; undefined where they cannot be hashed here. */
function gather(parts: readonly (string | Uint8Array)[]): number | undefined {
  let length = 0;
  for (const part of parts) {
    if (length + part.length > shortBytesMax) {
      return undefined;
    }
    if (typeof part !== "string") {
      message.set(part, length);
      length += part.length;
      continue;
    }
    for (let at = 0; at < part.length; at++) {
      const unit = part.charCodeAt(at);
      if (unit >= 0x80) {
        return undefined;
      }
      message[length++] = unit;
    }
  }
  return length;
}

function addBlock(from: number): void {
  for (let index = 0; index < 16; index++) {
    const at = from + 4 * index;
    words[index] = (byte(at) << 24) | (byte(at + 1) << 16) | (byte(at + 2) << 8) | byte(at + 3);
  }
  for (let index = 16; index < 64; index++) {
    const early = words[index - 15] ?? 0;
    const late = words[index - 2] ?? 0;
    const mixedEarly = turned(early, 7) ^ turned(early, 18) ^ (early >>> 3);
    const mixedLate = turned(late, 17) ^ turned(late, 19) ^ (late >>> 10);
    words[index] = (words[index - 16] ?? 0) + mixedEarly + (words[index - 7] ?? 0) + mixedLate;
  }
  let [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = state;
  for (let index = 0; index < 64; index++) {
    const chosen = (e & f) ^ (~e & g);
    const mixed = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
    const sum = (h + mixed + chosen + (rounds[index] ?? 0) + (words[index] ?? 0)) | 0;
    const majority = (a & b) ^ (a & c) ^ (b & c);
    h = g;
    g = f;
    f = e;
    e = (d + sum) | 0;
    d = c;
    const mixedFirst = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22);
    c = b;
    b = a;
    a = (sum + mixedFirst + majority) | 0;
  }
  add(0, a);
  add(1, b);
  add(2, c);
  add(3, d);
  add(4, e);
  add(5, f);
  add(6, g);
  add(7, h);
}

function byte(at: number): number {
  return message[at] ?? 0;
}

function add(index: number, value: number): void {
  state[index] = (state[index] ?? 0) + value;
}

/** Turned to the right. */
function turned(word: number, bits: number): number {
  return (word >>> bits) | (word << (32 - bits));
}

/** The first 32 bits behind the point. */
function fraction(value: number): number {
  return Math.floor((value - Math.floor(value)) * 2 ** 32);
}

function firstPrimes(count: number): number[] {
  const found: number[] = [];
  for (let number = 2; found.length < count; number++) {
    if (found.every((prime) => number % prime !== 0)) {
      found.push(number);
    }
  }
  return found;
}
