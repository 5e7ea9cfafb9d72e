/** Prompts of an exact number of tokens, whatever the vocabulary: text, because wllama takes text only. */
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readModelFile } from "../../src/engine/gguf/index.js";
import { Tokenizer } from "../../src/engine/tokenizer/index.js";

/** Plain English, to be told again and again. */
const story = `The harbour lay quiet under a thin morning fog. Two boats had come in before
dawn, and their crews sat on the wall with bread and tea, talking about the wind. An old woman from
the lighthouse walked along the quay with a basket on her arm. She stopped at every boat, asked
what it had caught, and wrote the answer into a small green book. Nobody knew why she did it, and
nobody asked. Her father had kept the same book, and his mother before him, and some said that the
first page was older than the church. When the fog lifted, the children came down from the school
on the hill to count the gulls on the roof of the market. The teacher told them that a careful
count, made every day at the same hour, was worth more than a clever guess made once. So they
counted, and argued, and counted again. At noon the bell rang, the boats went out, and the woman
with the green book turned to go home. That day, however, she did not reach the lighthouse.`.replace(
  /\s+/g,
  " ",
);

/** A text and its ids, the beginning-of-sequence token included. */
export type Prompt = { text: string; ids: readonly number[] };

/** The tokenizer of a model file. */
export async function tokenizerOf(modelPath: string): Promise<Tokenizer> {
  const source = await openFileSource(modelPath);
  try {
    return new Tokenizer((await readModelFile(source)).vocabulary);
  } finally {
    await source.close();
  }
}

/** Beginnings of the story to try. */
const beginningsMax = 40;

/** A prompt of exactly `tokens` tokens. Throws where no cut of the story gives that many. */
export function promptOf(tokenizer: Tokenizer, tokens: number): Prompt {
  const encode = (text: string): number[] =>
    tokenizer.encodePieces([{ text, special: false }], { start: true });
  const whole = Array.from(
    { length: Math.ceil(tokens / 100) + 1 },
    (_, i) => `Day ${i + 1}. ${story}`,
  ).join(" ");
  const guess = Math.round((tokens * whole.length) / encode(whole).length);
  // The number of tokens may skip the wanted one as a text grows; then another beginning may do.
  for (let begin = 0; begin < beginningsMax; begin++) {
    for (let shift = 0; shift < guess / 4; shift++) {
      for (const length of [guess + shift, guess - shift]) {
        const text = whole.slice(begin, begin + length);
        // Peers trim spaces in ways of their own.
        if (text.trim() !== text) continue;
        const ids = encode(text);
        if (ids.length === tokens) return { text, ids };
      }
    }
  }
  throw new Error(`no prompt of ${tokens} tokens`);
}
