/** A worker and its client in one process, as the tests of this folder use them. */
import { createClient, createRouterTransport, type Client } from "@connectrpc/connect";
import type { Engine } from "../../engine/engine.js";
import { WorkerService } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { WorkerConfig } from "../worker-config.js";
import { startWorker, type RunningWorker } from "../worker-service.js";
import { byteCodec } from "./byte-codec.js";
import { modelGeometry } from "./model-engine.js";

/** What openWorker opened. */
export interface OpenWorker {
  readonly worker: RunningWorker;
  readonly client: Client<typeof WorkerService>;
}

/** Serves `engine` as model "m" of bytes, without plans of its own unless `config` says otherwise. */
export function openWorker(engine: Engine, config: Partial<WorkerConfig> = {}): OpenWorker {
  const worker = startWorker({
    name: "w1",
    model: "m",
    engine,
    codec: byteCodec,
    geometry: modelGeometry,
    plans: [],
    modelFingerprint: "model",
    info: {},
    yieldToHost: () => new Promise((resolve) => setImmediate(resolve)),
    nowUs: () => performance.now() * 1000,
    ...config,
  });
  const transport = createRouterTransport((router) => {
    router.service(WorkerService, worker.service);
  });
  return { worker, client: createClient(WorkerService, transport) };
}
