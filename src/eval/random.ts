/** Random numbers that a text names: the same text gives the same samples on every machine. */

/** FNV-1a over UTF-16 units, started at `start`. */
function hash(text: string, start: number): number {
  let value = start >>> 0;
  for (let at = 0; at < text.length; at++) {
    value = Math.imul(value ^ text.charCodeAt(at), 0x01000193) >>> 0;
  }
  return value;
}

function rotate(value: number, by: number): number {
  return (value << by) | (value >>> (32 - by));
}

/** Numbers drawn before the first one that counts, so that near seeds part. */
const warmUpDraws = 16;

/** A xoshiro128** generator. */
export class SeededRandom {
  readonly #state: Int32Array;

  /** @param seed any text */
  constructor(seed: string) {
    this.#state = Int32Array.from([0x811c9dc5, 0x9747b28c, 0x2c1b3c6d, 0x297a2d39], (start) =>
      hash(seed, start),
    );
    // A state of zeroes would stay one.
    this.#state[0] = (this.#state[0] ?? 0) | 1;
    for (let draw = 0; draw < warmUpDraws; draw++) this.uint32();
  }

  /** 0 .. 2^32 - 1. */
  uint32(): number {
    const [a = 0, b = 0, c = 0, d = 0] = this.#state;
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const c1 = c ^ a;
    const d1 = d ^ b;
    this.#state[0] = a ^ d1;
    this.#state[1] = b ^ c1;
    this.#state[2] = c1 ^ (b << 9);
    this.#state[3] = rotate(d1, 11);
    return result;
  }

  /** 0 up to, but not including, 1. */
  unit(): number {
    return this.uint32() / 2 ** 32;
  }

  /** A whole number, 0 .. count - 1. */
  below(count: number): number {
    return Math.floor(this.unit() * count);
  }

  /** One of the items. @throws RangeError if there are none */
  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError("0 items to draw from, at least 1 needed");
    return item;
  }

  /** The items in another order. */
  shuffled<T>(items: readonly T[]): T[] {
    const keyed = items.map((item) => ({ item, key: this.uint32() }));
    return keyed.sort((a, b) => a.key - b.key).map(({ item }) => item);
  }

  /** `count` of the items, each at most once. @throws RangeError if there are fewer */
  sample<T>(items: readonly T[], count: number): T[] {
    if (count > items.length) {
      throw new RangeError(`${count} items wanted, ${items.length} are there`);
    }
    // Few of many: only so many numbers are drawn.
    if (2 * count > items.length) return this.shuffled(items).slice(0, count);
    const chosen = new Set<number>();
    while (chosen.size < count) chosen.add(this.below(items.length));
    return [...chosen].flatMap((index) => items.slice(index, index + 1));
  }

  /** A number of `count` decimal digits, the first of them not 0. */
  digits(count: number): string {
    const first = 1 + this.below(9);
    return `${first}${Array.from({ length: count - 1 }, () => this.below(10)).join("")}`;
  }

  /** `count` letters of an alphabet. */
  letters(alphabet: string, count: number): string {
    return Array.from({ length: count }, () => alphabet.charAt(this.below(alphabet.length))).join(
      "",
    );
  }

  /** 32 hexadecimal digits in the groups of a UUID. */
  uuid(): string {
    const hex = this.letters("0123456789abcdef", 32);
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  }

  /** `count` different values of a maker. @throws RangeError if it does not have so many */
  different(count: number, make: () => string): string[] {
    const values = new Set<string>();
    const drawsMax = 100 * (count + 10);
    for (let draw = 0; values.size < count; draw++) {
      if (draw >= drawsMax) {
        throw new RangeError(`${values.size} different values in ${draw} draws, ${count} wanted`);
      }
      values.add(make());
    }
    return [...values];
  }
}
