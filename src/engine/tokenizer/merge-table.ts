/**
 * The merges of a BPE vocabulary: (left, right) -> (rank, merged), all symbols as numbers. An open
 * hash table in typed arrays: a Map of 150,000 string pairs takes six times the memory.
 */
export class MergeTable {
  readonly #mask: number;
  readonly #lefts: Int32Array;
  readonly #rights: Int32Array;
  readonly #ranks: Int32Array;
  readonly #merged: Int32Array;

  /** Makes room for `count` merges. */
  constructor(count: number) {
    let slots = 16;
    while (slots < 1.5 * count) slots *= 2;
    this.#mask = slots - 1;
    this.#lefts = new Int32Array(slots).fill(-1);
    this.#rights = new Int32Array(slots);
    this.#ranks = new Int32Array(slots);
    this.#merged = new Int32Array(slots);
  }

  /** Adds a merge; of two for the same pair the first one stays. */
  add(left: number, right: number, rank: number, merged: number): void {
    const slot = this.#slot(left, right);
    if (this.#lefts[slot] !== -1) return;
    this.#lefts[slot] = left;
    this.#rights[slot] = right;
    this.#ranks[slot] = rank;
    this.#merged[slot] = merged;
  }

  /** Rank of a pair, -1 when it does not merge. */
  rank(left: number, right: number): number {
    const slot = this.#slot(left, right);
    return this.#lefts[slot] === -1 ? -1 : (this.#ranks[slot] ?? -1);
  }

  /** What a pair that has a rank becomes. */
  merged(left: number, right: number): number {
    return this.#merged[this.#slot(left, right)] ?? -1;
  }

  #slot(left: number, right: number): number {
    let slot = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 8;
    for (;;) {
      slot &= this.#mask;
      const found = this.#lefts[slot];
      if (found === -1 || (found === left && this.#rights[slot] === right)) return slot;
      slot++;
    }
  }
}
