/** The token table of a model file, as far as it needs no knowledge of tokenizing. */
import { ModelFileError, quote } from "./errors.js";
import { arrayElementsMax, vocabMax } from "./limits.js";
import { required } from "./metadata.js";
import type { Metadata } from "./metadata.js";

/** Kinds of tokens, by their number in files. */
export const tokenTypes = {
  undefined: 0,
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

/** Ids that a file names. */
export interface NamedTokens {
  readonly bos?: number;
  readonly eos?: number;
  readonly eot?: number;
  readonly eom?: number;
  readonly unknown?: number;
}

/** A token table. It is large: drop it once a tokenizer is built. */
export interface Vocabulary {
  /** `llama`: SentencePiece-style pieces with scores; `gpt2`: byte-level BPE with merges. */
  readonly model: "llama" | "gpt2";
  /** Name of the pre-tokenizer; "default" where the file has none. */
  readonly pre: string;
  /** Text of each token, by id; all different. */
  readonly tokens: readonly string[];
  /** tokenTypes of each token. */
  readonly types: Uint8Array;
  /** Score of each token; empty for `gpt2`. */
  readonly scores: Float32Array;
  /** Pairs "left right" in order of rank; empty for `llama`. */
  readonly merges: readonly string[];
  readonly named: NamedTokens;
  /** The file's switches; undefined where it leaves them to the tokenizer's kind. */
  readonly addBos: boolean | undefined;
  readonly addSpacePrefix: boolean | undefined;
}

const namedKeys: readonly (readonly [keyof NamedTokens, string])[] = [
  ["bos", "bos_token_id"],
  ["eos", "eos_token_id"],
  ["eot", "eot_token_id"],
  ["eom", "eom_token_id"],
  ["unknown", "unknown_token_id"],
];

/** Tokens of single bytes are named by their value. */
const byteTokenName = /^<0x[0-9A-Fa-f]{2}>$/;

function readTokens(metadata: Metadata): string[] {
  const key = "tokenizer.ggml.tokens";
  const texts = required(metadata.texts(key), key);
  if (texts.length < 1 || texts.length > vocabMax) {
    throw new ModelFileError("vocabulary", `${texts.length} tokens, 1 to ${vocabMax} allowed`);
  }
  // Empty texts would all be the same token; llama.cpp gives them this name too.
  const tokens = texts.map((text, id) => (text === "" ? `[EMPTY_${id}]` : text));
  const seen = new Map<string, number>();
  for (const [id, text] of tokens.entries()) {
    const other = seen.get(text);
    if (other !== undefined) {
      throw new ModelFileError("vocabulary", `tokens ${other} and ${id} are both ${quote(text)}`);
    }
    seen.set(text, id);
  }
  return tokens;
}

function readColumn(metadata: Metadata, key: string, count: number): readonly number[] | undefined {
  const values = metadata.numbers(key);
  if (values !== undefined && values.length !== count) {
    throw new ModelFileError(
      "vocabulary",
      `${key} has ${values.length} elements, the token table ${count}`,
    );
  }
  return values;
}

/** Reads the token table. Throws ModelFileError. */
export function readVocabulary(metadata: Metadata): Vocabulary {
  const model = required(metadata.text("tokenizer.ggml.model"), "tokenizer.ggml.model");
  if (model !== "llama" && model !== "gpt2") {
    throw new ModelFileError(
      "vocabulary",
      `tokenizer ${quote(model)} is not supported, only llama and gpt2`,
    );
  }
  const tokens = readTokens(metadata);
  const count = tokens.length;
  const types = readColumn(metadata, "tokenizer.ggml.token_type", count);
  const wrongType = types?.find(
    (type) => !Number.isInteger(type) || type < 0 || type > tokenTypes.byte,
  );
  if (wrongType !== undefined) {
    throw new ModelFileError(
      "vocabulary",
      `token type ${wrongType} is outside 0 to ${tokenTypes.byte}`,
    );
  }
  const wrongByte = tokens.find(
    (text, id) => types?.[id] === tokenTypes.byte && !byteTokenName.test(text),
  );
  if (wrongByte !== undefined) {
    throw new ModelFileError(
      "vocabulary",
      `byte token ${quote(wrongByte)} is not named like <0x0A>`,
    );
  }
  const scores = model === "llama" ? readColumn(metadata, "tokenizer.ggml.scores", count) : [];
  if (scores === undefined || scores.some((score) => !Number.isFinite(score))) {
    throw new ModelFileError(
      "vocabulary",
      "a llama tokenizer needs one finite score for each token",
    );
  }
  const merges = model === "gpt2" ? metadata.texts("tokenizer.ggml.merges") : [];
  if (merges === undefined || merges.length > arrayElementsMax) {
    throw new ModelFileError("vocabulary", "a gpt2 tokenizer needs tokenizer.ggml.merges");
  }
  // What the first converters took for granted, as llama.cpp still does.
  const named: { -readonly [K in keyof NamedTokens]: number } =
    model === "llama" && count > 2 ? { unknown: 0, bos: 1, eos: 2 } : {};
  for (const [name, key] of namedKeys) {
    const id = metadata.integer(`tokenizer.ggml.${key}`, 0, 2 ** 32 - 1);
    // Files name ids beyond their table (-1 as a 32-bit number) for tokens that they do not have.
    if (id !== undefined && id < count) named[name] = id;
  }
  return {
    model,
    pre: metadata.text("tokenizer.ggml.pre") ?? "default",
    tokens,
    types:
      types === undefined ? new Uint8Array(count).fill(tokenTypes.normal) : Uint8Array.from(types),
    scores: Float32Array.from(scores),
    merges,
    named,
    addBos: metadata.flag("tokenizer.ggml.add_bos_token"),
    addSpacePrefix: metadata.flag("tokenizer.ggml.add_space_prefix"),
  };
}
