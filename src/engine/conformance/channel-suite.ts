/** A plan's channel indices name the same channels whatever order a file stores Q and K in. */
import { describe, expect, it } from "vitest";
import { ggufBytes } from "../../../test/oracle/gguf.js";
import { randomModel, randomModelBytes } from "../../../test/oracle/random-model.js";
import type { CachePlan } from "../plan/plan.js";
import {
  drawMany,
  openEngineOf,
  openSequence,
  randomIds,
  type Drawn,
  type SuiteModule,
} from "./engine-bench.js";
import { firstDifference } from "./expectations.js";
import { planCases, planZones, prunableModel } from "./plan-cases.js";

/**
 * The weights of the prunable model as a qwen2 file: Q and K in half-rotation order, biases 0. The
 * seed gives both architectures the same rows.
 */
function halfRotationFile(): Uint8Array {
  const { metadata, tensors } = randomModel({ ...prunableModel, architecture: "qwen2" });
  const unbiased = tensors.map((tensor) =>
    tensor.name.endsWith(".bias")
      ? { ...tensor, bytes: () => new Uint8Array(tensor.bytes().length) }
      : tensor,
  );
  return ggufBytes({ metadata, tensors: unbiased });
}

/** Channel numbers as an interleaved file counts them: what a plan must not be read as. */
function misread(plan: CachePlan): CachePlan {
  const half = plan.headDim / 2;
  const wrong = (channel: number): number =>
    channel < half ? 2 * channel : 2 * (channel - half) + 1;
  return {
    ...plan,
    name: "misread",
    kept: plan.kept.map((layer) =>
      layer.map((channels) => channels.map(wrong).sort((a, b) => a - b)),
    ),
  };
}

/** Runs the suite on a module. */
export function runChannelSuite(module: () => Promise<SuiteModule>): void {
  describe("files with Q and K in interleaved and in half-rotation order", () => {
    const pruned = planCases.filter(({ name }) => name.startsWith("LeanK"));
    const ids = randomIds(100, 8).map((id) => id % prunableModel.vocabulary);

    async function play(file: Uint8Array, plan: CachePlan): Promise<Drawn[]> {
      const engine = await openEngineOf(await module(), file, { plans: [plan], ...planZones });
      const sequence = openSequence(engine, [{ kind: "prompt", ids }], undefined, 1);
      return drawMany(engine, sequence, 12);
    }

    it.each(pruned)("give the same bits under $name", async (plan) => {
      const interleaved = await play(randomModelBytes(prunableModel), plan);
      const half = await play(halfRotationFile(), plan);
      half.forEach(({ token, logits }, i) => {
        expect(token).toBe(interleaved[i]?.token);
        expect(firstDifference(logits, interleaved[i]?.logits ?? [])).toBe(-1);
      });
    });

    it("would not, were a plan read in the file's order", async () => {
      const plan = pruned[0];
      if (plan === undefined) throw new RangeError("no plan prunes");
      const right = await play(randomModelBytes(prunableModel), plan);
      const wrong = await play(randomModelBytes(prunableModel), misread(plan));
      expect(firstDifference(wrong[5]?.logits ?? [], right[5]?.logits ?? [])).not.toBe(-1);
    });
  });
}
