/**
 * Our tokenizer against llama.cpp's, token for token: on real models, and on vocabularies made so
 * that every cut between two words shows, one for each pre-tokenizer.
 */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { embeddedFile } from "../../src/embedded-model.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readModelFile } from "../../src/engine/gguf/index.js";
import { byteChars } from "../../src/engine/tokenizer/byte-alphabet.js";
import { Tokenizer } from "../../src/engine/tokenizer/index.js";
import { randomTexts, trickyTexts } from "../../src/engine/tokenizer/testing/texts.js";
import { ggufBytes } from "../oracle/gguf.js";
import type { MetadataValue } from "../oracle/gguf.js";
import { LlamaCppVocabulary } from "./llama-cpp-vocabulary.js";
import { llamaCpp } from "./llama-cpp.js";
import { missing, smolLm2, stories260k, temporaryFolder, titled } from "./peers.js";
import type { Need } from "./peers.js";

/** llama.cpp builds its tables anew for each vocabulary: seconds each on a busy machine. */
const timeoutMs = 120_000;

const seed = {
  path: fileURLToPath(new URL(`../../${embeddedFile}`, import.meta.url)),
  present: true,
  remedy: "",
};

const folder = temporaryFolder("tokenizer");
afterAll(() => folder.remove());

/** Texts on which both sides differ. */
function differences(
  ours: Tokenizer,
  peer: LlamaCppVocabulary,
  texts: readonly string[],
): string[] {
  return texts.flatMap((text) =>
    [false, true]
      .filter((parseSpecial) => {
        const expected = peer.tokenize(text, parseSpecial).join();
        return ours.encode(text, { parseSpecial }).join() !== expected;
      })
      .map((parseSpecial) => `${JSON.stringify(text)} parseSpecial=${parseSpecial}`),
  );
}

const models: [name: string, need: Need & { path: string }][] = [
  ["the seed", seed],
  ["stories260K", stories260k],
  ["SmolLM2", smolLm2],
];

for (const [name, need] of models) {
  describe.skipIf(missing(llamaCpp, need))(
    titled(`${name}'s tokens are llama.cpp's`, llamaCpp, need),
    () => {
      it(
        "for tricky and for random texts, and in what ends generation",
        { timeout: timeoutMs },
        async () => {
          const source = await openFileSource(need.path);
          const ours = new Tokenizer((await readModelFile(source)).vocabulary);
          await source.close();
          const peer = await LlamaCppVocabulary.load(need.path);
          try {
            expect(differences(ours, peer, trickyTexts)).toEqual([]);
            expect(differences(ours, peer, randomTexts(7, 1_500, 24))).toEqual([]);
            const ids = Array.from({ length: ours.facts.vocabSize }, (_, id) => id);
            expect(ids.filter((id) => ours.endsGeneration(id))).toEqual(
              ids.filter((id) => peer.endsGeneration(id)),
            );
          } finally {
            await peer.dispose();
          }
        },
      );
    },
  );
}

/**
 * A vocabulary in which any two bytes merge, so that tokens end where words end (or one byte before).
 */
function pairVocabulary(pre: string): Map<string, MetadataValue> {
  const pairs = byteChars.flatMap((left) => byteChars.map((right) => [left, right] as const));
  const tokens = [...byteChars, ...pairs.map((pair) => pair.join("")), "<|im_end|>"];
  const types = tokens.map((_, id) => (id === tokens.length - 1 ? 3 : 1));
  const u32 = (value: number): MetadataValue => ({ type: "u32", value });
  return new Map<string, MetadataValue>([
    ["general.architecture", { type: "string", value: "llama" }],
    ["llama.context_length", u32(64)],
    ["llama.embedding_length", u32(32)],
    ["llama.block_count", u32(1)],
    ["llama.feed_forward_length", u32(32)],
    ["llama.attention.head_count", u32(2)],
    ["llama.attention.layer_norm_rms_epsilon", { type: "f32", value: 1e-5 }],
    ["tokenizer.ggml.model", { type: "string", value: "gpt2" }],
    ["tokenizer.ggml.pre", { type: "string", value: pre }],
    ["tokenizer.ggml.tokens", { type: "strings", value: tokens }],
    ["tokenizer.ggml.token_type", { type: "i32s", value: types }],
    ["tokenizer.ggml.merges", { type: "strings", value: pairs.map((pair) => pair.join(" ")) }],
    ["tokenizer.ggml.bos_token_id", u32(0)],
    ["tokenizer.ggml.eos_token_id", u32(tokens.length - 1)],
  ]);
}

/** Planes and blocks to look at: the first plane, and old blocks of letters and signs beyond it. */
const ranges: readonly (readonly [number, number])[] = [
  [0, 0xffff],
  [0x10000, 0x100ff],
  [0x1d400, 0x1d7ff],
  [0x1f300, 0x1f6ff],
  [0x20000, 0x200ff],
];

/**
 * Code points that became letters or digits after llama.cpp's tables were made (Unicode 16 and 17).
 * Ours follow the runtime's.
 */
const newLetters =
  /[\u088f\u0c5c\u0cdc\u1b4e\u1b4f\u1b7f\u1c89\u1c8a\ua7cb-\ua7cf\ua7d2\ua7d4\ua7da-\ua7dc\ua7f1]/;

/** Every third code point, from `start`, between letters, digits, spaces and signs, some to a text. */
function codePointTexts(start: number): string[] {
  const words = ranges
    .flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, i) => first + i))
    .filter((code) => code % 3 === start && (code < 0xd800 || code > 0xdfff))
    .map((code) => String.fromCodePoint(code))
    .filter((char) => !newLetters.test(char))
    .map((char) => `x${char}y ${char}1${char}${char} ?`);
  const perText = 16;
  return Array.from({ length: Math.ceil(words.length / perText) }, (_, i) =>
    words.slice(i * perText, (i + 1) * perText).join("\n"),
  );
}

describe.skipIf(missing(llamaCpp))(titled("words are cut as llama.cpp cuts them", llamaCpp), () => {
  const names = ["smollm", "llama-bpe", "qwen2", "gpt-2", "default"];
  it.each(names)("by %s", { timeout: timeoutMs }, async (pre) => {
    const metadata = pairVocabulary(pre);
    const path = folder.path(`${pre}.gguf`);
    writeFileSync(path, ggufBytes({ metadata, tensors: [] }));
    const text = (key: string) => metadata.get(`tokenizer.ggml.${key}`)?.value;
    const tokens = text("tokens") as string[];
    const ours = new Tokenizer({
      model: "gpt2",
      pre,
      tokens,
      types: Uint8Array.from(text("token_type") as number[]),
      scores: new Float32Array(0),
      merges: text("merges") as string[],
      named: { bos: 0, eos: tokens.length - 1 },
      addBos: undefined,
      addSpacePrefix: undefined,
    });
    const peer = await LlamaCppVocabulary.load(path);
    try {
      expect(differences(ours, peer, trickyTexts)).toEqual([]);
      expect(differences(ours, peer, randomTexts(11, 1_000, 20))).toEqual([]);
      expect(differences(ours, peer, codePointTexts(names.indexOf(pre) % 3))).toEqual([]);
    } finally {
      await peer.dispose();
    }
  });
});
