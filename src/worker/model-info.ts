/** What ModelService reports of a loaded model, as far as its engine knows. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { LoadedEngine } from "../engine/load-engine.js";
import type { ModelInfoSchema } from "../gen/leanedge/v1/model_pb.js";

/** The model's facts, with the sizes of each plan as the engine allocates them. */
export function modelInfo(loaded: LoadedEngine): MessageInitShape<typeof ModelInfoSchema> {
  const { engine, modelFile } = loaded;
  const { cacheBytes } = engine.stats();
  return {
    architecture: modelFile.config.architecture,
    parameterCount: BigInt(loaded.parameterCount),
    contextTokensMax: engine.contextTokensMax,
    fileBytes: BigInt(modelFile.sizeBytes),
    fingerprint: loaded.fingerprint,
    plans: engine.plans.map((plan) => ({
      name: plan.name,
      fingerprint: plan.fingerprint,
      contextTokensMin: 0,
      contextTokensMax: engine.contextTokensMax,
      archiveBytesPerToken: plan.pageBytes / 32,
      pageBytes: BigInt(plan.pageBytes),
      sequenceBytes: BigInt(plan.sequenceBytes),
      contextTokensBudget: largestContext(loaded, plan.index, cacheBytes),
    })),
  };
}

/** Longest context of one sequence that the cache memory holds. */
function largestContext({ engine }: LoadedEngine, plan: number, cacheBytes: number): number {
  let fits = 0;
  let tooLong = engine.contextTokensMax + 1;
  while (tooLong - fits > 1) {
    const middle = Math.floor((fits + tooLong) / 2);
    if (engine.sequenceCacheBytes(plan, middle) <= cacheBytes) fits = middle;
    else tooLong = middle;
  }
  return fits;
}
