/**
 * What single tokens mean. Files name a few of them; the others are known by their text, as in
 * llama.cpp, because converters leave them out (https://github.com/ggml-org/llama.cpp/issues/9606).
 */
import { tokenTypes } from "../gguf/index.js";
import type { Vocabulary } from "../gguf/index.js";

/** Facts of a model's tokens. */
export interface TokenFacts {
  /** Tokens in all; ids are 0 .. vocabSize - 1. */
  readonly vocabSize: number;
  /** Begins a prompt. */
  readonly bos: number | undefined;
  /** Ends a text. */
  readonly eos: number | undefined;
  /** Ends a turn, where the model has a token of its own for that. */
  readonly eot: number | undefined;
  /** Every token that ends generation. */
  readonly endOfGeneration: ReadonlySet<number>;
  /** A prompt begins with `bos`. */
  readonly addBos: boolean;
}

/** Ends of a turn, most specific first: files that have several mean the first of these. */
const turnEnds = [
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<end_of_turn>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<EOT>",
  "_<EOT>",
  "[EOT]",
  "<｜end▁of▁sentence｜>",
  "<end_of_utterance>",
];

/** Further texts that end generation. */
const otherEnds = ["<|eom_id|>", "<|return|>", "<|call|>", "</s>", "[EOS]", "<eos>"];

/** Fill-in-the-middle tokens: they are control tokens, and the first of each list ends generation. */
const fillEnds: readonly (readonly string[])[] = [
  ["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
  ["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
  ["<|file_sep|>"],
];
const fillParts: readonly (readonly string[])[] = [
  ["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "▁<PRE>"],
  ["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "▁<SUF>"],
  ["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "▁<MID>"],
];

/** Token types as they are used, and facts. `addBosDefault` counts where the file says nothing. */
export function tokenFacts(
  vocabulary: Vocabulary,
  ids: ReadonlyMap<string, number>,
  addBosDefault: boolean,
): { facts: TokenFacts; types: Uint8Array } {
  const { named } = vocabulary;
  const types = vocabulary.types.slice();
  const first = (texts: readonly string[]): number | undefined =>
    texts.map((text) => ids.get(text)).find((id) => id !== undefined);

  const eot = named.eot ?? first(turnEnds);
  const ends = new Set<number>();
  for (const text of [...turnEnds, ...otherEnds]) {
    const id = ids.get(text);
    if (id !== undefined) ends.add(id);
  }
  for (const texts of fillEnds) {
    const id = first(texts);
    if (id !== undefined) ends.add(id);
  }
  // Control tokens by their text, even where a converter forgot to say so: a user must not write them.
  for (const id of ends) types[id] = tokenTypes.control;
  for (const texts of fillParts) {
    const id = first(texts);
    if (id !== undefined) types[id] = tokenTypes.control;
  }
  for (const id of [named.eos, named.eot, named.eom]) if (id !== undefined) ends.add(id);
  return {
    types,
    facts: {
      vocabSize: vocabulary.tokens.length,
      bos: named.bos,
      eos: named.eos,
      eot,
      endOfGeneration: ends,
      addBos: named.bos !== undefined && (vocabulary.addBos ?? addBosDefault),
    },
  };
}
