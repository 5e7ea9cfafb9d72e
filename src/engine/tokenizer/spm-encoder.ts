/** SentencePiece-style encoding: neighbours are merged into the token of the best score. */
import type { Vocabulary } from "../gguf/index.js";
import type { Encoder } from "./encoder.js";
import { MergeHeap } from "./merge-heap.js";

/** The mark that vocabularies of this kind write for a space. */
export const spaceMark = "\u2581";

/** Name of the token of a byte. */
export function byteTokenText(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
}

/** Encodes with a `llama` vocabulary. Spaces must have been replaced by spaceMark. */
export class SpmEncoder implements Encoder {
  readonly #ids: ReadonlyMap<string, number>;
  readonly #scores: Float32Array;
  readonly #isControl: (id: number) => boolean;
  /** Longest token, in UTF-16 units. */
  readonly #tokenCharsMax: number;
  /** Token of each byte; -1 where there is none. */
  readonly #byteIds: Int32Array;
  readonly #utf8 = new TextEncoder();

  constructor(
    vocabulary: Vocabulary,
    ids: ReadonlyMap<string, number>,
    isControl: (id: number) => boolean,
  ) {
    this.#ids = ids;
    this.#scores = vocabulary.scores;
    this.#isControl = isControl;
    this.#tokenCharsMax = vocabulary.tokens.reduce((max, text) => Math.max(max, text.length), 0);
    const fallback = vocabulary.named.unknown ?? -1;
    this.#byteIds = Int32Array.from({ length: 256 }, (_, byte) => {
      const raw = byte < 0x80 ? ids.get(String.fromCharCode(byte)) : undefined;
      return ids.get(byteTokenText(byte)) ?? raw ?? fallback;
    });
  }

  encode(text: string, ids: number[]): void {
    if (text.length === 0) return;
    // Symbols are runs of the text: where each begins, its length (0 once merged), its neighbours.
    const begins = new Int32Array(text.length);
    const lengths = new Int32Array(text.length);
    let count = 0;
    for (const char of text) {
      begins[count] = count === 0 ? 0 : (begins[count - 1] ?? 0) + (lengths[count - 1] ?? 0);
      lengths[count++] = char.length;
    }
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const next = Int32Array.from({ length: count }, (_, i) => (i + 1 < count ? i + 1 : -1));
    const heap = new MergeHeap();

    const queue = (left: number, right: number): void => {
      const begin = begins[left] ?? 0;
      const size = (lengths[left] ?? 0) + (lengths[right] ?? 0);
      if (size > this.#tokenCharsMax) return;
      const id = this.#tokenOf(text.slice(begin, begin + size));
      if (id >= 0) heap.push(-(this.#scores[id] ?? 0), left, size);
    };

    for (let i = 0; i + 1 < count; i++) queue(i, i + 1);
    while (heap.pop()) {
      const { left, size } = heap;
      const right = next[left] ?? -1;
      const leftLength = lengths[left] ?? 0;
      if (leftLength === 0 || right < 0 || leftLength + (lengths[right] ?? 0) !== size) continue;
      lengths[left] = size;
      lengths[right] = 0;
      const after = next[right] ?? -1;
      next[left] = after;
      if (after >= 0) {
        previous[after] = left;
        queue(left, after);
      }
      const before = previous[left] ?? -1;
      if (before >= 0) queue(before, left);
    }

    for (let i = 0; i >= 0; i = next[i] ?? -1) {
      const begin = begins[i] ?? 0;
      this.#emit(text.slice(begin, begin + (lengths[i] ?? 0)), ids);
    }
  }

  /** The token that a run of text may become; -1 for none, and for those a text must not reach. */
  #tokenOf(text: string): number {
    const id = this.#ids.get(text) ?? -1;
    return id >= 0 && this.#isControl(id) ? -1 : id;
  }

  /** Appends the token of a run, or those of its bytes. */
  #emit(run: string, ids: number[]): void {
    const id = this.#tokenOf(run);
    if (id >= 0) {
      ids.push(id);
      return;
    }
    for (const byte of this.#utf8.encode(run)) {
      const byteId = this.#byteIds[byte] ?? -1;
      if (byteId >= 0) ids.push(byteId);
    }
  }
}
