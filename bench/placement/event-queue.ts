/** Events by time, as a binary heap; those of one time come in the order in which they were put in. */

interface Entry<T> {
  readonly atMs: number;
  readonly order: number;
  readonly item: T;
}

/** See the head of this file. */
export class EventQueue<T> {
  readonly #heap: Entry<T>[] = [];
  #order = 0;

  /** Time of the next event; infinite if there is none. */
  get nextMs(): number {
    return this.#heap[0]?.atMs ?? Infinity;
  }

  /** Puts an event in. */
  push(atMs: number, item: T): void {
    const entry = { atMs, order: this.#order++, item };
    const heap = this.#heap;
    let at = heap.length;
    heap.push(entry);
    while (at > 0) {
      const up = (at - 1) >> 1;
      const parent = heap[up];
      if (parent === undefined || !before(entry, parent)) break;
      heap[at] = parent;
      at = up;
    }
    heap[at] = entry;
  }

  /** Takes the next event out. */
  pop(): T | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first?.item;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      let child = heap[down];
      const right = heap[down + 1];
      if (child !== undefined && right !== undefined && before(right, child)) {
        child = right;
        down++;
      }
      if (child === undefined || !before(child, last)) break;
      heap[at] = child;
      at = down;
    }
    heap[at] = last;
    return first.item;
  }
}

function before<T>(a: Entry<T>, b: Entry<T>): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
