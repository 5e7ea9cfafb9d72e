/** What models there are: the configuration says which, their engines say what they are. */
import { clone, create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorFields } from "../log/log-line.js";
import { log } from "./log.js";
import { ModelInfoSchema } from "../gen/leanedge/v1/model_pb.js";
import type { ModelInfo } from "../gen/leanedge/v1/model_pb.js";
import type { GatewayEnv } from "./bindings.js";
import { gatewayConfig } from "./config.js";
import type { ModelConfig } from "./config.js";
import { unavailable } from "./errors.js";
import {
  catalogueAsksMax,
  catalogueTtlMs,
  workerProbeMsMax,
  workerUnaryTimeoutMs,
} from "./limits.js";
import type { SamplingDefaults } from "./objects/request-rules.js";
import type { GetStatusResponse } from "../gen/leanedge/worker/v1/worker_pb.js";
import { engineDirectory } from "./worker-client/directory.js";
import type { WorkerPlace } from "./worker-client/directory.js";

interface Known {
  readonly info: ModelInfo;
  readonly expiresMs: number;
}

/** What engines said, per model. Plain data: any request of the isolate may read it. */
const known = new Map<string, Known>();

/**
 * One model in full. Asks a worker that serves it, which loads the model if it has not; the answer holds for
 * catalogueTtlMs, and longer where no worker answers after that. Throws UNAVAILABLE if none ever did.
 * @param bound worker of the session that asks: it comes first, and needs no pool
 */
export async function modelInfo(
  env: GatewayEnv,
  entry: ModelConfig,
  bound?: WorkerPlace,
): Promise<ModelInfo> {
  const remembered = known.get(entry.model);
  if (remembered !== undefined && remembered.expiresMs > Date.now()) {
    return remembered.info;
  }
  const status =
    (await askBound(env, entry, bound)) ??
    (await askForStatus(env, entry, remembered !== undefined));
  const served = status?.models.find((model) => model.model === entry.model);
  if (served === undefined) {
    if (remembered !== undefined) {
      known.set(entry.model, { ...remembered, expiresMs: Date.now() + catalogueTtlMs });
      return remembered.info;
    }
    throw unavailable(
      status === undefined
        ? `the engine of model "${entry.model}" does not answer`
        : `the engine of model "${entry.model}" does not serve it`,
    );
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

/** Status of a session's own worker, if only a pool could name it otherwise; undefined unless it serves the model. */
async function askBound(
  env: GatewayEnv,
  entry: ModelConfig,
  bound: WorkerPlace | undefined,
): Promise<GetStatusResponse | undefined> {
  if (bound === undefined || bound.worker === "" || bound.address === "") {
    return undefined;
  }
  try {
    const status = await engineDirectory(env)
      .open(bound.worker, bound.address)
      ?.getStatus({}, { timeoutMs: workerProbeMsMax });
    return status?.models.some(({ model }) => model === entry.model) === true ? status : undefined;
  } catch (error) {
    log("warn", "worker.silent", {
      worker: bound.worker,
      model: entry.model,
      ...errorFields(error),
    });
    return undefined;
  }
}

/** Status of a worker of a model. The last that is asked, and an only one, has time to load its model. */
async function askForStatus(
  env: GatewayEnv,
  entry: ModelConfig,
  hasOld: boolean,
): Promise<GetStatusResponse | undefined> {
  const directory = engineDirectory(env);
  const places = (await directory.served(entry.model)).slice(0, catalogueAsksMax);
  for (const [index, { worker, address }] of places.entries()) {
    const patient = !hasOld && index === places.length - 1;
    try {
      return await directory
        .open(worker, address)
        ?.getStatus({}, { timeoutMs: patient ? workerUnaryTimeoutMs : workerProbeMsMax });
    } catch (error) {
      log("warn", "worker.silent", { worker, model: entry.model, ...errorFields(error) });
    }
  }
  return undefined;
}

/** What a model says about sampling; `bound` as for modelInfo. */
export async function modelDefaults(
  env: GatewayEnv,
  model: string,
  bound?: WorkerPlace,
): Promise<SamplingDefaults> {
  const entry = gatewayConfig(env).models.find((candidate) => candidate.model === model);
  if (entry === undefined) {
    throw new ConnectError(`there is no model "${model}"`, Code.NotFound);
  }
  const info = await modelInfo(env, entry, bound);
  return { sampling: info.sampling, contextTokensMax: info.contextTokensMax };
}
