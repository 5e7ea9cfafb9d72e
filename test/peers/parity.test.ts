/**
 * The engine against llama.cpp, with the oracle between them: on random weights of every kind that
 * leanedge reads, on a small real model token for token, and on a real instruct model through its
 * chat template. Both backends that run in Node are held to the same bounds.
 */
import { afterAll, describe, expect, it } from "vitest";
import { parityCases } from "../oracle/cases.js";
import type { ParityCase } from "../oracle/cases.js";
import { logitError, topTwo } from "../oracle/compare.js";
import type { LogitError } from "../oracle/compare.js";
import { Oracle, logitsAt } from "../oracle/oracle.js";
import type { Logits } from "../oracle/oracle.js";
import { writeRandomModel } from "../oracle/random-model.js";
import { EngineUnderTest, backends } from "./engine-under-test.js";
import { LlamaCpp, llamaCpp } from "./llama-cpp.js";
import { compareGreedy, errorRatioMax, largestErrorRatioMax } from "./peers.js";
import { missing, smolLm2, stories260k, temporaryFolder, titled } from "./peers.js";

/** Prompt lengths around the borders of a page of 32 slots. */
const prefillLengths = [1, 32, 33, 72];

/** A case takes a second; a machine that is busy with other tests may need many. */
const caseTimeoutMs = 120_000;

/** The real model is slow in the oracle: 135M weights, every sum in JavaScript. */
const realModelTimeoutMs = 600_000;

const folder = temporaryFolder("parity");
afterAll(() => folder.remove());

/**
 * llama.cpp's error, without and with flash attention, as it may be run. The lower RMS of the two is
 * what ours is compared with. A maximum is one sample, and which of 30,000 values it is depends on
 * the processor that llama.cpp finds: there the larger one counts.
 */
async function peerError(
  path: string,
  tokens: readonly number[],
  oracle: Logits,
): Promise<LogitError> {
  const errors: LogitError[] = [];
  for (const flashAttention of [false, true]) {
    const peer = await LlamaCpp.load(path, { flashAttention });
    try {
      errors.push(logitError(await peer.logits(tokens), oracle));
    } finally {
      await peer.dispose();
    }
  }
  return {
    rms: Math.min(...errors.map(({ rms }) => rms)),
    max: Math.max(...errors.map(({ max }) => max)),
    spread: Math.max(...errors.map(({ spread }) => spread)),
  };
}

async function judgeBackends({ spec, tokens }: ParityCase): Promise<void> {
  const path = folder.path("model.gguf");
  writeRandomModel(path, spec);
  const oracle = new Oracle(path).logits(tokens);
  const allowed = await peerError(path, tokens, oracle);
  for (const backend of backends) {
    const engine = await EngineUnderTest.load(path, backend);
    try {
      const decoded = await engine.decodeLogits(tokens);
      const error = logitError(decoded, oracle);
      expect(error.rms, `${backend}: RMS error`).toBeLessThanOrEqual(errorRatioMax * allowed.rms);
      expect(error.max, `${backend}: largest error`).toBeLessThanOrEqual(
        largestErrorRatioMax * allowed.max,
      );
      const greedy = compareGreedy(decoded, oracle, allowed.spread);
      expect(greedy.faults, `${backend}: greedy tokens`).toEqual([]);
      expect(greedy.decided, `${backend}: positions decided`).toBeGreaterThan(tokens.length / 8);
      for (const length of prefillLengths) {
        const prefilled = await engine.prefillLogits(tokens.slice(0, length));
        // Rows do not depend on the batch they are computed in: equal to the last bit.
        expect(Buffer.from(prefilled.values.buffer).equals(rowBytes(decoded, length - 1))).toBe(
          true,
        );
      }
    } finally {
      engine.close();
    }
  }
}

function rowBytes(logits: Logits, position: number): Buffer {
  return Buffer.from(Float64Array.from(logitsAt(logits, position)).buffer);
}

describe.skipIf(missing(llamaCpp))(
  titled("on random weights the engine errs no more than llama.cpp", llamaCpp),
  () => {
    it.each(parityCases)("$name", judgeBackends, caseTimeoutMs);
  },
);

describe.skipIf(missing(llamaCpp, stories260k))(
  titled("on stories260K the engine tells llama.cpp's story", llamaCpp, stories260k),
  () => {
    it.each(backends)("token for token, backend %s", async (backend) => {
      const count = 256;
      const peer = await LlamaCpp.load(stories260k.path);
      const engine = await EngineUnderTest.load(stories260k.path, backend);
      try {
        const tokens = await engine.greedy([1], count);
        expect(tokens).toEqual(await peer.greedy([1], count));
        expect(engine.loaded.tokenizer.decode(tokens, { start: true })).toMatch(
          /^Once upon a time, there was a little girl named Lily\./,
        );
      } finally {
        engine.close();
        await peer.dispose();
      }
    });
  },
);

describe.skipIf(missing(llamaCpp, smolLm2))(
  titled("SmolLM2-135M-Instruct answers as in llama.cpp", llamaCpp, smolLm2),
  () => {
    it(
      "through its own chat template, wherever the model is sure",
      async () => {
        const engine = await EngineUnderTest.load(smolLm2.path, "wasm");
        const peer = await LlamaCpp.load(smolLm2.path);
        try {
          const { template, tokenizer } = engine.loaded;
          const pieces = template.renderFirst([
            { role: "user", content: "What is the capital of France? Answer in one sentence." },
          ]);
          const prompt = tokenizer.encodePieces(pieces, { start: true });
          const rendered = pieces.map(({ text }) => text).join("");
          expect(rendered).toContain("<|im_start|>user\nWhat is the capital of France?");
          expect(prompt).toEqual(peer.tokenize(rendered));

          const answer = await peer.greedy(prompt, 24);
          expect(peer.detokenize(answer)).toContain("Paris");
          const sequence = [...prompt, ...answer.slice(0, -1)];
          const oracle = new Oracle(smolLm2.path).logits(sequence);
          const allowed = logitError(await peer.logits(sequence), oracle);
          const decoded = await engine.decodeLogits(sequence);
          const error = logitError(decoded, oracle);
          expect(error.rms).toBeLessThanOrEqual(errorRatioMax * allowed.rms);
          expect(compareGreedy(decoded, oracle, allowed.spread).faults).toEqual([]);

          // Running free, the engine may leave the peer's answer only where the lead is within the error.
          const free = await engine.greedy(prompt, answer.length);
          const parted = free.findIndex((token, i) => token !== answer[i]);
          if (parted !== -1) {
            const { margin } = topTwo(logitsAt(oracle, prompt.length - 1 + parted));
            expect(margin).toBeLessThanOrEqual(allowed.spread);
          }
          expect(tokenizer.decode(free)).toContain("Paris");
        } finally {
          engine.close();
          await peer.dispose();
        }
      },
      realModelTimeoutMs,
    );
  },
);
