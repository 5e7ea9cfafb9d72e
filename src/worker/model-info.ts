/** What ModelService reports of a loaded model, as far as its engine knows. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { LoadedEngine } from "../engine/load-engine.js";
import type { ModelInfoSchema } from "../gen/leanedge/v1/model_pb.js";

/** The model's facts; its plans are the worker's to say. */
export function modelInfo(loaded: LoadedEngine): MessageInitShape<typeof ModelInfoSchema> {
  const { engine, modelFile } = loaded;
  return {
    architecture: modelFile.config.architecture,
    parameterCount: BigInt(loaded.parameterCount),
    contextTokensMax: engine.contextTokensMax,
    fileBytes: BigInt(modelFile.sizeBytes),
    fingerprint: loaded.fingerprint,
  };
}
