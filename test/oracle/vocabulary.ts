/**
 * Synthetic vocabularies that llama.cpp accepts, so that a model of random weights is a complete
 * GGUF file: every piece beyond the alphabet is the join of two earlier pieces, as a trained
 * vocabulary's is.
 */
import type { MetadataValue } from "./gguf.js";
import type { SeededRandom } from "./random.js";

/** `spm`: SentencePiece with byte fallback. `bpe`: byte-level BPE with merges. */
export type VocabularyKind = "spm" | "bpe";

/** The smallest vocabulary of either kind: specials, 256 bytes, an alphabet. */
export const vocabularySizeMin = 384;

/** First id of an `spm` vocabulary that is text: three control tokens and 256 bytes come before. */
export const spmTextStart = 259;

/** Pieces longer than this many characters are not joined further. */
const pieceCharactersMax = 10;

// GGUF token types, as in llama.cpp's enum llama_token_type.
const tokenType = { normal: 1, unknown: 2, control: 3, byte: 6 } as const;

const punctuation = ".,:;!?'\"()-\n";
const alphabet = [
  ...Array.from("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"),
  ...Array.from(punctuation),
];

/** How GPT-2's byte-level BPE shows a byte as a printable character. */
function byteCharacters(): string[] {
  const shown = new Array<string>(256);
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    shown[byte] = String.fromCodePoint(printable ? byte : next++);
  }
  return shown;
}

/**
 * `count` new pieces, each two known pieces joined. `leading` is the word-start mark, which may only
 * begin a piece. Returns the pairs in the order in which a tokenizer should prefer them.
 */
function joinPieces(
  seeds: readonly string[],
  leading: string,
  count: number,
  random: SeededRandom,
): [string, string][] {
  const pieces = [...seeds];
  const known = new Set(pieces);
  const pairs: [string, string][] = [];
  // Letters come back as right halves more often than long pieces, as in real merges.
  const attemptsMax = 200 * count + 10_000;
  for (let attempt = 0; pairs.length < count; attempt++) {
    if (attempt === attemptsMax) throw new Error(`no ${count} joins in ${attemptsMax} attempts`);
    const left = pieces[random.below(pieces.length)] ?? leading;
    const right = pieces[random.below(pieces.length)] ?? leading;
    const joined = left + right;
    if (right.includes(leading) || joined.length > pieceCharactersMax || known.has(joined))
      continue;
    known.add(joined);
    pieces.push(joined);
    pairs.push([left, right]);
  }
  return pairs;
}

/** Metadata keys `tokenizer.ggml.*` of a vocabulary of exactly `size` tokens. */
export function vocabularyMetadata(
  kind: VocabularyKind,
  size: number,
  random: SeededRandom,
): Map<string, MetadataValue> {
  if (size < vocabularySizeMin) {
    throw new Error(`a vocabulary of ${size} is below the ${vocabularySizeMin} that it needs`);
  }
  return kind === "spm" ? spmMetadata(size, random) : bpeMetadata(size, random);
}

function spmMetadata(size: number, random: SeededRandom): Map<string, MetadataValue> {
  const tokens = ["<unk>", "<s>", "</s>"];
  const types: number[] = [tokenType.unknown, tokenType.control, tokenType.control];
  for (let byte = 0; byte < 256; byte++) {
    tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    types.push(tokenType.byte);
  }
  const letters = ["\u2581", ...alphabet.filter((letter) => letter !== "\n")];
  const scores = tokens.map(() => 0);
  const joins = joinPieces(letters, "\u2581", size - tokens.length - letters.length, random);
  for (const [index, [left, right]] of joins.entries()) {
    tokens.push(left + right);
    types.push(tokenType.normal);
    scores.push(-index);
  }
  for (const [index, letter] of letters.entries()) {
    tokens.push(letter);
    types.push(tokenType.normal);
    scores.push(-joins.length - index);
  }
  return new Map<string, MetadataValue>([
    ["tokenizer.ggml.model", { type: "string", value: "llama" }],
    ["tokenizer.ggml.pre", { type: "string", value: "default" }],
    ["tokenizer.ggml.tokens", { type: "strings", value: tokens }],
    ["tokenizer.ggml.scores", { type: "f32s", value: scores }],
    ["tokenizer.ggml.token_type", { type: "i32s", value: types }],
    ["tokenizer.ggml.bos_token_id", { type: "u32", value: 1 }],
    ["tokenizer.ggml.eos_token_id", { type: "u32", value: 2 }],
    ["tokenizer.ggml.unknown_token_id", { type: "u32", value: 0 }],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: true }],
    ["tokenizer.ggml.add_space_prefix", { type: "bool", value: true }],
  ]);
}

function bpeMetadata(size: number, random: SeededRandom): Map<string, MetadataValue> {
  const specials = ["<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"];
  const bytes = byteCharacters();
  const space = bytes[0x20] ?? "";
  const seeds = [space, ...alphabet.filter((letter) => letter !== "\n")];
  const joins = joinPieces(seeds, space, size - specials.length - bytes.length, random);
  const tokens = [...specials, ...bytes, ...joins.map(([left, right]) => left + right)];
  const types = tokens.map((_, id) =>
    id < specials.length ? tokenType.control : tokenType.normal,
  );
  return new Map<string, MetadataValue>([
    ["tokenizer.ggml.model", { type: "string", value: "gpt2" }],
    ["tokenizer.ggml.pre", { type: "string", value: "smollm" }],
    ["tokenizer.ggml.tokens", { type: "strings", value: tokens }],
    ["tokenizer.ggml.token_type", { type: "i32s", value: types }],
    ["tokenizer.ggml.merges", { type: "strings", value: joins.map((pair) => pair.join(" ")) }],
    ["tokenizer.ggml.bos_token_id", { type: "u32", value: 1 }],
    ["tokenizer.ggml.eos_token_id", { type: "u32", value: 5 }],
    ["tokenizer.ggml.padding_token_id", { type: "u32", value: 0 }],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: true }],
    ["tokenizer.ggml.add_space_prefix", { type: "bool", value: false }],
  ]);
}
