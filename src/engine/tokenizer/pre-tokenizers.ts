/**
 * How text is cut into words before byte-level BPE merges inside them. Each pre-tokenizer is a list
 * of expressions: every one cuts the parts that the ones before it left, its matches and the gaps
 * between them both becoming parts. They are facts of the models; llama.cpp's are followed exactly.
 */
import { TokenizerError } from "./errors.js";

// JavaScript's \s has U+FEFF and lacks U+0085; the models' expressions mean Unicode's White_Space.
const ws = "\\p{White_Space}";
const wordEnd = `${ws}+(?!\\P{White_Space})`;

/** GPT-2's words, with and without the runs of digits that some models cut before. */
const gpt2Words = `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${ws}\\p{L}\\p{N}]+|${wordEnd}|${ws}+`;

/** Llama 3's words; Qwen2 differs in the digits that stay together. */
function llama3(digits: string): string {
  const contractions = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]";
  const letters = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
  const signs = ` ?[^${ws}\\p{L}\\p{N}]+[\\r\\n]*`;
  return `${contractions}|${letters}|${digits}|${signs}|${ws}*[\\r\\n]+|${wordEnd}|${ws}+`;
}

/** A way to cut text into words, and what a vocabulary of its kind takes for granted. */
interface PreTokenizerFacts {
  readonly expressions: readonly string[];
  /** A word that is a token as a whole is that token, whatever merging would give. */
  readonly ignoreMerges: boolean;
  /** A prompt begins with BOS unless the file says otherwise. */
  readonly addBos: boolean;
}

function facts(expressions: readonly string[], llamaBpe = false): PreTokenizerFacts {
  return { expressions, ignoreMerges: llamaBpe, addBos: llamaBpe };
}

const digitsAloneWords = facts(["\\p{N}", gpt2Words]);
const llamaBpeWords = facts([llama3("\\p{N}{1,3}")], true);
const qwen2Words = facts([llama3("\\p{N}")]);

/** By `tokenizer.ggml.pre`. */
const byName: ReadonlyMap<string, PreTokenizerFacts> = new Map([
  ["default", facts(["[\\p{P}$+<=>^~|]+", gpt2Words, "\\p{N}+", "[0-9][0-9][0-9]"])],
  ["gpt-2", facts([gpt2Words])],
  ["smollm", digitsAloneWords],
  ["starcoder", digitsAloneWords],
  ["llama-bpe", llamaBpeWords],
  ["llama3", llamaBpeWords],
  ["llama-v3", llamaBpeWords],
  ["qwen2", qwen2Words],
  ["deepseek-r1-qwen", qwen2Words],
]);

/** Names of all pre-tokenizers. */
export const preTokenizerNames: readonly string[] = [...byName.keys()];

/** Cuts text into words. */
export interface PreTokenizer extends PreTokenizerFacts {
  /** The words of `text`, in order; together they are the text. */
  split(text: string): readonly string[];
}

function cut(parts: readonly string[], expression: RegExp): string[] {
  const words: string[] = [];
  for (const part of parts) {
    let end = 0;
    expression.lastIndex = 0;
    for (let match = expression.exec(part); match !== null; match = expression.exec(part)) {
      if (match.index > end) words.push(part.slice(end, match.index));
      words.push(match[0]);
      end = expression.lastIndex;
    }
    if (end < part.length) words.push(part.slice(end));
  }
  return words;
}

/** The pre-tokenizer of a name. Throws TokenizerError `vocabulary` for one that is not known. */
export function preTokenizer(name: string): PreTokenizer {
  const found = byName.get(name);
  if (found === undefined) {
    throw new TokenizerError(
      "vocabulary",
      `pre-tokenizer ${JSON.stringify(name.slice(0, 80))} is not supported, only ${preTokenizerNames.join(", ")}`,
    );
  }
  const expressions = found.expressions.map((source) => new RegExp(source, "gu"));
  return { ...found, split: (text) => expressions.reduce(cut, [text]) };
}
