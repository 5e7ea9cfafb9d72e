/**
 * Proves the judge before it judges: the oracle against llama.cpp, which nobody here wrote. With
 * weights and cache in F32 both sides differ by f32 rounding only; with other weights llama.cpp also
 * rounds activations, as its build for the processor likes, which bounds what can be seen.
 */
import { afterAll, describe, expect, it } from "vitest";
import { parityCases } from "../oracle/cases.js";
import type { ParityCase } from "../oracle/cases.js";
import { logitError, topTwo } from "../oracle/compare.js";
import { Oracle, logitsAt } from "../oracle/oracle.js";
import { writeRandomModel } from "../oracle/random-model.js";
import type { TensorType } from "../oracle/tensor-types.js";
import { LlamaCpp, llamaCpp } from "./llama-cpp.js";
import { missing, stories260k, temporaryFolder, titled } from "./peers.js";

/**
 * RMS difference of log-probabilities that arithmetic explains, per weight type; logits deviate by 3.
 * Measured: 1e-6 to 4e-6 (F32), 0.003 (F16: activations in 11 bits of mantissa where llama.cpp's build
 * for the processor multiplies f16 by f16, else as F32), 0.03 (BF16: 8 bits), 0.06 to 0.12 (quantised
 * activations).
 */
const rmsMax: Readonly<Record<TensorType, number>> = {
  F32: 2e-5,
  F16: 0.0075,
  BF16: 0.06,
  Q8_0: 0.2,
  Q4_0: 0.2,
  Q4_1: 0.2,
};

/** F32 proves the most, so all that there is in F16 in F32, too; of the other types the special cases. */
const cases = parityCases.flatMap((parityCase): ParityCase[] => {
  const { name, spec } = parityCase;
  if (spec.type === "F16") {
    const exact = { ...spec, type: "F32" as const };
    return [parityCase, { ...parityCase, name: name.replace("F16", "F32"), spec: exact }];
  }
  return spec.type === "F32" || !name.includes("grouped") ? [parityCase] : [];
});

const folder = temporaryFolder("oracle-proof");
afterAll(() => folder.remove());

describe.skipIf(missing(llamaCpp))(titled("the oracle agrees with llama.cpp", llamaCpp), () => {
  it.each(cases)("on $name", async ({ spec, tokens }) => {
    const path = folder.path("model.gguf");
    writeRandomModel(path, spec);
    const expected = new Oracle(path).logits(tokens);
    const peer = await LlamaCpp.load(path, { cacheType: "F32" });
    try {
      const error = logitError(await peer.logits(tokens), expected);
      expect(error.rms).toBeLessThan(rmsMax[spec.type]);
    } finally {
      await peer.dispose();
    }
  });
});

describe.skipIf(missing(llamaCpp, stories260k))(
  titled("the oracle tells llama.cpp's story", llamaCpp, stories260k),
  () => {
    it("token for token", async () => {
      const peer = await LlamaCpp.load(stories260k.path);
      try {
        const tokens = [1, ...(await peer.greedy([1], 200))];
        expect(peer.detokenize(tokens.slice(1)).trimStart()).toMatch(
          /^Once upon a time, there was a little girl named Lily\./,
        );
        const oracle = new Oracle(stories260k.path).logits(tokens);
        // The smallest lead on the way is 0.004: nothing is left to the margin rule.
        const best = tokens.slice(1).map((_, i) => topTwo(logitsAt(oracle, i)).token);
        expect(best).toEqual(tokens.slice(1));
      } finally {
        await peer.dispose();
      }
    });
  },
);
