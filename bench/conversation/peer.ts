/**
 * Is an odd answer ours or the model's? Holds the conversation in the bare engine and asks llama.cpp, which is
 * given the same log, for its own best token at every place where the engine drew one:
 * `npx tsx bench/conversation/peer.ts [MODEL] [QUESTIONS]`.
 */
import type { Engine } from "../../src/engine/engine.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { loadEngine } from "../../src/engine/load-engine.js";
import { readEngineModule } from "../../src/engine/wasm/node-module.js";
import { resolveModel } from "../../src/pull/index.js";
import { LlamaCpp } from "../../test/peers/llama-cpp.js";
import { createModelCodec } from "../../src/worker/model-codec.js";
import type { TextCodec } from "../../src/worker/text-codec.js";
import { questions, system } from "./questions.js";

const maxTokens = 256;
const memoryBytesMax = 512 * 1024 * 1024;
/** Rows x layers of one step: no question is longer. */
const workMax = 1_000_000;

/** The log of a conversation, and what was drawn after which position. */
type Log = { readonly ids: number[]; readonly drawn: Map<number, number> };

async function converse(engine: Engine, codec: TextCodec, count: number): Promise<Log> {
  const sequence = engine.createSequence();
  const ids: number[] = [];
  const drawn = new Map<number, number>();
  for (const [index, content] of questions.slice(0, count).entries()) {
    const prompt =
      index === 0
        ? codec.encodeFirst([
            { role: "system", content: system },
            { role: "user", content },
          ])
        : codec.encodeContinuation([{ role: "user", content }]);
    engine.append(sequence, "prompt", prompt);
    ids.push(...prompt);
    for (let tokens = 0; tokens < maxTokens; tokens += 1) {
      const [result] = await engine.step([{ sequence, workMax, sample: true }]);
      if (result?.error !== undefined) throw result.error;
      if (result?.token === undefined) throw new Error("the engine drew no token");
      drawn.set(ids.length - 1, result.token);
      if (codec.isEnd(result.token)) {
        // The end of an answer is no part of the log.
        engine.truncate(sequence, ids.length);
        break;
      }
      ids.push(result.token);
    }
  }
  return { ids, drawn };
}

const { path } = await resolveModel(process.argv[2] ?? "smollm2-135m-instruct");
const source = await openFileSource(path);
const loaded = await loadEngine({
  source,
  module: await readEngineModule("wasm"),
  memoryBytesMax,
  sequencesMax: 1,
});
const { ids, drawn } = await converse(
  loaded.engine,
  createModelCodec(loaded),
  Number(process.argv[3] ?? questions.length),
);
loaded.engine.close();
await source.close();

const peer = await LlamaCpp.load(path, { contextTokens: 2048 });
let same = 0;
const behind: number[] = [];
await peer.visitLogits(
  ids,
  (position) => drawn.has(position),
  (position, logits) => {
    const best = Math.max(...logits.values());
    const ours = logits.get(drawn.get(position) ?? -1) ?? -Infinity;
    if (ours === best) same += 1;
    else behind.push(best - ours);
  },
);
await peer.dispose();
behind.sort((a, b) => a - b);
const middle = behind[Math.floor(behind.length / 2)] ?? 0;
console.log(
  `${ids.length} tokens in the log; of ${drawn.size} drawn ones llama.cpp would have drawn ${same} too. ` +
    `Where not, ours is ${middle.toFixed(2)} behind its best logit (median), ${(behind.at(-1) ?? 0).toFixed(2)} at most.`,
);
