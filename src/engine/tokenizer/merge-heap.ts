/**
 * The queue of pairs that may be merged: lowest priority value first, leftmost first among equals,
 * which is the order that both kinds of tokenizers are defined by.
 */
export class MergeHeap {
  #priorities = new Float64Array(64);
  #lefts = new Int32Array(64);
  #sizes = new Int32Array(64);
  #count = 0;

  /** Left symbol of the pair that `pop` took out. */
  left = 0;
  /** Size of that pair when it was pushed; another size now means that it is out of date. */
  size = 0;

  /** Adds a pair. */
  push(priority: number, left: number, size: number): void {
    if (this.#count === this.#lefts.length) this.#grow();
    let at = this.#count++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#comesFirst(priority, left, parent)) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#put(at, priority, left, size);
  }

  /** Takes out the first pair into `left` and `size`; false when there is none. */
  pop(): boolean {
    if (this.#count === 0) return false;
    this.left = this.#lefts[0] ?? 0;
    this.size = this.#sizes[0] ?? 0;
    const last = --this.#count;
    const priority = this.#priorities[last] ?? 0;
    const left = this.#lefts[last] ?? 0;
    const size = this.#sizes[last] ?? 0;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= last) break;
      if (
        child + 1 < last &&
        this.#comesFirst(this.#priorities[child + 1] ?? 0, this.#lefts[child + 1] ?? 0, child)
      ) {
        child++;
      }
      if (this.#comesFirst(priority, left, child)) break;
      this.#move(child, at);
      at = child;
    }
    this.#put(at, priority, left, size);
    return true;
  }

  #comesFirst(priority: number, left: number, at: number): boolean {
    const other = this.#priorities[at] ?? 0;
    return priority < other || (priority === other && left < (this.#lefts[at] ?? 0));
  }

  #put(at: number, priority: number, left: number, size: number): void {
    this.#priorities[at] = priority;
    this.#lefts[at] = left;
    this.#sizes[at] = size;
  }

  #move(from: number, to: number): void {
    this.#put(to, this.#priorities[from] ?? 0, this.#lefts[from] ?? 0, this.#sizes[from] ?? 0);
  }

  #grow(): void {
    const length = 2 * this.#lefts.length;
    const [priorities, lefts, sizes] = [this.#priorities, this.#lefts, this.#sizes];
    this.#priorities = new Float64Array(length);
    this.#lefts = new Int32Array(length);
    this.#sizes = new Int32Array(length);
    this.#priorities.set(priorities);
    this.#lefts.set(lefts);
    this.#sizes.set(sizes);
  }
}
