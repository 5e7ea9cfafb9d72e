/** Byte-level BPE: words from a pre-tokenizer, merged by rank. */
import type { Vocabulary } from "../gguf/index.js";
import { byteChars } from "./byte-alphabet.js";
import type { Encoder } from "./encoder.js";
import { TokenizerError } from "./errors.js";
import { wordCacheCharsMax, wordCacheEntriesMax } from "./limits.js";
import { MergeHeap } from "./merge-heap.js";
import { MergeTable } from "./merge-table.js";
import type { PreTokenizer } from "./pre-tokenizers.js";

/**
 * Symbols are token ids; strings that merges name but that are no tokens get numbers from the
 * vocabulary's size on.
 */
interface Symbols {
  readonly merges: MergeTable;
  /** Symbol of each byte. */
  readonly ofByte: Int32Array;
  /** Text of the symbols that are no tokens. */
  readonly extra: readonly string[];
}

function readMerges(vocabulary: Vocabulary, ids: ReadonlyMap<string, number>): Symbols {
  const extra: string[] = [];
  const extraIds = new Map<string, number>();
  const symbolOf = (text: string): number => {
    const known = ids.get(text) ?? extraIds.get(text);
    if (known !== undefined) return known;
    const symbol = vocabulary.tokens.length + extra.length;
    extra.push(text);
    extraIds.set(text, symbol);
    return symbol;
  };
  const ofByte = Int32Array.from(byteChars, symbolOf);
  const merges = new MergeTable(vocabulary.merges.length);
  for (const [rank, text] of vocabulary.merges.entries()) {
    const space = text.indexOf(" ", 1);
    if (space < 0 || space === text.length - 1) {
      throw new TokenizerError(
        "vocabulary",
        `merge ${rank} is ${JSON.stringify(text.slice(0, 80))}, two symbols expected`,
      );
    }
    const [left, right] = [text.slice(0, space), text.slice(space + 1)];
    merges.add(symbolOf(left), symbolOf(right), rank, symbolOf(left + right));
  }
  return { merges, ofByte, extra };
}

/** Encodes with a `gpt2` vocabulary. */
export class BpeEncoder implements Encoder {
  readonly #words: PreTokenizer;
  readonly #symbols: Symbols;
  readonly #tokens: readonly string[];
  readonly #isControl: (id: number) => boolean;
  /** Ids by text, kept only where whole words are looked up in it. */
  readonly #ids: ReadonlyMap<string, number> | undefined;
  /** Ids of the tokens that are one ASCII character; -1 where there is none. */
  readonly #asciiIds: Int32Array;
  readonly #cache = new Map<string, readonly number[]>();
  readonly #utf8 = new TextEncoder();
  readonly #heap = new MergeHeap();
  #symbol = new Int32Array(64);
  #length = new Int32Array(64);
  #previous = new Int32Array(64);
  #next = new Int32Array(64);

  constructor(
    vocabulary: Vocabulary,
    ids: ReadonlyMap<string, number>,
    words: PreTokenizer,
    isControl: (id: number) => boolean,
  ) {
    this.#words = words;
    this.#symbols = readMerges(vocabulary, ids);
    this.#tokens = vocabulary.tokens;
    this.#isControl = isControl;
    this.#ids = words.ignoreMerges ? ids : undefined;
    this.#asciiIds = Int32Array.from(
      { length: 128 },
      (_, code) => ids.get(String.fromCharCode(code)) ?? -1,
    );
  }

  encode(text: string, ids: number[]): void {
    for (const word of this.#words.split(text)) {
      const known = this.#cache.get(word);
      if (known !== undefined) {
        for (const id of known) ids.push(id);
        continue;
      }
      const begin = ids.length;
      this.#encodeWord(word, ids);
      if (word.length <= wordCacheCharsMax) {
        if (this.#cache.size === wordCacheEntriesMax) this.#cache.clear();
        this.#cache.set(word, ids.slice(begin));
      }
    }
  }

  #encodeWord(word: string, ids: number[]): void {
    const bytes = this.#utf8.encode(word);
    if (this.#ids !== undefined) {
      const id = this.#ids.get(Array.from(bytes, (byte) => byteChars[byte] ?? "").join(""));
      if (id !== undefined && !this.#isControl(id)) {
        ids.push(id);
        return;
      }
    }
    const count = bytes.length;
    this.#reserve(count);
    for (let i = 0; i < count; i++) {
      this.#symbol[i] = this.#symbols.ofByte[bytes[i] ?? 0] ?? 0;
      this.#length[i] = 1;
      this.#previous[i] = i - 1;
      this.#next[i] = i + 1 < count ? i + 1 : -1;
    }
    for (let i = 0; i + 1 < count; i++) this.#queue(i, i + 1);
    while (this.#heap.pop()) this.#merge(this.#heap.left, this.#heap.size);
    for (let i = 0; i >= 0; i = this.#next[i] ?? -1) this.#emit(this.#symbol[i] ?? 0, ids);
  }

  #queue(left: number, right: number): void {
    const rank = this.#symbols.merges.rank(this.#symbol[left] ?? 0, this.#symbol[right] ?? 0);
    if (rank < 0) return;
    this.#heap.push(rank, left, (this.#length[left] ?? 0) + (this.#length[right] ?? 0));
  }

  /** Merges a queued pair, unless one of its symbols has changed since. */
  #merge(left: number, size: number): void {
    const right = this.#next[left] ?? -1;
    const leftLength = this.#length[left] ?? 0;
    if (leftLength === 0 || right < 0 || leftLength + (this.#length[right] ?? 0) !== size) return;
    this.#symbol[left] = this.#symbols.merges.merged(
      this.#symbol[left] ?? 0,
      this.#symbol[right] ?? 0,
    );
    this.#length[left] = size;
    this.#length[right] = 0;
    const next = this.#next[right] ?? -1;
    this.#next[left] = next;
    if (next >= 0) {
      this.#previous[next] = left;
      this.#queue(left, next);
    }
    const previous = this.#previous[left] ?? -1;
    if (previous >= 0) this.#queue(previous, left);
  }

  /**
   * Appends a symbol's token. One that is no token, or that a user's text must not reach, is spelt
   * out in single characters as far as the vocabulary has them, as llama.cpp does.
   */
  #emit(symbol: number, ids: number[]): void {
    if (symbol < this.#tokens.length && !this.#isControl(symbol)) {
      ids.push(symbol);
      return;
    }
    const text = this.#tokens[symbol] ?? this.#symbols.extra[symbol - this.#tokens.length] ?? "";
    for (let i = 0; i < text.length; i++) {
      const id = this.#asciiIds[text.charCodeAt(i)] ?? -1;
      if (id >= 0 && !this.#isControl(id)) ids.push(id);
    }
  }

  #reserve(count: number): void {
    if (count <= this.#symbol.length && this.#symbol.length <= 1 << 16) return;
    const length = Math.max(64, count);
    this.#symbol = new Int32Array(length);
    this.#length = new Int32Array(length);
    this.#previous = new Int32Array(length);
    this.#next = new Int32Array(length);
  }
}
