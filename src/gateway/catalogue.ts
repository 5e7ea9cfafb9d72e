/** What models there are: the configuration says which, their engines say what they are. */
import { clone, create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { ModelInfoSchema } from "../gen/leanedge/v1/model_pb.js";
import type { ModelInfo } from "../gen/leanedge/v1/model_pb.js";
import type { GatewayEnv } from "./bindings.js";
import { gatewayConfig } from "./config.js";
import type { ModelConfig } from "./config.js";
import { unavailable } from "./errors.js";
import { catalogueTtlMs, workerUnaryTimeoutMs } from "./limits.js";
import type { SamplingDefaults } from "./objects/request-rules.js";
import { engineDirectory, workersOf } from "./worker-client/directory.js";

interface Known {
  readonly info: ModelInfo;
  readonly expiresMs: number;
}

/** What engines said, per model. Plain data: any request of the isolate may read it. */
const known = new Map<string, Known>();

/**
 * One model in full. Asks its first engine, which loads the model if it has not; the answer holds for catalogueTtlMs.
 * Throws UNAVAILABLE if the engine does not answer.
 */
export async function modelInfo(env: GatewayEnv, entry: ModelConfig): Promise<ModelInfo> {
  const remembered = known.get(entry.model);
  if (remembered !== undefined && remembered.expiresMs > Date.now()) {
    return remembered.info;
  }
  const [first = ""] = workersOf(gatewayConfig(env), entry);
  const worker = engineDirectory(env).open(first);
  if (worker === undefined) {
    throw new Error(`model ${entry.model} has no engine`);
  }
  let status;
  try {
    status = await worker.getStatus({}, { timeoutMs: workerUnaryTimeoutMs });
  } catch (error) {
    console.warn(`the engine of model ${entry.model} does not answer:`, error);
    throw unavailable(`the engine of model "${entry.model}" does not answer`);
  }
  const served = status.models.find((model) => model.model === entry.model);
  if (served === undefined) {
    throw unavailable(`the engine of model "${entry.model}" does not serve it`);
  }
  const info =
    served.info === undefined ? create(ModelInfoSchema) : clone(ModelInfoSchema, served.info);
  info.model = entry.model;
  info.isDefault = entry === gatewayConfig(env).models[0];
  info.displayName = entry.displayName;
  info.contextTokensMax = served.contextTokensMax;
  info.fingerprint ||= served.fingerprints?.model ?? "";
  known.set(entry.model, { info, expiresMs: Date.now() + catalogueTtlMs });
  return info;
}

/** What a model says about sampling. */
export async function modelDefaults(env: GatewayEnv, model: string): Promise<SamplingDefaults> {
  const entry = gatewayConfig(env).models.find((candidate) => candidate.model === model);
  if (entry === undefined) {
    throw new ConnectError(`there is no model "${model}"`, Code.NotFound);
  }
  const info = await modelInfo(env, entry);
  return { sampling: info.sampling, contextTokensMax: info.contextTokensMax };
}
