/** Small vocabularies for tests. */
import { tokenTypes } from "../../gguf/index.js";
import type { Vocabulary } from "../../gguf/index.js";
import { byteChars } from "../byte-alphabet.js";
import { byteTokenText } from "../spm-encoder.js";

const { normal, control, userDefined, unknown, byte } = tokenTypes;

function vocabulary(
  entries: readonly (readonly [text: string, type: number, score?: number])[],
  rest: Partial<Vocabulary> & Pick<Vocabulary, "model">,
): Vocabulary {
  return {
    pre: "default",
    tokens: entries.map(([text]) => text),
    types: Uint8Array.from(entries, ([, type]) => type),
    scores: Float32Array.from(entries, ([, , score]) => score ?? 0),
    merges: [],
    named: {},
    addBos: undefined,
    addSpacePrefix: undefined,
    ...rest,
  };
}

/** SentencePiece style: 0 <unk>, 1 <s>, 2 </s>, 3.. bytes, then pieces; "</" + "s>" could spell EOS. */
export function spmVocabulary(change: Partial<Vocabulary> = {}): Vocabulary {
  const pieces = ["▁", "a", "b", "ab", "▁a", "▁ab", "</", "s>", "<", "/", "s", ">", "é", "x▁"];
  return vocabulary(
    [
      ["<unk>", unknown],
      ["<s>", control],
      ["</s>", control],
      ...Array.from({ length: 256 }, (_, value) => [byteTokenText(value), byte] as const),
      ...pieces.map((text, rank) => [text, normal, -rank] as const),
      ["<think>", userDefined],
    ],
    { model: "llama", named: { bos: 1, eos: 2, unknown: 0 }, ...change },
  );
}

/** Byte-level: 0.. bytes, then merged pieces, then control and user-defined tokens. */
export function bpeVocabulary(change: Partial<Vocabulary> = {}): Vocabulary {
  const merges = [
    "h e",
    "l l",
    "he ll",
    "hell o",
    "Ġ w",
    "o r",
    "Ġw or",
    "< |",
    "<| e",
    "<|e nd",
    "n d",
  ];
  const pieces = ["he", "ll", "hell", "hello", "Ġw", "or", "Ġwor", "<|", "nd"];
  return vocabulary(
    [
      ...byteChars.map((text) => [text, normal] as const),
      ...pieces.map((text) => [text, normal] as const),
      ["<|im_start|>", control],
      ["<|im_end|>", control],
      ["<|end|>", normal],
      ["<think>", userDefined],
    ],
    {
      model: "gpt2",
      pre: "smollm",
      scores: new Float32Array(0),
      merges,
      named: { bos: byteChars.length + pieces.length, eos: byteChars.length + pieces.length + 1 },
      ...change,
    },
  );
}
